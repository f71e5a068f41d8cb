"""The double of TensorRT: the real module's names and signatures and nothing more, ONNX Runtime's images, documented refusals."""

from __future__ import annotations

import importlib
import inspect
import json
import sys

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.contract.bindings import VERSIONS, load_real, version_tuple
from tests.contract.contract_kit import (
    BATCH,
    built,
    by_onnxruntime,
    exported,
    inputs,
    listen,
    parsed,
    run,
)
from tests.fake_tensorrt import ORIN_NANO, install

OLD, MIDDLE, NEW = VERSIONS


# --- names and signatures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_classes_have_the_real_names_and_no_other(double, version):
    trt, real = double(version), load_real(version)
    assert trt.__version__ == version and trt.__file__ != real.__file__
    doubled = [name for name, value in vars(trt).items() if inspect.isclass(value) and getattr(real, name, value) is not value]
    assert {"Builder", "IBuilderConfig", "INetworkDefinition", "OnnxParser", "Runtime", "ICudaEngine", "IExecutionContext"} <= {*doubled}
    assert ("IAttention" in doubled) == (version_tuple(version) >= (10, 14))
    for name in doubled:
        ours, theirs = getattr(trt, name), getattr(real, name)
        if name == "IHostMemory":
            continue
        assert {n for n in dir(ours) if n[0] != "_"} == {n for n in dir(theirs) if n[0] != "_"}, name
    assert {n for n in dir(trt) if n[0] != "_"} == {n for n in dir(real) if n[0] != "_"}
    assert trt.BuilderFlag is real.BuilderFlag and trt.IProgressMonitor is real.IProgressMonitor


@pytest.mark.parametrize("version", VERSIONS)
def test_wrong_use_raises(double, version):
    trt = double(version)
    logger = trt.Logger()
    builder, config = trt.Builder(logger), trt.Builder(logger).create_builder_config()
    for wrong in (lambda: builder.build_cuda_engine, lambda: config.max_workspace_size, lambda: trt.ICudaEngine.num_bindings):
        with pytest.raises(AttributeError):
            wrong()
    with pytest.raises(AttributeError, match="no attribute 'max_workspace_size'"):
        config.max_workspace_size = 1
    pool = trt.MemoryPoolType.WORKSPACE
    for wrong in (lambda: config.set_memory_pool_limit(pool), lambda: config.set_memory_pool_limit(pool, 1.5),
                  lambda: config.set_memory_pool_limit(0, 1), lambda: config.set_memory_pool_limit(pool, size=1),
                  lambda: config.set_flag(int(trt.BuilderFlag.TF32)), lambda: trt.Builder(), lambda: trt.Builder("logger"),
                  lambda: builder.create_network(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED, 1), lambda: trt.IBuilderConfig()):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(TypeError, match="incompatible function arguments"):
        config.progress_monitor = object()
    config.set_memory_pool_limit(pool=pool, pool_size=np.int64(5))
    config.progress_monitor = None
    assert config.get_memory_pool_limit(pool) == 5
    with pytest.raises(NotImplementedError, match="IBuilderConfig"):
        config.reset()


def test_a_version_lacks_what_the_real_one_lacks(double, graph):
    trt = double(NEW)
    logger = listen(trt).logger
    engine = trt.Runtime(logger).deserialize_cuda_engine(built(trt, graph, logger))
    for wrong in (lambda: engine.create_execution_context_without_device_memory, lambda: engine.device_memory_size,
                  lambda: trt.BuilderFlag.FP16, lambda: trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH):
        with pytest.raises(AttributeError):
            wrong()
    assert engine.device_memory_size_v2 > 0
    trt = double(OLD)
    network = parsed(trt, graph, listen(trt).logger)[1]
    with pytest.raises(AttributeError):
        network.add_attention  # noqa: B018
    assert trt.BuilderFlag.FP16.name == "FP16"


def test_host_memory_is_a_buffer_and_not_bytes(double, graph):
    trt = double()
    plan = built(trt, graph, listen(trt).logger)
    assert memoryview(plan).nbytes == plan.nbytes == len(bytes(plan)) > 1000
    for wrong in (lambda: len(plan), lambda: plan[:4], lambda: plan + b""):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(AttributeError):
        plan.hex()


# --- graph to images --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_images_are_onnx_runtimes(double, version, precision):
    trt, data = double(version), exported(precision)
    heard = listen(trt)
    engine = trt.Runtime(heard.logger).deserialize_cuda_engine(built(trt, data, heard.logger))
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    assert [(name, engine.get_tensor_mode(name).name, tuple(engine.get_tensor_shape(name)), engine.get_tensor_dtype(name).name)
            for name in names] == [("noise", "INPUT", (BATCH, 3, 8, 8), "FLOAT"), ("labels", "INPUT", (BATCH,), "INT32"),
                                   ("images", "OUTPUT", (BATCH, 8, 8, 3), "UINT8")]
    out, feed = np.zeros((BATCH, 8, 8, 3), np.uint8), inputs()
    context = engine.create_execution_context()
    assert run(context, feed, out) and not heard.errors()
    expected = by_onnxruntime(data, feed)
    assert expected.std() > 5 and np.abs(out.astype(int) - expected).max() <= 1
    feed["noise"] *= -1  # the addresses stay, the contents change
    assert context.execute_async_v3(7) and (out != expected).any()


def test_any_batch_inside_the_profile(double):
    trt, data = double(), exported(batch=None)
    heard = listen(trt)
    builder, network, _ = parsed(trt, data, heard.logger)
    config = builder.create_builder_config()
    assert builder.build_serialized_network(network, config) is None and "no optimization profile" in heard.errors()
    profile = builder.create_optimization_profile()
    with pytest.raises(ValueError):
        profile.set_shape("labels", (5,), (4,), (8,))
    profile.set_shape("noise", (1, 3, 8, 8), (4, 3, 8, 8), (6, 3, 8, 8))
    profile.set_shape("labels", (1,), (4,), (6,))
    config.add_optimization_profile(profile)
    engine = trt.Runtime(heard.logger).deserialize_cuda_engine(builder.build_serialized_network(network, config))
    assert tuple(engine.get_tensor_shape("noise")) == (-1, 3, 8, 8)
    context, feed, out = engine.create_execution_context(), inputs(6), np.zeros((6, 8, 8, 3), np.uint8)
    assert context.infer_shapes() == ["noise", "labels"] and not run(context, feed, out)
    assert not context.set_input_shape("noise", (7, 3, 8, 8)) and "optimization profiles" in heard.errors()
    assert context.set_input_shape("noise", (6, 3, 8, 8)) and context.set_input_shape("labels", [5])
    assert not context.execute_async_v3(7) and "disagree" in heard.errors()
    assert context.set_input_shape("labels", [6]) and tuple(context.get_tensor_shape("images")) == (6, 8, 8, 3)
    assert run(context, feed, out) and np.abs(out.astype(int) - by_onnxruntime(data, feed)).max() <= 1


def test_missing_address_is_refused(double, graph):
    trt = double()
    heard = listen(trt)
    context = trt.Runtime(heard.logger).deserialize_cuda_engine(built(trt, graph, heard.logger)).create_execution_context()
    assert not context.set_tensor_address("nose", 4096) and "invalid tensor name" in heard.errors()
    assert not context.execute_async_v3(7) and "Address is not set for input tensor noise" in heard.errors()


# --- refusals ---------------------------------------------------------------------------------------------------------------


def test_without_a_gpu_the_factories_return_null(double):
    trt = double(gpu=False)
    heard = listen(trt)
    for make in (trt.Builder, trt.Runtime):
        with pytest.raises(TypeError, match="factory function returned nullptr"):
            make(heard.logger)
    assert "CUDA initialization failure" in heard.errors()


def test_plans_of_another_place_do_not_load(double, graph, monkeypatch):
    trt = double()
    plan = bytes(built(trt, graph, listen(trt).logger))

    def errors(data):
        heard = listen(trt)
        assert trt.Runtime(heard.logger).deserialize_cuda_engine(data) is None
        return heard.errors()

    assert "Magic tag" in errors(plan[:-1]) and "Magic tag" in errors(b"") and "Magic tag" in errors(b"x" + plan)
    monkeypatch.setenv("EDGEDIT_FAKE_GPU", json.dumps(ORIN_NANO | {"compute_capability": [8, 9]}))
    assert "expecting compute 8.9 got compute 8.7" in errors(plan)
    monkeypatch.setenv("EDGEDIT_FAKE_GPU", json.dumps(ORIN_NANO | {"sm_count": 4}))
    heard = listen(trt)
    assert trt.Runtime(heard.logger).deserialize_cuda_engine(plan) is not None
    assert [severity for severity, text in heard.lines if "different models" in text] == ["WARNING"]
    trt = double(MIDDLE)
    assert "Version tag does not match" in errors(plan)


def test_the_parser_refuses_what_the_version_cannot_read(double):
    data = exported(attention="onnx")
    for version, errors in ((OLD, 2), (MIDDLE, 0), (NEW, 0)):
        trt = double(version)
        parser = parsed(trt, data, listen(trt).logger)[2]
        assert parser.num_errors == errors
    trt = double()
    parser = parsed(trt, data, listen(trt).logger)[2]
    error = parser.get_error(0)
    assert (error.code(), error.node_operator(), error.node_name()) == (trt.ErrorCode.UNSUPPORTED_NODE, "Attention",
                                                                        "block0/attention/attention")
    assert "Plugin not found" in error.desc()
    parser = parsed(trt, exported("fp32", attention="ort"), listen(trt).logger)[2]
    assert {parser.get_error(i).node_operator() for i in range(parser.num_errors)} >= {"MultiHeadAttention", "FastGelu"}
    parser = parsed(trt, b"not a model", listen(trt).logger)[2]
    assert parser.get_error(0).code() == trt.ErrorCode.MODEL_DESERIALIZE_FAILED


@pytest.mark.parametrize("version", VERSIONS[:2])
def test_flags_of_weak_typing_are_refused_beside_strong_typing(double, version, graph):
    trt = double(version)
    heard = listen(trt)
    builder, network, _ = parsed(trt, graph, heard.logger)
    config = builder.create_builder_config()
    config.set_flag(trt.BuilderFlag.FP16)
    assert builder.build_serialized_network(network, config) is None and "strongly typed" in heard.errors()


def test_uint8_is_for_the_border_only(double):
    nodes = [helper.make_node("Cast", ["x"], ["y"], "cast", to=TensorProto.UINT8),
             helper.make_node("Transpose", ["y"], ["z"], "late", perm=[1, 0])]
    body = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])],
                             [helper.make_tensor_value_info("z", TensorProto.UINT8, [3, 2])])
    data = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()
    trt = double()
    heard = listen(trt)
    assert built(trt, data, heard.logger) is None and "'late': UInt8" in heard.errors()


def test_it_is_gone_after_the_test():
    with pytest.MonkeyPatch.context() as patch:
        install(patch, NEW)
        assert importlib.import_module("tensorrt").__version__ == NEW
    assert not [name for name in sys.modules if name.split(".")[0] in ("tensorrt", "tensorrt_double")]
    assert not any("fake_tensorrt" in entry for entry in sys.path)
