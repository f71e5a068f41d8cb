"""The parity ladder: its figures against hand-made differences, and the real ladder of a small student."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch

from edgedit.core.artifact import open_artifact
from edgedit.core.errors import NumericsError, OutputError, UsageError
from edgedit.core.noise import labels, noise
from edgedit.core.spec import DiTSpec
from edgedit.evaluate.parity import Limits, ParitySettings, Rung, compare
from edgedit.model.dit import DiT
from edgedit.model.runtime import TorchRuntime

SPEC = DiTSpec(1, 32, 4, image=8, classes=3)


class Painter:
    """Images from noise alone: grey levels of z·20 + 128 + offset; keeps the batches it was given."""

    def __init__(self, offset: float = 0.0, *, floats: bool = True) -> None:
        self.offset, self.calls = offset, []
        if floats:
            self.images = lambda z, c: (z * 20 + self.offset) / 127.5

    def infer(self, z, c):
        self.calls.append((z.copy(), c.copy()))
        return np.clip(z * 20 + 128 + self.offset, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def rows(body, name):
    return [r for r in body["rungs"] if r["name"] == name]


def test_known_differences():
    rungs = [Rung("first", Painter()), Rung("second", Painter(3.0)), Rung("third", Painter(3.0))]
    body = compare(rungs, SPEC, ParitySettings(images=5))
    assert (body["reference"], body["seeds"], body["images"], body["ok"]) == ("first", [0], 5, False)
    assert [(r["name"], r["against"]) for r in body["rungs"]] == [("second", "first"), ("third", "first"), ("third", "second")]
    second, _, step = body["rungs"]
    assert second["max_abs"] == pytest.approx(3 / 127.5, rel=1e-5) == second["mean_abs"]
    assert second["psnr_db"] == pytest.approx(20 * np.log10(2 / (3 / 127.5)), rel=1e-5)
    assert (second["max_levels"], second["changed_pixels_percent"], second["basis"]) == (3, 100.0, "float")
    assert second["verdict"] == "differs" and "3 levels over 1" in second["note"]
    assert (step["psnr_db"], step["max_abs"], step["max_levels"], step["verdict"]) == (None, 0.0, 0, "")


def test_grey_levels_where_floats_are_missing():
    body = compare([Rung("a", Painter()), Rung("b", Painter(2.0, floats=False))], SPEC, ParitySettings(images=4))
    [b] = body["rungs"]
    assert b["basis"] == "uint8" and b["max_abs"] == pytest.approx(2 / 127.5) and b["max_levels"] == 2


def test_every_rung_sees_the_same_noise_and_all_classes_and_ragged_batches_are_padded():
    free, fixed = Painter(), Painter()
    settings = ParitySettings(images=7, batch=3, seeds=(5, 6))
    body = compare([Rung("free", free), Rung("fixed", fixed, batch=4)], SPEC, settings)
    assert body["rungs"][0]["max_levels"] == 0 and body["images"] == 14
    assert [len(z) for z, _ in free.calls] == [3, 3, 1, 3, 3, 1]
    assert [len(z) for z, _ in fixed.calls] == [4, 4, 4, 4]
    np.testing.assert_array_equal(np.concatenate([z for z, _ in free.calls])[7:], noise(6, range(7), (3, 8, 8)))
    np.testing.assert_array_equal(np.concatenate([c for _, c in free.calls])[:7], labels(5, range(7), 3))


def test_limits_are_settings():
    settings = ParitySettings(images=2, fp32=Limits(max_levels=3, psnr_db=30.0))
    assert compare([Rung("a", Painter()), Rung("b", Painter(3.0))], SPEC, settings)["ok"]
    strict = ParitySettings(images=2, fp32=Limits(psnr_db=60.0, changed_pixels_percent=10.0, max_abs=1e-3))
    [b] = compare([Rung("a", Painter()), Rung("b", Painter(3.0), note="odd one")], SPEC, strict)["rungs"]
    assert b["note"] == ("odd one; over the limit for fp32: error 0.024 over 0.001, 100 % changed over 10 %, "
                         "38.6 dB under 60.0 dB")


def test_the_ladder_of_a_student_holds(tmp_path):
    """float64 folding is exact, float32 within a level, and the whole is kept as an artifact."""
    model, chance = DiT(SPEC), torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if name != "position":
            weight.data = 0.2 * torch.randn(weight.shape, generator=chance)
    forms = [("training form, float64", False, torch.float64, "fp64"), ("folded, float64", True, torch.float64, "fp64"),
             ("training form, float32", False, torch.float32, "fp32"), ("folded, float32", True, torch.float32, "fp32")]
    rungs = [Rung(name, TorchRuntime(copy.deepcopy(model), 1.5, folded=folded, dtype=dtype), precision)
             for name, folded, dtype, precision in forms]
    said = []
    body = compare(rungs, SPEC, ParitySettings(images=12), tmp_path / "parity", say=said.append)
    assert body["ok"], body
    assert rows(body, "folded, float64")[0]["max_abs"] < 1e-9 < rows(body, "folded, float32")[0]["max_abs"] < 1e-4
    artifact = open_artifact(tmp_path / "parity", "parity")
    assert json.loads(artifact.file("parity.json").read_text()) == body
    assert artifact.manifest.info["ok"] and artifact.manifest.spec == SPEC.to_dict()
    assert [e.text for e in said] == [f"compare: {name}" for name, *_ in forms]


@pytest.mark.parametrize("rungs", [[], [Rung("a", Painter())], [Rung("a", Painter()), Rung("a", Painter())]])
def test_too_few_or_equal_names(rungs):
    with pytest.raises(UsageError, match="two or more rungs"):
        compare(rungs, SPEC)


def test_nan_and_wrong_shapes_are_errors():
    broken = Painter()
    broken.images = lambda z, c: np.full(z.shape, np.nan)
    with pytest.raises(NumericsError, match="b makes images that are not finite"):
        compare([Rung("a", Painter()), Rung("b", broken)], SPEC, ParitySettings(images=2))
    other = Painter()
    other.infer = lambda z, c: np.zeros((len(z), 4, 4, 3), np.uint8)
    with pytest.raises(NumericsError, match="another form"):
        compare([Rung("a", Painter()), Rung("c", other)], SPEC, ParitySettings(images=2))


def test_output_is_checked_before_the_work(tmp_path):
    (tmp_path / "file").write_text("x")
    painter = Painter()
    with pytest.raises(OutputError):
        compare([Rung("a", painter), Rung("b", painter)], SPEC, out=tmp_path / "file")
    assert not painter.calls
