"""Bundles and engines for tests of the TensorRT runtime, on the doubles of TensorRT and of the CUDA driver."""

from __future__ import annotations

import contextlib
import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_kit import make_bundle, small_spec

from edgedit.core.artifact import create
from edgedit.core.errors import EdgeditError
from edgedit.core.spec import DiTSpec
from edgedit.device.bundle import Bundle
from edgedit.device.runtime import open_runtime
from tests import fake_cuda, fake_tensorrt


def graph(spec: DiTSpec, batch: int | str, *, quantised: bool = True, halves: bool = False) -> bytes:
    """The graph of bundle_kit (brighter by class, exact in float32), in the order that TensorRT takes: the uint8 cast comes last.

    Not `quantised`, it gives float32 (B, C, S, S) in -1 … 1; with `halves` twice as many, the second half without class.
    """
    from onnx import TensorProto as T
    from onnx import helper as h
    from onnx import numpy_helper

    size, c = spec.image, spec.channels
    constants = {"scale": np.float32(12), "base": np.float32(40), "step": np.float32(50), "low": np.float32(0), "high": np.float32(255),
                 "shape": np.array([-1, 1, 1, 1]), "middle": np.float32(128), "span": np.float32(127.5)}
    nodes = [h.make_node("Mul", ["noise", "scale"], ["a"]), h.make_node("Add", ["a", "base"], ["b"]),
             h.make_node("Cast", ["labels"], ["l"], to=T.FLOAT), h.make_node("Reshape", ["l", "shape"], ["m"]),
             h.make_node("Mul", ["m", "step"], ["n"]), h.make_node("Add", ["b", "n"], ["d"])]
    images = h.make_tensor_value_info("images", T.UINT8, [batch, size, size, c])
    if quantised:
        nodes += [h.make_node("Clip", ["d", "low", "high"], ["e"]), h.make_node("Floor", ["e"], ["f"]),
                  h.make_node("Transpose", ["f"], ["g"], perm=[0, 2, 3, 1]), h.make_node("Cast", ["g"], ["images"], to=T.UINT8)]
    else:
        rows = 2 * int(batch) if halves else batch
        images = h.make_tensor_value_info("images", T.FLOAT, [rows, c, size, size])
        last = "d"
        if halves:
            nodes, last = [*nodes, h.make_node("Concat", ["d", "b"], ["both"], axis=0)], "both"
        nodes += [h.make_node("Sub", [last, "middle"], ["s"]), h.make_node("Div", ["s", "span"], ["images"])]
    inputs = [h.make_tensor_value_info("noise", T.FLOAT, [batch, c, size, size]), h.make_tensor_value_info("labels", T.INT32, [batch])]
    weights = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    model = h.make_model(h.make_graph(nodes, "test", inputs, [images], weights), opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def bundle(folder: Path, *, batch: int = 4, dynamic: bool = False, spec: DiTSpec | None = None, **changes: Any) -> Bundle:
    """A bundle whose graph both ONNX Runtime and TensorRT take."""
    spec = spec or small_spec()
    model = graph(spec, "batch" if dynamic else batch)
    return Bundle.open(make_bundle(folder, batch=batch, dynamic=dynamic, spec=spec, model=model, **changes))


def engine(folder: Path, made_for: Bundle, *, model: bytes | None = None, data: bytes | None = None, **key: Any) -> Path:
    """An engine artifact, built in this process; `data` puts other bytes into the plan, `key` changes entries of the key."""
    from dataclasses import replace

    import tensorrt as trt

    from edgedit.device.cuda.device import read_gpu
    from edgedit.device.trt.engine import KIND, PLAN_FILE, make_key

    if data is None:
        data = plan(trt, model or made_for.model.read_bytes(), made_for)
    made = replace(make_key(made_for, trt.__version__, read_gpu(), made_for.batch), **key)
    with create(folder, KIND) as draft:
        draft.write(PLAN_FILE, data)
        draft.info = {"key": made.to_dict()}
    return folder


def plan(trt: Any, model: bytes, made_for: Bundle) -> bytes:
    """The serialised engine of an ONNX graph."""
    builder = trt.Builder(trt.Logger())
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, trt.Logger()).parse(model)
    config = builder.create_builder_config()
    if network.get_input(0).shape[0] == -1:
        profile = builder.create_optimization_profile()
        for name, shape in (("noise", made_for.noise_shape), ("labels", ())):
            profile.set_shape(name, (1, *shape), (made_for.batch, *shape), (made_for.batch, *shape))
        config.add_optimization_profile(profile)
    return bytes(memoryview(builder.build_serialized_network(network, config)))


def refusal(kind: type[EdgeditError], made_for: Bundle, **options: Any) -> EdgeditError:
    """The error with which the runtime does not open, without its traceback: that would keep what the runtime let go of."""
    try:
        open_runtime(made_for, "trt", **options).close()
    except kind as error:
        return kind(error.what, saw=error.saw, fix=error.fix)
    raise AssertionError("it opened")


@contextlib.contextmanager
def board(gpu: dict[str, Any] | None = None, *, lazy: bool = True, version: str = "10.3.0") -> Any:
    """Both doubles in place, TensorRT's work queued in the streams; gives the driver's double. Checks that nothing is left alive."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        double = fake_cuda.install(monkeypatch, gpu or fake_cuda.ORIN_NANO, lazy=lazy)
        fake_tensorrt.install(monkeypatch, version)
        fake_cuda.queue_tensorrt(monkeypatch, double)
        yield double
        gc.collect()
        assert not double.alive(), f"not freed: {double.alive()}"
