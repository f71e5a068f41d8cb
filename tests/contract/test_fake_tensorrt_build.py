"""The double's builder: which attention becomes one layer, layers put in by hand, progress, failures, timing caches, children."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
from onnx import TensorProto

from tests.contract.bindings import ROOT, VERSIONS
from tests.contract.contract_kit import SPEC, attention_graph, built, by_onnxruntime, exported, inputs, layers, listen, parsed, run
from tests.fake_tensorrt import ORIN_NANO

_, MIDDLE, NEW = VERSIONS

# --- attention --------------------------------------------------------------------------------------------------------------

HALF, SINGLE = {}, {"dtype": TensorProto.FLOAT}


@pytest.mark.parametrize(("what", "fuses"), [
    (HALF, True), ({"dtype": TensorProto.BFLOAT16}, True), (SINGLE, False), ({"head": 8}, False), ({"head": 12}, False),
    ({"head": 20}, False), ({"head": 24}, True), ({"head": 256}, True), ({"head": 264}, False), ({"between": "Mul"}, False),
    ({"between": "Add"}, True), ({"quantised": "qkvso"}, True), ({"quantised": "qkvso", "head": 24}, False),
    ({"quantised": "qkvs"}, False), ({"quantised": "qk"}, False), ({"quantised": "o"}, True),
    ({"quantised": "qkvso", "tokens": 520}, False), ({"quantised": "qkvso", "head": 64, "tokens": 512}, True)])
def test_attention_is_one_layer_where_the_rules_hold(double, what, fuses):
    if what.get("dtype") == TensorProto.BFLOAT16:
        pytest.importorskip("ml_dtypes")
    trt = double()
    heard = listen(trt)
    told = layers(trt, built(trt, attention_graph(**what), heard.logger), heard.logger)
    found = [layer for layer in told if "_mha_v2" in layer["TacticName"]]
    assert len(found) == fuses
    parts = [layer["Metadata"] for layer in told if "softmax" in layer["Metadata"]]
    middle = ("between" in what and "[ONNX Layer: between]\x1e") or ""
    quantised = ("s" in what.get("quantised", "") and "[ONNX Layer: shares_q]\x1e[ONNX Layer: shares_dq]\x1e") or ""
    assert parts == [f"[ONNX Layer: scores]\x1e{middle}[ONNX Layer: softmax]\x1e{quantised}[ONNX Layer: values]" if fuses else
                     "[ONNX Layer: softmax]"]


@pytest.mark.parametrize(("knob", "fused"), [(True, 2), (False, 0), ("iattention", 0)])
def test_every_block_of_an_exported_graph_fuses_unless_declined(double, graph, knob, fused):
    trt = double(fuse=knob)
    heard = listen(trt)
    assert sum("mha" in layer["Name"] for layer in layers(trt, built(trt, graph, heard.logger), heard.logger)) == fused


def test_less_verbosity_tells_less(double, graph):
    trt = double(NEW)
    heard = listen(trt)
    builder, network, _ = parsed(trt, graph, heard.logger)
    told = {}
    for verbosity in (trt.ProfilingVerbosity.NONE, trt.ProfilingVerbosity.LAYER_NAMES_ONLY):
        config = builder.create_builder_config()
        config.profiling_verbosity = verbosity
        engine = trt.Runtime(heard.logger).deserialize_cuda_engine(builder.build_serialized_network(network, config))
        text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
        told[verbosity.name] = json.loads(text)
    assert told["NONE"]["Layers"] == [] and all(isinstance(x, str) for x in told["LAYER_NAMES_ONLY"]["Layers"])
    assert told["NONE"]["I/O Tensors"] == ["noise", "labels", "images"]


@pytest.mark.parametrize("version", VERSIONS[1:])
@pytest.mark.parametrize(("dtype", "decomposable", "works"), [
    (TensorProto.FLOAT16, False, True), (TensorProto.FLOAT, False, False), (TensorProto.FLOAT, True, True)])
def test_an_attention_put_in_by_hand(double, version, dtype, decomposable, works):
    """Layers are walked, cast and rewired; the numbers stay; an IAttention without a kernel needs leave to decompose."""
    trt, data = double(version), attention_graph(dtype=dtype)
    heard = listen(trt)
    builder, network, _ = parsed(trt, data, heard.logger)
    found = {layer.name: layer for layer in (network.get_layer(i) for i in range(network.num_layers))}
    softmax = found["softmax"]
    assert softmax.type == trt.LayerType.SOFTMAX and network.get_layer(network.num_layers) is None
    with pytest.raises(TypeError, match="undefined"):
        softmax.__class__ = trt.IShuffleLayer
    softmax.__class__ = trt.ISoftMaxLayer
    assert softmax.axes == 1 << 3
    scores = found["scores"]
    back = network.add_shuffle(scores.get_input(1))
    back.first_transpose = trt.Permutation([0, 1, 3, 2])
    assert tuple(back.get_output(0).shape) == (2, 1, 8, 16)
    attention = network.add_attention(scores.get_input(0), back.get_output(0), found["values"].get_input(1),
                                      trt.AttentionNormalizationOp.SOFTMAX, False)
    attention.name, attention.decomposable, attention.metadata = "mha", decomposable, "[ONNX Layer: scores]\x1e[ONNX Layer: values]"
    found["out"].set_input(0, attention.get_output(0))
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    plan = builder.build_serialized_network(network, config)
    assert (plan is not None) == works
    if works:
        told = layers(trt, plan, heard.logger)
        assert sum("mha_v2" in layer["Name"] for layer in told) == (dtype == TensorProto.FLOAT16)
        assert not any("softmax" in layer["Metadata"] for layer in told), "the old layers must be gone"
        kind = np.float16 if dtype == TensorProto.FLOAT16 else np.float32
        chance = np.random.default_rng(0)
        feed = {n: chance.standard_normal(s).astype(kind) for n, s in
                {"q": (2, 1, 8, 16), "k": (2, 1, 16, 8), "v": (2, 1, 8, 16)}.items()}
        out = np.zeros((2, 1, 8, 16), kind)
        engine = trt.Runtime(heard.logger).deserialize_cuda_engine(plan)
        assert run(engine.create_execution_context(), feed, out, "out")
        np.testing.assert_allclose(out, by_onnxruntime(data, feed), atol=2e-3)


def test_quantised_exports_run_and_fuse(double):
    """Q/DQ of `edgedit export --precision int8` with both attention products quantised: one layer a block, ONNX Runtime's images."""
    trt, data = double(), exported("int8")
    heard = listen(trt)
    plan = built(trt, data, heard.logger)
    fused = [layer["Metadata"].count("[ONNX Layer:") for layer in layers(trt, plan, heard.logger) if "mha" in layer["Name"]]
    assert fused == [5, 5], "product, softmax, Q, DQ, product, in both blocks"
    out, feed = np.zeros((len(inputs()["labels"]), 8, 8, 3), np.uint8), inputs()
    assert run(trt.Runtime(heard.logger).deserialize_cuda_engine(plan).create_execution_context(), feed, out)
    expected = by_onnxruntime(data, feed)
    assert expected.std() > 5 and np.abs(out.astype(int) - expected).max() <= 1


# --- building ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_after", [None, 3])
def test_progress_is_told_and_can_stop_the_build(double, graph, stop_after):
    trt = double()
    heard, told = listen(trt), []

    class Monitor(trt.IProgressMonitor):
        def __init__(self):
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name, parent_phase, num_steps):
            told.append(("start", phase_name, parent_phase, num_steps))

        def phase_finish(self, phase_name):
            told.append(("finish", phase_name))

        def step_complete(self, phase_name, step):
            told.append(("step", phase_name, step))
            return stop_after is None or len(told) < stop_after

    builder, network, _ = parsed(trt, graph, heard.logger)
    config = builder.create_builder_config()
    config.progress_monitor = Monitor()
    plan = builder.build_serialized_network(network, config)
    assert (plan is None) == (stop_after is not None)
    if stop_after is None:
        parents = {name: parent for kind, name, parent, _ in (t for t in told if t[0] == "start")}
        assert set(parents.values()) == {None, "Building Engine"}
        assert {t[1] for t in told if t[0] == "finish"} == set(parents)
    else:
        assert "Cancelled" in heard.errors()


@pytest.mark.parametrize(("knob", "words"), [("null", "Could not find any implementation"), ("memory", "OutOfMemory")])
def test_builds_that_fail(double, graph, knob, words):
    trt = double(build=knob)
    heard = listen(trt)
    assert built(trt, graph, heard.logger) is None and words in heard.errors()


def test_a_slow_build_takes_two_seconds(double, graph, monkeypatch):
    trt = double(build="slow")
    slept = []
    monkeypatch.setattr(sys.modules["tensorrt_double.build"].time, "sleep", slept.append)
    assert built(trt, graph, listen(trt).logger) is not None and sum(slept) == pytest.approx(2)


CHILD = """
import sys
sys.path.insert(0, {root!r})
import tensorrt as trt
from tests.contract.contract_kit import attention_graph, built
print(trt.__version__, flush=True)
built(trt, attention_graph(), trt.Logger())
"""


@pytest.mark.parametrize(("knob", "code"), [("ok", 0), ("kill", -signal.SIGKILL)])
def test_child_processes_have_it_too(double, tmp_path, knob, code):
    trt = double(MIDDLE, build=knob)
    done = subprocess.run([sys.executable, "-c", CHILD.format(root=str(ROOT))], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.split("\n")[0]) == (code, trt.__version__), done.stderr


def test_timing_caches_hold_for_one_place(double, graph, monkeypatch):
    trt = double()
    builder, network, _ = parsed(trt, graph, listen(trt).logger)
    config = builder.create_builder_config()
    assert config.get_timing_cache() is None
    assert config.set_timing_cache(config.create_timing_cache(b""), False)
    empty = bytes(config.get_timing_cache().serialize())
    builder.build_serialized_network(network, config)
    kept = bytes(config.get_timing_cache().serialize())
    assert len(kept) > len(empty) and config.create_timing_cache(b"rubbish") is None
    with pytest.raises(TypeError):
        config.set_timing_cache(None, False)
    monkeypatch.setenv("EDGEDIT_FAKE_GPU", json.dumps(ORIN_NANO | {"sm_count": 4}))
    assert not config.set_timing_cache(config.create_timing_cache(kept), False)
    assert config.set_timing_cache(config.create_timing_cache(kept), True)


def test_spec_of_the_kit_fuses():
    """The kit's student must have heads that TensorRT fuses, or the tests above would show nothing."""
    assert SPEC.head_size == 16
