"""edgedit build on a double of TensorRT over NVIDIA's real bindings: what it makes, finds again, proves and refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from edgedit.core.artifact import MANIFEST
from edgedit.core.chain import chain
from edgedit.core.errors import ArtifactError, EdgeditError, MissingError, UsageError
from edgedit.core.files import held
from edgedit.core.say import Event
from edgedit.core.settings import resolve
from edgedit.device.bundle import Bundle
from edgedit.device.trt.build import BuildSettings, build
from edgedit.device.trt.engine import engines_folder, find_engine, fusion_of, open_engine, wanted_key
from tests import fake_tensorrt
from tests.contract.bindings import VERSIONS
from tests.device.engine_kit import ORIN, attention_bundle, attention_graph, put_bundle

ROOT = Path(__file__).resolve().parents[2]
NEW = [v for v in VERSIONS if v != "10.3.0"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEDIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def bundle(tmp_path):
    return attention_bundle(tmp_path / "bundle")


def settings(**values: Any) -> BuildSettings:
    return resolve(BuildSettings, options=values)


def plan_header(data: bytes) -> dict[str, Any]:
    """What the double's plan says about how it was built."""
    start = data.index(b"plan\n") + 5
    length = int.from_bytes(data[start : start + 8], "little")
    return dict(json.loads(data[start + 16 : start + 16 + length]))


@pytest.mark.parametrize("version", VERSIONS)
def test_an_engine_with_its_proof_is_built_and_found_again(bundle, monkeypatch, version):
    fake_tensorrt.install(monkeypatch, version)
    heard: list[Event] = []
    engine = build(bundle, gpu=ORIN, say=heard.append)
    assert engine.path.parent == engines_folder() and engine.path.name.startswith("2-12-2-")
    assert set(engine.artifact.manifest.files) == {"engine.plan", "layers.json", "fusion.json", "build.log"}
    assert fusion_of(engine)["summary"] == "2 of 2 attention blocks fused"
    assert all("_gemm_mha_v2" in block["kernels"][0] for block in fusion_of(engine)["blocks"])
    info = engine.info
    assert info["tensorrt"] == version and info["attention"]["used"] == "pattern" and info["fusion"]["fused"] == 2
    assert info["build"]["optimization_level"] == 3 and info["build"]["workspace_mb"] == 1024 and info["build"]["free_mb_before"] == 5000
    assert info["build"]["peak_host_mb"] > 10 and info["build"]["available_mb_lowest"] > 0
    header = plan_header(engine.read())
    assert header["strongly_typed"] and header["verbosity"] == "DETAILED" and header["pools"]["WORKSPACE"] == 1024 << 20
    assert "Engine generation completed" in (engine.path / "build.log").read_text()
    bars = [event for event in heard if event.total == 100]
    assert bars[-1].done == 100 and any(event.values["phase"] for event in bars) and "elapsed" in bars[0].values
    assert "5,000 MB free for CUDA" in heard[0].text and "workspace 1,024 MB" in heard[0].text
    before = (engine.path / MANIFEST).stat().st_mtime_ns
    monkeypatch.setenv("EDGEDIT_FAKE_TRT", json.dumps({"build": "null"}))  # a second build would fail
    assert build(bundle, gpu=ORIN).key == engine.key and (engine.path / MANIFEST).stat().st_mtime_ns == before
    opened = Bundle.open(bundle)
    assert find_engine(opened, wanted_key(opened, version, ORIN)).path == engine.path
    assert [link.kind for link in chain(engine.path)] == ["engine", "bundle"]


def test_settings_reach_the_builder_and_make_another_engine(bundle, monkeypatch):
    fake_tensorrt.install(monkeypatch)
    usual = build(bundle, gpu=ORIN)
    engine = build(bundle, settings(optimization_level=2, workspace_mb=256, attention="pattern"), gpu=ORIN)
    import tensorrt as trt

    bit = 1 << int(trt.BuilderFlag.TF32)
    before, after = plan_header(usual.read()), plan_header(engine.read())
    assert not before["flags"] & bit and not after["flags"] & bit
    assert (after["optimization_level"], after["pools"]["WORKSPACE"]) == (2, 256 << 20)
    assert engine.path != usual.path and engine.info["build"]["optimization_level"] == 2
    assert engine.info["build"]["timing_cache_known"] and not usual.info["build"]["timing_cache_known"]
    assert dict(engine.key.flags) == {"precision": "fp16", "attention": "pattern", "optimization_level": 2,
                                      "workspace_mb": 256}


def test_a_dynamic_bundle_gets_a_profile_and_its_batch(tmp_path, monkeypatch):
    fake_tensorrt.install(monkeypatch, "11.4.0.106")
    engine = build(attention_bundle(tmp_path / "b", dynamic=True), settings(batch=6), gpu=ORIN)
    (profile,) = plan_header(engine.read())["profiles"]
    assert profile == {"noise": [[1, 3, 8, 8], [6, 3, 8, 8], [6, 3, 8, 8]], "labels": [[1], [6], [6]]}
    assert engine.key.batch == 6 and engine.info["profile"] == {"min": 1, "opt": 6, "max": 6}


def test_a_fixed_bundle_takes_no_other_batch(bundle, monkeypatch):
    fake_tensorrt.install(monkeypatch)
    with pytest.raises(UsageError, match="exported for batch 4 only"):
        build(bundle, settings(batch=8), gpu=ORIN)


def test_a_changed_bundle_is_built_anew_and_the_old_engine_refused(bundle, tmp_path, monkeypatch):
    fake_tensorrt.install(monkeypatch)
    old = build(bundle, gpu=ORIN)
    attention_bundle(bundle, blocks=1)
    changed = Bundle.open(bundle)
    with pytest.raises(ArtifactError, match=r"model\.onnx") as refused:
        find_engine(changed, wanted_key(changed, "10.3.0", ORIN))
    assert refused.value.fix == f"edgedit build {bundle}"
    new = build(bundle, gpu=ORIN)
    assert new.path != old.path and find_engine(changed, wanted_key(changed, "10.3.0", ORIN)).path == new.path


def test_a_damaged_engine_is_built_again(bundle, monkeypatch):
    fake_tensorrt.install(monkeypatch)
    engine = build(bundle, gpu=ORIN)
    whole = engine.plan.read_bytes()
    engine.plan.write_bytes(whole[:-3] + b"???")
    heard: list[Event] = []
    assert build(bundle, gpu=ORIN, say=heard.append).read()
    assert any(event.level == "warning" and "altered" in event.text for event in heard)
    assert not list(engines_folder().glob(".*"))


def test_out_takes_the_engine_from_the_cache_and_again_builds(bundle, tmp_path, monkeypatch):
    fake_tensorrt.install(monkeypatch)
    cached = build(bundle, gpu=ORIN)
    heard: list[Event] = []
    copy = build(bundle, gpu=ORIN, out=tmp_path / "mine", say=heard.append)
    assert copy.path == tmp_path / "mine" and copy.read() == cached.read() and "copy of" in heard[-1].text
    assert build(bundle, gpu=ORIN, out=tmp_path / "mine").key == cached.key
    anew = build(bundle, gpu=ORIN, out=tmp_path / "mine", again=True)
    assert anew.info["build"] != cached.info["build"] or anew.artifact.manifest.digest != cached.artifact.manifest.digest


def test_two_builds_of_one_engine_make_it_once(bundle, monkeypatch):
    fake_tensorrt.install(monkeypatch)
    heard: list[list[Event]] = [[], []]
    engines_folder().mkdir(parents=True)
    with held(engines_folder(), "testing in"):
        waiting = [threading.Thread(target=build, args=(bundle,), kwargs={"gpu": ORIN, "say": events.append}) for events in heard]
        for thread in waiting:
            thread.start()
        while not all(any("another build" in event.text for event in events) for events in heard):
            time.sleep(0.05)
    for thread in waiting:
        thread.join(60)
    builds = [sum(event.total == 100 and event.done == 100 for event in events) for events in heard]
    assert sorted(map(bool, builds)) == [False, True]
    assert any("built already" in event.text for events in heard for event in events)


# --- attention ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", NEW)
def test_iattention_replaces_the_pattern_and_computes_the_same(bundle, monkeypatch, version):
    fake_tensorrt.install(monkeypatch, version)
    engine = build(bundle, settings(attention="iattention"), gpu=ORIN)
    assert engine.info["attention"]["used"] == "iattention" and fusion_of(engine)["fused"] == 2
    assert engine.info["attention"]["tried"] == [{**engine.info["attention"]["tried"][0], "way": "iattention", "fused": 2, "blocks": 2}]
    _same_images(engine.read(), attention_graph())


def _same_images(plan: bytes, model: bytes) -> None:
    """The graph inside the double's plan against the bundle's, on the same input."""
    import numpy as np
    import onnxruntime as ort

    start = plan.index(b"plan\n") + 5
    header = int.from_bytes(plan[start : start + 8], "little")
    feed = {"noise": np.random.default_rng(1).normal(size=(4, 3, 8, 8)).astype(np.float32), "labels": np.arange(4, dtype=np.int32)}
    first, second = (ort.InferenceSession(graph).run(["images"], feed)[0] for graph in (plan[start + 16 + header :], model))
    assert np.abs(first.astype(int) - second).max() <= 1 and second.std() > 10


def test_auto_tries_iattention_where_blocks_did_not_fuse_and_keeps_the_better(bundle, monkeypatch):
    fake_tensorrt.install(monkeypatch, "10.16.1.11", fuse="iattention")
    heard: list[Event] = []
    engine = build(bundle, gpu=ORIN, say=heard.append)
    attention = engine.info["attention"]
    assert attention["used"] == "iattention" and [(t["way"], t["fused"]) for t in attention["tried"]] == [("pattern", 0), ("iattention", 2)]
    assert any("building again" in event.text for event in heard)
    assert set(p.name for p in engine.path.iterdir()) == {*engine.artifact.manifest.files, MANIFEST}


def test_auto_keeps_the_bundles_form_where_iattention_is_no_better(bundle, monkeypatch):
    fake_tensorrt.install(monkeypatch, "10.16.1.11", fuse=False)
    engine = build(bundle, gpu=ORIN)
    assert engine.info["attention"]["used"] == "pattern" and len(engine.info["attention"]["tried"]) == 2
    blocks = fusion_of(engine)["blocks"]
    assert [b["fused"] for b in blocks] == [False, False] and "chose separate kernels" in blocks[0]["why"]


def test_auto_on_10_3_has_nothing_else_to_try(bundle, monkeypatch):
    fake_tensorrt.install(monkeypatch, fuse=False)
    engine = build(bundle, gpu=ORIN)
    assert len(engine.info["attention"]["tried"]) == 1 and engine.info["fusion"] == {"blocks": 2, "fused": 0, "unknown": 0}


@pytest.mark.parametrize("precision, head_size, words", [("fp32", 16, "FP32 never fuses"), ("fp16", 8, "head size 8 is outside")])
def test_what_cannot_fuse_says_why_and_is_not_tried_again(tmp_path, monkeypatch, precision, head_size, words):
    fake_tensorrt.install(monkeypatch, "10.16.1.11")
    engine = build(attention_bundle(tmp_path / "b", precision=precision, head_size=head_size), gpu=ORIN)
    assert len(engine.info["attention"]["tried"]) == 1
    assert all(words in block["why"] and block["fused"] is False for block in fusion_of(engine)["blocks"])


def test_bundles_without_checks_are_built_and_judged(tmp_path, monkeypatch):
    fake_tensorrt.install(monkeypatch)
    engine = build(attention_bundle(tmp_path / "b", checks=False), gpu=ORIN)
    assert fusion_of(engine)["summary"] == "2 of 2 attention blocks fused"


def test_the_attention_operator_is_built_as_it_is(tmp_path, monkeypatch):
    fake_tensorrt.install(monkeypatch, "11.4.0.106")
    engine = build(attention_bundle(tmp_path / "b", dialect="onnx"), settings(attention="iattention"), gpu=ORIN)
    assert engine.info["attention"]["used"] == "operator" and fusion_of(engine)["fused"] == 2


def test_the_exporters_own_graph(tmp_path, monkeypatch):
    """Names and forms of the real exporter, not of the kit."""
    torch = pytest.importorskip("torch")
    from edgedit.core.spec import DiTSpec
    from edgedit.export.fusion import attention_fusion
    from edgedit.export.graph import build as write
    from edgedit.export.plan import Plan
    from edgedit.model.deploy import fold
    from edgedit.model.dit import DiT

    torch.manual_seed(0)
    spec = DiTSpec(depth=2, width=16, heads=2, image=8, channels=3, classes=4)
    fake_tensorrt.install(monkeypatch, "10.16.1.11", fuse="iattention")
    graph = write(fold(DiT(spec).float(), 1.5), Plan.of(spec, "fp16", "pattern", batch=4, guidance_scale=1.5))
    fusion = [block.to_dict() for block in attention_fusion(graph)]
    folder = put_bundle(tmp_path / "b", graph.SerializeToString(), fusion, spec=spec)
    engine = build(folder, gpu=ORIN)
    assert engine.info["attention"]["used"] == "iattention" and fusion_of(engine)["fused"] == 2
    assert [block["block"] for block in fusion_of(engine)["blocks"]] == ["block0", "block1"]


# --- refusals -----------------------------------------------------------------------------------------------------------------


def test_ort_bundles_are_refused_before_anything_is_imported(tmp_path):
    with pytest.raises(UsageError, match="written for ONNX Runtime") as refused:
        build(attention_bundle(tmp_path / "b", dialect="ort"), gpu=ORIN)
    assert "--attention pattern" in (refused.value.fix or "")


def test_an_old_tensorrt_does_not_read_the_attention_operator(tmp_path, monkeypatch):
    fake_tensorrt.install(monkeypatch)
    with pytest.raises(UsageError, match=r"10\.3\.0 does not read the Attention operator") as refused:
        build(attention_bundle(tmp_path / "b", dialect="onnx"), gpu=ORIN)
    assert "--attention pattern" in (refused.value.fix or "")


def test_an_old_tensorrt_has_no_attention_layer(bundle, monkeypatch):
    fake_tensorrt.install(monkeypatch)
    with pytest.raises(UsageError, match=r"10\.14 is the first"):
        build(bundle, settings(attention="iattention"), gpu=ORIN)


def test_every_operator_that_the_parser_refuses_is_listed(tmp_path, monkeypatch):
    fake_tensorrt.install(monkeypatch)
    with pytest.raises(EdgeditError, match="cannot read the graph") as refused:
        build(attention_bundle(tmp_path / "b", odd="NobodyKnowsThis"), gpu=ORIN)
    assert "odd/one (NobodyKnowsThis)" in (refused.value.saw or "") and "odd/two (NobodyKnowsThis)" in (refused.value.saw or "")


def test_no_gpu(bundle, monkeypatch):
    fake_tensorrt.install(monkeypatch, gpu=False)
    with pytest.raises(MissingError, match="found no usable GPU") as missing:
        build(bundle, gpu=ORIN)
    assert "CUDA initialization failure" in (missing.value.saw or "") and "--runtime nvidia" in (missing.value.fix or "")


def test_a_host_without_tensorrt_is_sent_to_the_board(bundle, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingError, match="TensorRT"):
        build(bundle, gpu=ORIN, root=tmp_path)


# --- the command --------------------------------------------------------------------------------------------------------------


def test_the_verb_prints_verdict_and_next_command(bundle, monkeypatch, capsys):
    fake_tensorrt.install(monkeypatch)
    from edgedit.cli.build import build as verb

    monkeypatch.setattr("edgedit.device.trt.build._ask_cuda", lambda: ORIN)
    verb(bundle)
    out = capsys.readouterr().out
    assert "2 of 2 attention blocks fused (attention: pattern)" in out and "block1     fused    _gemm_mha_v2" in out
    assert f"next: edgedit generate {bundle} --runtime trt --count 64" in out
    verb(bundle, json=True)
    body = json.loads(capsys.readouterr().out)
    assert body["fusion"]["fused"] == 2 and open_engine(Path(body["path"])).key.sm_count == 8


def test_importing_the_room_imports_no_tensorrt():
    code = ("import sys, edgedit.device.trt.build, edgedit.device.trt.child, edgedit.device.trt.inspect, edgedit.cli.build\n"
            "bad = {'tensorrt', 'pycuda', 'onnx', 'torch', 'onnxruntime'} & set(sys.modules); assert not bad, bad")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
