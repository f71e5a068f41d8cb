"""What the tests of the double share: real exported graphs, bare attentions, and the calls from graph to images."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edgedit.core.noise import noise
from edgedit.core.spec import DiTSpec

SPEC = DiTSpec(2, 32, 2, image=8, classes=3)
BATCH = 4


def exported(precision: str = "fp16", *, attention: str = "pattern", batch: int | None = BATCH, spec: DiTSpec = SPEC) -> bytes:
    """The graph that `edgedit export` writes for a student with random weights: model.onnx as bytes; "int8" with made-up scales."""
    import torch

    from edgedit.export.graph import build
    from edgedit.export.int8 import Int8Settings, sites_of
    from edgedit.export.plan import Plan
    from edgedit.model.deploy import fold
    from edgedit.model.dit import DiT

    model, chance = DiT(spec), torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if name != "position":
            weight.data = (0.3 if weight.ndim < 2 else weight.shape[-1] ** -0.5) * torch.randn(weight.shape, generator=chance)
    model.final.linear.weight.data *= 0.3
    plan = Plan.of(spec, "fp16" if precision == "int8" else precision, attention, batch=batch, guidance_scale=1.5)
    if precision == "int8":
        plan = replace(plan, scales=dict.fromkeys(sites_of(range(spec.depth), Int8Settings(attention=True)), 0.05))
    with torch.no_grad():
        return build(fold(model.eval(), 1.5), plan).SerializeToString()


def attention_graph(*, dtype: int = TensorProto.FLOAT16, head: int = 16, tokens: int = 8, quantised: str = "", between: str = "",
                    batch: int | str = 2) -> bytes:
    """One bare attention q·k → softmax → ·v; `quantised`: letters of where Q/DQ stands (q k v s o), `between`: an operator that
    stands between the first product and the softmax."""
    half, nodes = helper.tensor_dtype_to_np_dtype(dtype), []
    weights = [numpy_helper.from_array(np.array(0.05, half), "scale"), numpy_helper.from_array(np.array(0, np.int8), "zero")]

    def qdq(value: str, place: str) -> str:
        if place not in quantised:
            return value
        nodes.extend([helper.make_node("QuantizeLinear", [value, "scale", "zero"], [f"{value}8"], f"{value}_q"),
                      helper.make_node("DequantizeLinear", [f"{value}8", "scale", "zero"], [f"{value}d"], f"{value}_dq")])
        return f"{value}d"

    q, k, v = (qdq(value, value) for value in "qkv")
    nodes.append(helper.make_node("MatMul", [q, k], ["scores"], "scores"))
    last = "scores"
    if between:
        nodes.append(helper.make_node(between, ["scores", "scale"], ["between"], "between"))
        last = "between"
    nodes.append(helper.make_node("Softmax", [last], ["shares"], "softmax", axis=-1))
    nodes.append(helper.make_node("MatMul", [qdq("shares", "s"), v], ["values"], "values"))
    out = qdq("values", "o")
    nodes.append(helper.make_node("Identity", [out], ["out"], "out"))
    shapes = {"q": (batch, 1, tokens, head), "k": (batch, 1, head, tokens), "v": (batch, 1, tokens, head)}
    body = helper.make_graph(nodes, "attention", [helper.make_tensor_value_info(n, dtype, s) for n, s in shapes.items()],
                             [helper.make_tensor_value_info("out", dtype, shapes["v"])], weights)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()


@dataclass
class Heard:
    """A logger and what it heard: (severity name, text)."""

    logger: Any
    lines: list[tuple[str, str]]

    def errors(self) -> str:
        """All errors in one text."""
        return "\n".join(text for severity, text in self.lines if severity in ("ERROR", "INTERNAL_ERROR"))


def listen(trt: ModuleType) -> Heard:
    """A logger of our own, as our code has one."""
    lines: list[tuple[str, str]] = []

    class Ears(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            lines.append((severity.name, msg))

    return Heard(Ears(), lines)


def parsed(trt: ModuleType, data: bytes, logger: Any, *, typed: bool = True) -> tuple[Any, Any, Any]:
    """(builder, network, parser) after parsing; look at parser.num_errors."""
    builder = trt.Builder(logger)
    network = builder.create_network(typed << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    parser.parse(data)
    return builder, network, parser


def built(trt: ModuleType, data: bytes, logger: Any) -> Any:
    """The plan of a graph, with a detailed inspector; None where the builder refuses."""
    builder, network, parser = parsed(trt, data, logger)
    assert not parser.num_errors, parser.get_error(0).desc()
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    return builder.build_serialized_network(network, config)


def layers(trt: ModuleType, plan: Any, logger: Any) -> list[dict[str, Any]]:
    """What the inspector says of a plan's layers."""
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    return json.loads(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))["Layers"]


def inputs(batch: int = BATCH) -> dict[str, np.ndarray]:
    """Noise and labels for a graph of SPEC."""
    return {"noise": noise(3, range(batch), (SPEC.channels, SPEC.image, SPEC.image)).astype(np.float32),
            "labels": np.arange(batch, dtype=np.int32) % SPEC.classes}


def run(context: Any, feed: dict[str, np.ndarray], out: np.ndarray, name: str = "images") -> bool:
    """Set every address and execute on a stream that is not the default one."""
    for key, array in {**feed, name: out}.items():
        assert context.set_tensor_address(key, array.ctypes.data)
    return bool(context.execute_async_v3(7))


def by_onnxruntime(data: bytes, feed: dict[str, np.ndarray]) -> np.ndarray:
    """What ONNX Runtime makes of it on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, feed)[0]
