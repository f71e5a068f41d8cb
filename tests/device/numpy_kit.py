"""Tiny ONNX models and students for the tests of the NumPy runtime, and both runtimes on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import NodeProto, helper, numpy_helper

from edgedit.core.spec import DiTSpec
from edgedit.device.numpy_graph.onnx_file import parse_model
from edgedit.device.numpy_graph.plan import make_plan, run
from edgedit.export.graph import build
from edgedit.export.int8 import Int8Settings, sites_of
from edgedit.export.plan import Plan
from edgedit.model.deploy import fold
from edgedit.model.dit import DiT

SPEC = DiTSpec(2, 32, 4, image=8, classes=3)


def random_dit(spec: DiTSpec = SPEC, seed: int = 0) -> DiT:
    """Every weight random, of a size that keeps images within a few units."""
    model, chance = DiT(spec), torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if name != "position":
            weight.data = (0.3 if weight.ndim < 2 else weight.shape[-1] ** -0.5) * torch.randn(weight.shape, generator=chance)
    model.final.linear.weight.data *= 0.3
    return model.eval().requires_grad_(False)


def exported(precision: str = "fp32", attention: str = "pattern", *, batch: int | None = 4, guidance: float = 1.5, opset: int | None = None,
             int8: Int8Settings | None = None, spec: DiTSpec = SPEC) -> bytes:
    """The graph of a random student as the exporter writes it; `int8` quantises all its sites with one scale."""
    plan = Plan.of(spec, precision, attention, batch=batch, guidance_scale=guidance, opset=opset)
    if int8 is not None:
        plan = Plan(**{**vars(plan), "scales": dict.fromkeys(sites_of(range(spec.depth), int8), float(np.float16(0.04)))})
    return build(fold(random_dit(spec), guidance), plan).SerializeToString()


def model_of(nodes: Sequence[NodeProto], inputs: Mapping[str, np.ndarray], outputs: Mapping[str, Any],
             constants: Mapping[str, Any] | None = None, opset: int = 20) -> bytes:
    """A model of these nodes; `outputs` gives the element type of each."""
    def info(name: str, dtype: Any, shape: Any) -> Any:
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)

    graph = helper.make_graph(list(nodes), "test", [info(k, v.dtype, v.shape) for k, v in inputs.items()],
                              [info(k, v, []) for k, v in outputs.items()],
                              [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()])
    for value in graph.output:
        del value.type.tensor_type.shape.dim[:]
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=11 if opset > 20 else 9).SerializeToString()


def by_numpy(model: bytes, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    return run(make_plan(parse_model(model)), inputs)


def by_ort(model: bytes, inputs: Mapping[str, np.ndarray], *, optimised: bool = False) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, dict(inputs))
