"""Calibration: which pairs, which ranges, and what is refused."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnxruntime.quantization.calibrate import HistogramCollector

from edgedit.core.errors import ArtifactError, NumericsError, UsageError
from edgedit.core.pairset import PairSet
from edgedit.core.spec import DiTSpec
from edgedit.export import calibrate as module
from edgedit.export.calibrate import Histogram, calibrate, choose, find_ranges, open_pairs
from edgedit.export.check import open_session
from edgedit.export.graph import build_with_sites
from edgedit.export.int8 import Int8Settings
from edgedit.export.plan import Plan
from edgedit.model.deploy import fold

SPEC = DiTSpec(2, 32, 4, image=8, classes=3)


def histogram(values: np.ndarray) -> Histogram:
    """What the collector makes of values, fed in two parts."""
    collector = HistogramCollector(method="entropy", symmetric=True, num_bins=module.BINS, num_quantized_bins=128, percentile=100,
                                   scenario="same")
    with redirect_stdout(StringIO()):
        for part in np.array_split(values.astype(np.float32), 2):
            collector.collect({"x": part})
    return Histogram.of(collector.histogram_dict["x"])


# --- pairs --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("images", "counts"), [(48, [16, 16, 16]), (50, [17, 17, 16]), (34, [12, 11, 11])])
def test_pairs_are_balanced_and_spread(make_pairs, tmp_path, images, counts):
    """Unequal classes in the set, equal ones in the choice, from its whole length."""
    labels = np.array([0] * 90 + [1] * 60 + [2] * 50)
    pairs = PairSet.open(make_pairs(tmp_path / "p", SPEC, 200, labels))
    chosen = choose(pairs, images)
    assert np.bincount(pairs.labels(chosen)).tolist() == counts and (np.diff(chosen) > 0).all()
    first = chosen[chosen < 90]
    assert first[0] == 0 and first[-1] > 75 and np.diff(first).max() <= np.diff(first).min() + 1


def test_short_sets_are_said(make_pairs, tmp_path):
    heard = []
    assert len(choose(PairSet.open(make_pairs(tmp_path / "p", SPEC, 60)), 512, heard.append)) == 60
    assert [e.text for e in heard if e.level == "warning"] == [
        "calibrating on 60 pairs, not 512: of some classes there are no more"]


@pytest.mark.parametrize(("labels", "images", "words"), [
    (np.zeros(64), 64, "lack whole classes"), (np.arange(20) % 3, 512, "32 pairs or more"), (np.arange(90) % 3, 6, "32 pairs or more")])
def test_too_few_pairs_are_refused(make_pairs, tmp_path, labels, images, words):
    pairs = PairSet.open(make_pairs(tmp_path / "p", SPEC, len(labels), labels))
    with pytest.raises(UsageError, match=words):
        choose(pairs, images)


@pytest.mark.parametrize("other", [DiTSpec(1, 32, 4, image=16, classes=3), DiTSpec(1, 32, 4, image=8, classes=4)])
def test_pairs_of_another_shape_show_both_sides(make_pairs, tmp_path, other):
    folder = make_pairs(tmp_path / "p", other)
    with pytest.raises(UsageError) as error:
        open_pairs(folder, SPEC)
    assert f"(3, {other.image}, {other.image}), {other.classes} classes" in str(error.value)
    assert "student: (3, 8, 8), 3 classes" in str(error.value)


def test_made_up_data_is_refused(make_pairs, tmp_path):
    """A folder of arrays, an altered pair set, noise of another convention: none is calibrated on."""
    (tmp_path / "random").mkdir()
    np.save(tmp_path / "random" / "noise.npy", np.random.default_rng(0).normal(size=(64, 3, 8, 8)))
    with pytest.raises(ArtifactError, match="not an edgedit artifact"):
        open_pairs(tmp_path / "random", SPEC)
    folder = make_pairs(tmp_path / "p", SPEC)
    with (folder / "labels-00000.npy").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x02")
    with pytest.raises(ArtifactError, match="altered"):
        open_pairs(folder, SPEC)
    uniform = np.random.default_rng(0).random((64, 3, 8, 8), np.float32)
    with pytest.raises(ArtifactError, match="not unit Gaussian"):
        open_pairs(make_pairs(tmp_path / "u", SPEC, noise=uniform), SPEC)


# --- ranges -------------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=15)
@given(arrays(np.float32, st.integers(50, 400), elements=st.floats(-100, 100, width=32)).filter(lambda a: np.abs(a).max() > 1e-3))
def test_every_method_stays_inside_what_was_seen(values):
    h = histogram(values)
    largest = float(np.abs(values).max())
    assert h.largest == pytest.approx(largest) and h.counts.sum() == len(values)
    for method in ("max", "percentile", "mse"):
        found = find_ranges({"x": h}, method)["x"]
        assert 0 < found <= h.largest + 1e-6, method
    assert find_ranges({"x": h}, "max")["x"] == h.largest


def test_methods_clip_a_lone_outlier():
    values = np.append(np.random.default_rng(0).normal(size=200_000), 40.0)
    h = {"x": histogram(values)}
    assert find_ranges(h, "max")["x"] == 40
    assert find_ranges(h, "percentile", 99.9)["x"] == pytest.approx(np.quantile(np.abs(values), 0.999), rel=0.02)
    assert 15 < find_ranges(h, "mse")["x"] < 25                                            # (40 - 20)² against 200,000 · (20/127)²/12
    assert 3 < find_ranges(h, "entropy")["x"] < 8


def test_mse_has_the_least_error():
    """Against a search over the values themselves."""
    values = np.random.default_rng(1).laplace(size=50_000)

    def error(end: float) -> float:
        return float(np.square(values - np.clip(np.rint(values * 127 / end), -127, 127) * end / 127).mean())

    found = find_ranges({"x": histogram(values)}, "mse")["x"]
    ends = np.linspace(1, float(np.abs(values).max()), 400)
    assert error(found) <= 1.02 * min(map(error, ends))


def test_a_value_that_is_always_zero():
    assert find_ranges({"x": histogram(np.zeros(100))}, "mse") == {"x": 0.0}


def test_both_halves_of_guidance_are_seen(make_dit, make_pairs, tmp_path):
    """The largest magnitudes are those of conditional and unconditional passes together, of the chosen pairs and no others."""
    model = make_dit(SPEC)
    network = fold(model, 1.5)
    network.table.data[SPEC.null_class] *= 4                                               # the null class is the loudest
    pairs = open_pairs(make_pairs(tmp_path / "p", SPEC, 48), SPEC)
    graph, places = build_with_sites(network, Plan.of(SPEC, "fp32", "pattern", batch=None, guidance_scale=1.5))
    sites = {site: places[site] for site in ("block0/attention/qkv", "block1/mlp/down")}
    found = calibrate(graph, sites, pairs, Int8Settings(images=48, method="max"))
    session = open_session(module.with_outputs(graph, sites.values()).SerializeToString(), threads=1)
    z, c = pairs.noise(np.arange(48)), pairs.labels(np.arange(48)).astype(np.int32)
    for site, value in sites.items():
        seen = np.abs(session.run([value], {"noise": z, "labels": c})[0])
        assert found.ranges[site] == pytest.approx(seen.max(), rel=1e-5)
        assert seen[48:].max() > 1.5 * seen[:48].max()
    assert (found.images, found.per_class, found.digest) == (48, (16, 16, 16), pairs.artifact.manifest.digest)


def test_values_that_are_not_finite_are_refused(make_dit, make_pairs, tmp_path):
    network = fold(make_dit(SPEC), 1.0)
    network.blocks[0].up.bias.data[:] = 3e38
    graph, places = build_with_sites(network, Plan.of(SPEC, "fp32", "pattern", batch=None, guidance_scale=1.0))
    with pytest.raises(NumericsError, match="not finite"):
        calibrate(graph, {"block1/mlp/up": places["block1/mlp/up"]}, open_pairs(make_pairs(tmp_path / "p", SPEC), SPEC), Int8Settings())
