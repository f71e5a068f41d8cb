"""INT8 export: scales and weights, what a bundle holds, that it is reproducible, the gate and its fallback, and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import numpy_helper

from edgedit.core.artifact import open_artifact
from edgedit.core.errors import NumericsError, UsageError
from edgedit.core.settings import resolve
from edgedit.core.spec import DiTSpec
from edgedit.device.bundle import Bundle
from edgedit.device.runtime import open_runtime
from edgedit.export import bundle
from edgedit.export.bundle import ExportSettings, export
from edgedit.export.check import open_session
from edgedit.export.cost import graph_cost
from edgedit.export.gate import Quality, gate
from edgedit.export.graph import build
from edgedit.export.int8 import (
    SMALLEST_SCALE,
    GateSettings,
    Int8Settings,
    block_of,
    check_attention,
    quantise_weight,
    scale_of,
    sites_of,
)
from edgedit.export.lint import lint
from edgedit.export.plan import Plan
from edgedit.model.deploy import fold

SPEC = DiTSpec(2, 32, 4, image=8, classes=3)
QUICK = {"images": 48, "gate": {"images": 24, "psnr_db": 20.0, "mean_levels": 20.0}}


def int8(**settings) -> ExportSettings:
    return ExportSettings(precision="int8", batch=4, int8=Int8Settings.model_validate({**QUICK, **settings}))


@pytest.fixture(scope="module")
def student(make_student, tmp_path_factory):
    return make_student(tmp_path_factory.mktemp("int8") / "student", SPEC, class_names=["cat", "dog", "owl"])


@pytest.fixture(scope="module")
def pairs(make_pairs, tmp_path_factory):
    return make_pairs(tmp_path_factory.mktemp("int8") / "pairs", SPEC, 60)


# --- numbers --------------------------------------------------------------------------------------------------------------------


@given(arrays(np.float16, st.tuples(st.integers(1, 12), st.integers(1, 8)), elements=st.floats(-600, 600, width=16)))
def test_weights_come_back_to_half_a_step(weight):
    whole, scale = quantise_weight(weight)
    assert whole.dtype == np.int8 and scale.dtype == np.float16 and scale.shape == (weight.shape[1],)
    assert np.abs(whole.astype(int)).max(initial=0) <= 127 and (scale >= np.float16(SMALLEST_SCALE)).all()
    away = np.abs(whole * scale.astype(np.float64) - weight)
    assert (away <= scale.astype(np.float64) * 0.5 + 127 * scale.astype(np.float64) * 2**-11).all()


def test_channels_have_scales_of_their_own():
    whole, scale = quantise_weight(np.array([[1.0, 100.0, 0.0], [-0.5, 50.0, 0.0]], np.float32))
    assert whole.tolist() == [[127, 127, 0], [-64, 64, 0]] and scale == pytest.approx([1 / 127, 100 / 127, SMALLEST_SCALE])


@given(st.floats(0, 8e6))
def test_scales_are_normal_fp16(largest):
    scale = scale_of(largest)
    assert scale == float(np.float16(scale)) and SMALLEST_SCALE <= scale < np.inf
    assert scale == pytest.approx(max(largest / 127, SMALLEST_SCALE), rel=2**-10)


def test_sites_by_settings():
    assert [s.split("/", 1)[1] for s in sites_of([1], Int8Settings())] == ["attention/qkv", "attention/proj", "mlp/up", "mlp/down"]
    both = sites_of([0, 12], Int8Settings(attention=True, residual=True))
    assert len(both) == 2 * (3 + 5 + 2) and "block0/attention/proj" not in both and {block_of(s) for s in both} == {0, 12}


def test_graph_is_the_fp16_graph_with_pairs(make_dit):
    """Same nodes and values, Q/DQ apart: what is not quantised is typed as before."""
    network, plan = fold(make_dit(SPEC), 1.5), Plan.of(SPEC, "fp16", "pattern", batch=2, guidance_scale=1.5)
    plain = build(network, plan)
    quantised = build(network, replace(plan, scales={s: 0.05 for s in sites_of([1], Int8Settings())}))
    kept = [n.name for n in quantised.graph.node if n.op_type not in ("QuantizeLinear", "DequantizeLinear")]
    assert kept == [n.name for n in plain.graph.node]
    assert [o.version for o in quantised.opset_import] == [20]
    weights = [numpy_helper.to_array(t) for t in quantised.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 2]
    assert sum(w.size for w in weights) == 32 * 16 * 4 * 3 + 16 * 4 * 32 + 2 * 4 * 32 * 32  # heads padded to 16
    one = [build(network, replace(plan, batch=1, scales=s)) for s in ({}, {s: 0.05 for s in sites_of([1], Int8Settings())})]
    assert graph_cost(one[0]).parameters == graph_cost(one[1]).parameters
    assert graph_cost(one[1]).weight_bytes < graph_cost(one[0]).weight_bytes - 0.9 * sum(w.size for w in weights)


# --- a bundle -------------------------------------------------------------------------------------------------------------------


def test_bundle_holds_its_calibration_and_gate(student, pairs, tmp_path):
    heard = []
    manifest = export(student, tmp_path / "b", int8(), pairs=pairs, say=heard.append)
    digests = [open_artifact(folder).manifest.digest for folder in (student, pairs)]
    assert [(p.role, p.digest) for p in manifest.parents] == list(zip(("student", "pairs"), digests, strict=True))
    assert manifest.settings["precision"] == "int8" and manifest.settings["int8"]["images"] == 48
    checks = json.loads((tmp_path / "b" / "checks.json").read_text())
    facts = checks["int8"]
    assert facts["calibration"]["digest"] == digests[1] and facts["calibration"]["per_class"] == [16, 16, 16]
    assert set(facts["calibration"]["ranges"]) == set(sites_of(range(2), Int8Settings()))
    assert facts["blocks"] == [0, 1] and checks["lint"] == {"findings": [], "int8_products": {"block0": 4, "block1": 4}}
    assert facts["gate"]["seed"] == 1 and facts["gate"]["perceptual"].startswith("not measured")
    assert facts["gate"]["fp16"]["psnr_db"] > facts["gate"]["int8"]["psnr_db"] > 20
    assert manifest.info["int8"]["summary"].startswith("INT8 in all blocks; from FP32's images (onnxruntime ")
    assert manifest.info["precision"]["int8_blocks"] == [0, 1] and checks["fusion"][0]["fuses"]


def test_bundle_runs_on_a_cpu(student, pairs, tmp_path):
    """The device's own runtime makes the images of the student, roughly; FP16's are closer."""
    export(student, tmp_path / "i", int8(), pairs=pairs)
    export(student, tmp_path / "f", ExportSettings(batch=4))
    chance = np.random.default_rng(3)
    z, c = chance.normal(size=(4, 3, 8, 8)).astype(np.float32), np.array([0, 1, 2, 0], np.int32)
    made = []
    for name in "if":
        runtime = open_runtime(Bundle.open(tmp_path / name))
        made.append(runtime.infer(z, c))
        runtime.close()
    away = np.abs(made[0].astype(int) - made[1])
    assert 0 < away.mean() < 8 and made[1].std() > 20
    assert Bundle.open(tmp_path / "i").precision == "int8"


@pytest.mark.parametrize("settings", [{}, {"attention": True, "method": "max"}, {"residual": True, "method": "percentile"}])
def test_same_student_pairs_and_settings_give_the_same_bytes(student, pairs, tmp_path, settings):
    one, two = (export(student, tmp_path / name, int8(**settings), pairs=pairs).files["model.onnx"] for name in "ab")
    assert one == two and lint(onnx.load(str(tmp_path / "a" / "model.onnx"))) == []


def test_made_already_asks_for_pairs_settings_and_placement(student, pairs, make_pairs, tmp_path, monkeypatch):
    first = export(student, tmp_path / "b", int8(), pairs=pairs)
    others = make_pairs(tmp_path / "others", SPEC, 60, seed=5)
    monkeypatch.setattr(bundle, "quantise", lambda *_, **__: pytest.fail("calibrated again"))
    assert export(student, tmp_path / "b", int8(), pairs=pairs) == first
    for again in ({"settings": int8(method="max"), "pairs": pairs}, {"settings": int8(), "pairs": others}):
        with pytest.raises(pytest.fail.Exception):
            export(student, tmp_path / "b", **again)
    heard = []
    monkeypatch.setattr("edgedit.export.quantise.lint", lambda _: [type("F", (), {"rule": "scale", "node": "n", "why": "odd"})()])
    with pytest.raises(pytest.fail.Exception):  # what passed an older linter does not count for ever
        export(student, tmp_path / "b", int8(), pairs=pairs, say=heard.append)
    assert any("made again" in e.text for e in heard)


def test_other_precisions_are_as_before(student, tmp_path):
    assert "int8" not in export(student, tmp_path / "b", ExportSettings(precision="fp16", batch=2)).settings


@pytest.mark.parametrize(("settings", "with_pairs", "words"), [
    (int8(), False, "calibrated on teacher pairs"), (ExportSettings(precision="fp16"), True, "only INT8 is calibrated"),
    (int8().model_copy(update={"attention": "ort"}), True, "does not read ONNX Runtime's own"),
    (int8(attention=True).model_copy(update={"attention": "onnx"}), True, "INT8 attention is written as"),
    (int8(attention=True).model_copy(update={"head_size": 24}), True, "head sizes 16, 32 and 64")])
def test_what_does_not_go_together(student, pairs, tmp_path, settings, with_pairs, words):
    with pytest.raises(UsageError, match=words):
        export(student, tmp_path / "b", settings, pairs=pairs if with_pairs else None)
    assert not (tmp_path / "b").exists()


def test_attention_that_would_not_fuse_says_what_to_pad():
    with pytest.raises(UsageError, match="head_size=32"):
        check_attention(DiTSpec(1, 96, 4), 24)
    with pytest.raises(UsageError, match=r"leave int8.attention out$"):
        check_attention(DiTSpec(1, 96, 4, image=64), 32)
    check_attention(DiTSpec(1, 96, 4), 32)


@pytest.mark.parametrize("key", ["int8.method=kl", "int8.images=0", "int8.percentile=20", "int8.gate.images=1", "int8.gate.psnr=3"])
def test_invalid_settings(key):
    with pytest.raises(UsageError):
        resolve(ExportSettings, sets=[key])


# --- the gate -------------------------------------------------------------------------------------------------------------------


def test_quality_of_a_known_error():
    black, grey = np.zeros((2, 4, 4, 3), np.uint8), np.zeros((2, 4, 4, 3), np.uint8)
    assert Quality.of(black, grey).words == "equal images" and not Quality.of(black, grey).over(GateSettings())
    grey[0] = 10
    quality = Quality.of(grey, black, lambda made, reference: float(made.mean() - reference.mean()))
    assert quality.psnr_db == pytest.approx(20 * math.log10(255 / math.sqrt(50))) and quality.perceptual == 5
    assert (quality.changed_percent, quality.mean_levels, quality.max_levels) == (50, 5, 10)
    over = ["31.1 dB under 40 dB", "mean error 5.00 levels over 4", "perceptual distance 5.0000 over 0.03"]
    assert quality.over(GateSettings(psnr_db=40)) == over
    assert replace(quality, perceptual=math.nan).over(GateSettings(mean_levels=9)) == ["perceptual distance nan over 0.03"]


@pytest.fixture(scope="module")
def bad_block(make_dit):
    """A network of three blocks and scales that clip the second one hard."""
    spec = DiTSpec(3, 32, 4, image=8, classes=3)
    plan = Plan.of(spec, "fp16", "pattern", batch=2, guidance_scale=1.0)
    scales = {s: 0.03 if block_of(s) != 1 else 0.002 for s in sites_of(range(3), Int8Settings())}
    return fold(make_dit(spec)), replace(plan, scales=scales)


def test_the_most_sensitive_block_goes_back_to_fp16(bad_block):
    heard = []
    result = gate(*bad_block, GateSettings(images=12, psnr_db=26, mean_levels=20), 5, say=heard.append)
    assert result.blocks == (0, 2) and [block for block, _ in result.steps] == [1]
    assert set(result.sensitivity) == {0, 1, 2} and not result.int8.over(GateSettings(psnr_db=26, mean_levels=20))
    assert result.sensitivity[1].psnr_db + 3 < min(result.sensitivity[i].psnr_db for i in (0, 2))
    assert any(e.level == "warning" and e.text.startswith("block 1 back to FP16") for e in heard)


def test_a_passing_gate_measures_no_sensitivity(bad_block):
    result = gate(*bad_block, GateSettings(images=12, psnr_db=1, mean_levels=200), 5)
    assert result.blocks == (0, 1, 2) and not result.sensitivity and not result.steps


def test_nothing_left_shows_all_numbers(bad_block):
    with pytest.raises(NumericsError, match="whichever blocks") as error:
        gate(*bad_block, GateSettings(images=12, psnr_db=90), 5)
    assert "block 1 alone" in str(error.value) and "FP16:" in str(error.value) and "--precision fp16" in str(error.value)
    with pytest.raises(NumericsError, match="does not keep this student's images\n"):
        gate(*bad_block, GateSettings(images=12, psnr_db=26, fallback=False), 5)


def test_a_perceptual_distance_can_fail_the_gate(bad_block):
    """A metric that dislikes INT8 in more than one block."""
    calls = []

    def strange(made, reference):
        calls.append(float(np.abs(made.astype(int) - reference).mean()))
        return calls[-1]

    found = gate(*bad_block, GateSettings(images=12, psnr_db=1, mean_levels=200, perceptual=3), 5, perceptual=strange)
    assert len(found.blocks) < 3 and found.int8.perceptual <= 3 and len(calls) >= 5


def test_fallback_reaches_the_bundle(student, pairs, tmp_path, monkeypatch):
    """Blocks that went back are plain FP16 in the file, and the manifest says which."""
    monkeypatch.setattr("edgedit.export.quantise.scales_of", lambda ranges, sites: {
        s: scale_of(ranges[s] / (30 if block_of(s) == 1 else 1)) for s in sites})
    manifest = export(student, tmp_path / "b", int8(gate={"images": 24, "psnr_db": 30.0, "mean_levels": 20.0}), pairs=pairs)
    checks = json.loads((tmp_path / "b" / "checks.json").read_text())
    assert checks["int8"]["blocks"] == [0] and checks["lint"]["int8_products"] == {"block0": 4}
    assert set(checks["int8"]["gate"]["sensitivity"]) == {"0", "1"} and checks["int8"]["gate"]["steps"][0]["block"] == 1
    assert "blocks 0 of 2, FP16 in the others" in manifest.info["int8"]["summary"]
    names = {n.name for n in onnx.load(str(tmp_path / "b" / "model.onnx")).graph.node if n.op_type == "QuantizeLinear"}
    assert names and all(name.startswith("block0/") for name in names)


def test_the_runtime_rounds_as_the_definition(make_dit):
    """One quantised product in ONNX Runtime against the formula in float64."""
    spec = DiTSpec(1, 32, 2, image=8, classes=3)                                           # head size 16: nothing is padded
    plan = replace(Plan.of(spec, "fp32", "pattern", batch=2, guidance_scale=1.0), scales={"block0/mlp/down": 0.05})
    network = fold(make_dit(spec))
    model = build(network, plan)
    for value in ("block0/mlp/gelu", "block0/mlp/down/product"):
        model.graph.output.append(onnx.helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None))
    z = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    session = open_session(model.SerializeToString(), threads=1)
    _, hidden, made = session.run(None, {"noise": z, "labels": np.array([0, 1], np.int32)})
    step = float(np.float32(0.05))
    x = np.clip(np.rint(hidden.astype(np.float64) / step), -128, 127) * step
    whole, scale = quantise_weight(network.blocks[0].down.weight.numpy().T)
    assert made == pytest.approx(x @ (whole * scale.astype(np.float64)), abs=2e-3)
