"""The export stage: what a bundle holds, that it is reproducible, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from edgedit.core.artifact import create, open_artifact
from edgedit.core.errors import ArtifactError, NumericsError, OutputError, UsageError
from edgedit.core.settings import resolve
from edgedit.core.spec import DiTSpec
from edgedit.export import bundle
from edgedit.export.bundle import ExportSettings, export
from edgedit.export.check import GraphError, check_runs, check_wellformed, open_session
from edgedit.export.graph import build
from edgedit.export.plan import Plan
from edgedit.export.precision import scan_ranges
from edgedit.model.checkpoint import WEIGHTS, load_student
from edgedit.model.deploy import fold
from edgedit.model.runtime import TorchRuntime

SPEC = DiTSpec(1, 32, 4, image=8, classes=3)


@pytest.fixture(scope="module")
def student(make_student, tmp_path_factory):
    return make_student(tmp_path_factory.mktemp("export") / "student", SPEC, class_names=["cat", "dog", "owl"])


def test_bundle_holds_what_a_runtime_needs(student, tmp_path):
    heard = []
    manifest = export(student, tmp_path / "b", ExportSettings(precision="fp16", batch=4), say=heard.append)
    artifact = open_artifact(tmp_path / "b", "bundle")
    assert artifact.manifest == manifest and set(manifest.files) == {"model.onnx", "checks.json"}
    assert DiTSpec.from_dict(manifest.spec) == SPEC
    assert manifest.settings == {"precision": "fp16", "attention": "pattern", "batch": 4, "dynamic": False,
                                 "guidance_scale": 1.5, "opset": 20, "head_size": 16}
    info = manifest.info
    assert (info["class_names"], info["null_class"], info["label"]) == (["cat", "dog", "owl"], 3, "(1,32,4)")
    assert (info["parameters"], info["deployed_parameters"]) == (SPEC.parameters, SPEC.deployed_parameters)
    assert info["fused_attention"] == {"blocks": 1, "fusing": 1}
    assert manifest.parents[0].role == "student" and manifest.parents[0].digest == open_artifact(student).manifest.digest
    checks = json.loads(artifact.file("checks.json").read_text())
    assert checks["run"]["batch"] == 4 and checks["run"]["max_levels"] <= 3
    assert checks["fusion"][0]["fuses"] and checks["ranges"]["headroom"] > 1 and checks["cost"]["nodes"] > 30
    assert not [e for e in heard if e.level == "warning"]
    model = onnx.load(str(artifact.file("model.onnx")))
    values, stated_values = (*model.graph.input, *model.graph.output), (*info["io"]["inputs"], *info["io"]["outputs"])
    for value, stated in zip(values, stated_values, strict=True):
        assert value.name == stated["name"]
        assert [d.dim_value for d in value.type.tensor_type.shape.dim] == stated["shape"]


def test_bundle_makes_the_students_images(student, tmp_path):
    """The file on disk against the training form in float64."""
    export(student, tmp_path / "b", ExportSettings(attention="ort", dynamic=True, batch=4))
    session = open_session((tmp_path / "b" / "model.onnx").read_bytes(), threads=1)
    chance = np.random.default_rng(0)
    z, c = chance.normal(size=(5, 3, 8, 8)).astype(np.float32), np.array([0, 1, 2, 1, 0], np.int32)
    images = session.run(None, {"noise": z, "labels": c})[0]
    expected = TorchRuntime(load_student(student)[0], 1.5, folded=False, dtype=torch.float64).infer(z, c)
    steps = np.abs(images.astype(int) - expected)
    assert steps.max() <= 1 and (steps > 0).mean() < 0.005 and expected.std() > 20


@pytest.mark.parametrize("settings", [ExportSettings(batch=2), ExportSettings(batch=2, precision="fp16", attention="onnx"),
                                      ExportSettings(batch=2, attention="ort", dynamic=True)])
def test_same_student_and_settings_give_the_same_bytes(student, tmp_path, settings):
    one, two = (export(student, tmp_path / name, settings).files["model.onnx"] for name in "ab")
    assert one == two


def test_made_already_returns_at_once(student, tmp_path, monkeypatch):
    settings = ExportSettings(batch=2)
    first = export(student, tmp_path / "b", settings)
    monkeypatch.setattr(bundle, "build", lambda *_: pytest.fail("the graph was written again"))
    assert export(student, tmp_path / "b", settings) == first
    with pytest.raises(pytest.fail.Exception):
        export(student, tmp_path / "b", ExportSettings(batch=3))


def test_damaged_bundle_is_made_again(student, tmp_path):
    settings = ExportSettings(batch=2)
    first = export(student, tmp_path / "b", settings)
    (tmp_path / "b" / "model.onnx").write_bytes(b"broken")
    assert export(student, tmp_path / "b", settings).files == first.files
    open_artifact(tmp_path / "b", "bundle")


def test_other_folders_are_left_alone(student, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "love.txt").write_text("dear")
    with pytest.raises(OutputError, match="did not make"):
        export(student, tmp_path / "letters", ExportSettings(batch=1))
    assert (tmp_path / "letters" / "love.txt").read_text() == "dear"


def test_nan_weights_are_refused(student, make_student, tmp_path):
    folder = make_student(tmp_path / "student", SPEC)
    file = folder / WEIGHTS
    weights = load_file(file)
    weights["blocks.0.up.weight"][0, 0] = float("nan")
    from safetensors import safe_open
    with safe_open(file, "pt") as stream:
        metadata = stream.metadata()
    with create(tmp_path / "nan", "student") as draft:
        save_file(weights, draft.path / WEIGHTS, metadata)
    with pytest.raises(NumericsError, match="not finite"):
        export(tmp_path / "nan", tmp_path / "b", ExportSettings(batch=1))
    assert not (tmp_path / "b").exists()


def test_a_folder_that_is_no_student(tmp_path):
    with pytest.raises(ArtifactError, match="not there"):
        export(tmp_path / "nowhere", tmp_path / "b")


@pytest.mark.parametrize(("settings", "words"), [
    ({"attention": "onnx", "opset": 20}, "opset 23"), ({"opset": 16}, "opset 17"), ({"opset": 99}, "opset 17"),
    ({"head_size": 4}, "only pad")])
def test_impossible_settings(student, tmp_path, settings, words):
    with pytest.raises(UsageError, match=words):
        export(student, tmp_path / "b", ExportSettings(batch=1, **settings))


@pytest.mark.parametrize("options", [{"batch": 0}, {"precision": "fp8"}, {"attention": "flash"}, {"guidance_scale": -1.0},
                                     {"guidance_scale": float("nan")}])
def test_invalid_settings(options):
    with pytest.raises(UsageError):
        resolve(ExportSettings, options=options)


def test_unpadded_fp16_warns(student, tmp_path):
    heard = []
    export(student, tmp_path / "b", ExportSettings(precision="fp16", batch=1, head_size=8), say=heard.append)
    assert [e.text for e in heard if e.level == "warning"] == [
        "TensorRT will not fuse 1 of 1 attentions: head size 8 is outside 16 … 256"]


def test_range_scan_finds_the_value(make_dit):
    """A residual stream pushed to a known size is reported with its place; twice the weights, twice the range."""
    spec = DiTSpec(2, 32, 4, image=8, classes=3)
    model = make_dit(spec)
    plan = Plan.of(spec, "fp32", "pattern", batch=None, guidance_scale=1.5)
    plain = scan_ranges(build(fold(model), plan), spec, images=6)
    model.blocks[1].up.bias.data[7] = 30_000.0
    loud = scan_ranges(build(fold(model), plan), spec, images=6)
    assert plain.largest < 5_000 and plain.headroom > 10
    assert set(loud.by_part) == {"embed", "condition", "guidance", "block0", "block1", "output"}
    assert loud.largest >= 30_000 and loud.where.startswith("block1/mlp")
    assert loud.headroom == pytest.approx(65504 / loud.largest)
    assert loud.by_part["block0"] == pytest.approx(plain.by_part["block0"])


def test_range_scan_refuses_fp16(make_student, make_dit, tmp_path, monkeypatch):
    model = make_dit(SPEC)
    model.blocks[0].up.bias.data[:] = 60_000.0
    model.blocks[0].down.weight.data[:] = 1.0
    monkeypatch.setattr(bundle, "load_student", lambda path: (model, open_artifact(path), {}))
    folder = make_student(tmp_path / "student", SPEC)
    with pytest.raises(NumericsError, match="does not fit FP16"):
        export(folder, tmp_path / "b", ExportSettings(precision="fp16", batch=1))
    export(folder, tmp_path / "b", ExportSettings(precision="fp32", batch=1))


def test_checks_catch_a_wrong_graph(make_dit):
    """The comparison with the folded network notices another student; the checker notices a broken graph."""
    plan = Plan.of(SPEC, "fp32", "pattern", batch=2, guidance_scale=1.0)
    network, other = fold(make_dit(SPEC)), fold(make_dit(SPEC, seed=1))
    with pytest.raises(NumericsError, match="other images"):
        check_runs(build(other, plan).SerializeToString(), network, batch=2)
    model = build(network, plan)
    model.graph.node[3].input[0] = "nothing"
    with pytest.raises(GraphError, match="not valid ONNX"):
        check_wellformed(model)
    with pytest.raises(GraphError, match="does not run"):
        check_runs(model.SerializeToString(), network, batch=2)
