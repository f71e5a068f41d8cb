"""Is the graph well-formed, do others read it, and does it compute what the folded network computes?"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto

from edgedit.core.errors import EdgeditError, MissingError, NumericsError
from edgedit.core.noise import labels, noise
from edgedit.core.spec import DiTSpec
from edgedit.model.deploy import DeployedDiT

COMPARED = 8
"""Images compared with the folded network."""
APART = 8.0
"""Mean difference in grey levels from which on the images count as other ones. FP16 is 0.1 or less."""
_SIGNATURE = {"noise": TensorProto.FLOAT, "labels": TensorProto.INT32, "images": TensorProto.UINT8}


class GraphError(EdgeditError):
    """A graph that this package wrote does not pass: a fault of the exporter, not of its user."""


def check_wellformed(model: ModelProto) -> dict[str, Any]:
    """ONNX's own checker with full, strict shape inference; every value must have a type and a rank.

    Returns:
        opsets by domain, IR version, number of values typed.

    Raises:
        GraphError: what the checker says, or a value without a type.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
        graph = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphError("the exported graph is not valid ONNX", saw=error) from error
    typed = {v.name: v.type.tensor_type for v in (*graph.input, *graph.value_info, *graph.output)}
    for node in graph.node:
        for value in node.output:
            if value not in typed or not typed[value].elem_type or not typed[value].HasField("shape"):
                raise GraphError(f"'{value}' has no type or shape", saw=f"{node.domain}:{node.op_type}")
    for name, kind in _SIGNATURE.items():
        if typed[name].elem_type != kind:
            raise GraphError(f"'{name}' has the wrong element type", saw=typed[name].elem_type)
    return {"checker": "onnx " + onnx.__version__, "ir_version": model.ir_version, "values": len(typed),
            "opsets": {o.domain or "ai.onnx": o.version for o in model.opset_import}}


def open_session(model: bytes, *, optimised: bool = True, threads: int = 0) -> Any:
    """An ONNX Runtime session on the CPU, telemetry off; MissingError without the package."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise MissingError("ONNX Runtime is not installed: the exported graph cannot be tried", saw=error,
                           fix="pip install 'edgedit[host]'") from error
    ort.disable_telemetry_events()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
    # Up to 1.23 this fusion mistakes a scale per sample (dialect "ort") for a weight, and its operator then refuses it.
    old = tuple(map(int, ort.__version__.split(".")[:2])) < (1, 24)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"], disabled_optimizers=["SkipLayerNormFusion"] * old)


def check_runs(model: bytes, network: DeployedDiT, *, batch: int, seed: int = 0) -> dict[str, Any]:
    """Load the file's bytes in ONNX Runtime, generate one batch, and compare its first images with the folded network.

    Args:
        model: the serialised graph.
        network: float32, with the graph's guidance scale.
        batch: images to run; the graph's own where it is fixed.
        seed: of the noise; labels are balanced.

    Returns:
        runtime, batch, images compared, largest difference in grey levels, share of values that differ in percent.

    Raises:
        GraphError: ONNX Runtime refuses the graph.
        NumericsError: constant or plainly different images.
    """
    import torch

    spec = network.spec
    z, c = noise(seed, range(batch), _shape(spec)), labels(seed, range(batch), spec.classes)
    try:
        session = open_session(model)
        images = session.run(["images"], {"noise": z, "labels": c})[0]
    except MissingError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise GraphError("ONNX Runtime does not run the exported graph", saw=str(error).strip().splitlines()[0]) from error
    if images.dtype != np.uint8 or images.shape != (batch, spec.image, spec.image, spec.channels):
        raise GraphError("the exported graph makes images of the wrong form", saw=f"{images.dtype} {images.shape}")
    few = min(batch, COMPARED)
    with torch.inference_mode():
        expected = network(torch.from_numpy(z[:few]), torch.from_numpy(c[:few])).numpy()
    away = np.abs(images[:few].astype(np.int16) - expected)
    if away.mean() > APART:
        raise NumericsError("the exported graph makes other images than the student",
                            saw=f"{away.mean():.1f} grey levels apart",
                            fix="export with --precision fp32; edgedit compare shows where the rungs part")
    return {"runtime": runtime_version(), "batch": batch, "images_compared": few, "max_levels": int(away.max()),
            "mean_levels": float(away.mean()), "changed_percent": 100 * float((away > 0).mean())}


def _shape(spec: DiTSpec) -> tuple[int, int, int]:
    return spec.channels, spec.image, spec.image


def runtime_version() -> str:
    """The ONNX Runtime that checks run on."""
    import onnxruntime as ort

    return f"onnxruntime {ort.__version__}"
