"""Number formats inside the graph, and a look at the ranges before one is trusted.

Precision is typed into the graph rather than left to flags of a builder: TensorRT 11 has no such flags any more, and typed
graphs say the same to every runtime. Inputs stay float32 noise and int32 labels, the output uint8 images.

fp32   everything float32.
fp16   Weights and the inputs and outputs of all matrix products are float16; so are the softmax, both attention products and
       the residual stream. LayerNormalization stays one operator and runs in float32 between two casts, together with its
       modulation, so that a row is rounded once; a decomposed or half-precision variance overflows (65,504) and is the usual
       way to lose a transformer in FP16. The casts are explicit rather than left to `stash_type`: the type then holds in
       every runtime, and TensorRT merges them into the kernel. The softmax has no casts around it, because a cast inside the
       pattern MatMul–Softmax–MatMul stops TensorRT's fusion; the fused kernel keeps its sums in float32 by itself, and the
       scores are bounded because the scale is already in Q. The output product is cast to float32 before its bias, guidance
       (which amplifies differences by its scale) and quantisation.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from edgedit.core.errors import NumericsError

if TYPE_CHECKING:
    from edgedit.core.spec import DiTSpec

FP16_MAX = 65504.0
SCAN_IMAGES = 20
_SCAN_BATCH = 4


@dataclass(frozen=True)
class Precision:
    """A number format of the graph.

    Attributes:
        dtype: of weights, products and the residual stream.
        norm_dtype: of LayerNormalization and its modulation.
        fuses: whether TensorRT fuses attention in `dtype`.
    """

    name: str
    dtype: type[np.floating]
    norm_dtype: type[np.floating]
    fuses: bool

    @property
    def largest(self) -> float:
        """The largest finite number of `dtype`."""
        return float(np.finfo(self.dtype).max)

    def typed(self, array: NDArray[Any], what: str) -> NDArray[Any]:
        """`array` in `dtype`; NumericsError when a value leaves its range."""
        with np.errstate(over="ignore"):
            typed = array.astype(self.dtype)
        if not np.isfinite(typed).all():
            saw = f"largest {float(np.abs(array).max()):.4g}, {self.name} ends at {self.largest:,.0f}"
            raise NumericsError(f"the weights '{what}' do not fit {self.name}", saw=saw, fix="export with --precision fp32")
        return typed


PRECISIONS = {p.name: p for p in (Precision("fp32", np.float32, np.float32, False),
                                  Precision("fp16", np.float16, np.float32, True))}


@dataclass(frozen=True)
class Ranges:
    """Largest magnitudes that a network's values reached on real noise.

    Attributes:
        images: generated images looked at, all classes in turn.
        largest: over all values.
        where: the value that reached it ("block3/mlp/up").
        headroom: 65,504 / largest.
        by_part: largest magnitude per part ("embed", "block0", …, "output").
    """

    images: int
    largest: float
    where: str
    headroom: float
    by_part: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "fp16_max": FP16_MAX}


def scan_ranges(model: ModelProto, spec: DiTSpec, *, images: int = SCAN_IMAGES, seed: int = 0) -> Ranges:
    """Run an FP32 graph with dynamic batch on real noise and measure every float value inside.

    Each value gets an Abs and a ReduceMax of its own inside the graph, so only numbers leave it and memory stays small.

    Args:
        model: an FP32 graph in the `pattern` dialect, where scores and shares of the attention are values.
        spec: its sizes.
        images: how many to generate, classes in turn.
        seed: of their noise.

    Raises:
        NumericsError: a value is NaN or infinite already in FP32.
    """
    from edgedit.core.noise import labels, noise
    from edgedit.export.check import open_session

    watched = _with_maxima(model)
    names = [output.name for output in watched.graph.output]
    session = open_session(watched.SerializeToString(), optimised=False)
    largest = np.zeros(len(names))
    for start in range(0, images, _SCAN_BATCH):
        indices = range(start, min(start + _SCAN_BATCH, images))
        z, c = noise(seed, indices, (spec.channels, spec.image, spec.image)), labels(seed, indices, spec.classes)
        maxima = session.run(names, {"noise": z, "labels": c})
        largest = np.maximum(largest, np.asarray(maxima, np.float64))                     # NaN stays NaN
    return _summary(names, largest, images)


def _summary(names: Sequence[str], largest: NDArray[np.float64], images: int) -> Ranges:
    plain = [name.removesuffix(_MAXIMUM) for name in names]
    for name, value in zip(plain, largest, strict=True):
        if not np.isfinite(value):
            raise NumericsError(f"'{name}' is not finite in FP32", saw=value, fix="train again: these weights are bad")
    by_part: dict[str, float] = defaultdict(float)
    for name, value in zip(plain, largest.tolist(), strict=True):
        part = name.split("/")[0]
        by_part[part] = max(by_part[part], value)
    top = int(largest.argmax())
    peak = float(largest[top])
    return Ranges(images, peak, plain[top], FP16_MAX / peak if peak else float("inf"), dict(by_part))


_MAXIMUM = "|max"


def _with_maxima(model: ModelProto) -> ModelProto:
    """A copy whose outputs are the largest magnitudes of all float values that nodes make."""
    import onnx

    watched = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    floats = {v.name for v in watched.graph.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT}
    del watched.graph.output[:]
    for name in [output for node in watched.graph.node for output in node.output if output in floats]:
        watched.graph.node.append(helper.make_node("Abs", [name], [f"{name}|abs"]))
        watched.graph.node.append(helper.make_node("ReduceMax", [f"{name}|abs"], [name + _MAXIMUM], keepdims=0))
        watched.graph.output.append(helper.make_tensor_value_info(name + _MAXIMUM, TensorProto.FLOAT, []))
    return watched
