"""INT8 as explicit Q/DQ in the graph: which values are quantised, with which scale, and how weights become whole numbers.

TensorRT 11 knows no other INT8, and 10.x deprecates the rest (jetson.md §5.2). The scheme is the only one that TensorRT takes:
symmetric, zero point 0, weights per output channel, activations per tensor. A *site* is a place of the graph where a Q/DQ pair
may stand; the writer (`edgedit.export.writer.Graph.site`) puts one there when it has a scale for the site. Per block:

    attention/qkv · attention/proj · mlp/up · mlp/down                    inputs of the four matrix products with weights
    attention/query · key · shares · value · values                       both attention products, all five or none
    attention/residual · mlp/residual                                     the other input of the residual sums

Everything else has no site and stays as it is in a typed FP16 graph: LayerNormalization, modulation, Softmax, GELU, gates,
the patch embedding and the output layer.

The attention products are left in FP16 by default: TensorRT fuses INT8 attention only at head sizes 16, 32 and 64 and up to 512
tokens, and the fused INT8 kernel was four times slower than FP16's on an Orin (jetson.md §5.2), while at these widths it saves
no arithmetic that matters. The residual sums are too: the pair on the other input lets a product's output stay INT8 when a
quantised layer takes the sum. In a pre-norm transformer LayerNormalization takes it, in FP32, so the pair would cost accuracy on
the residual stream and fuse with nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgedit.core.errors import UsageError
from edgedit.core.settings import Settings
from edgedit.core.spec import DiTSpec

LEVELS = 127
"""Largest whole number; -128 is not used, so that the range is symmetric."""
SMALLEST_SCALE = float(np.finfo(np.float16).smallest_normal)
"""Smallest scale that is a normal FP16 number, 6.1e-5: kernels that flush smaller ones to zero would divide by zero."""
LINEAR = ("attention/qkv", "attention/proj", "mlp/up", "mlp/down")
PRODUCTS = ("attention/query", "attention/key", "attention/shares", "attention/value", "attention/values")
RESIDUAL = ("attention/residual", "mlp/residual")
FUSING_HEADS, FUSING_TOKENS = (16, 32, 64), 512
"""Head sizes and longest sequence of TensorRT's fused INT8 attention (jetson.md §5.1)."""


class GateSettings(Settings):
    """How far INT8 images may be from FP32's on the same noise and classes."""

    images: int = Field(default=256, ge=8)
    """Compared, classes in turn."""
    seed: int | None = Field(default=None, ge=0)
    """Of their noise; None takes one that the calibration has not seen: the pairs' seed + 1."""
    psnr_db: float = 30.0
    """Least peak signal-to-noise ratio: an error of 8 grey levels (RMS), the limit of `edgedit compare` for INT8."""
    mean_levels: float = Field(default=4.0, gt=0)
    """Largest mean error in grey levels: half the RMS limit, so that it speaks only where errors are everywhere."""
    perceptual: float = Field(default=0.03, gt=0)
    """Largest perceptual distance where one is measured: LPIPS (squeeze, at 64 pixels) of CIFAR-10 images is 0.040 between an image
    and itself moved by one pixel, 0.063 for white noise at 30 dB, 0.005 at 40 dB."""
    fallback: bool = True
    """While the gate fails, give blocks back to FP16, the most sensitive first; False fails at once."""


class Int8Settings(Settings):
    """How to quantise."""

    images: int = Field(default=512, ge=1)
    """Pairs to calibrate on, balanced over the classes."""
    method: Literal["max", "percentile", "entropy", "mse"] = "mse"
    """How a value's range follows from its histogram: `edgedit.export.calibrate`."""
    percentile: float = Field(default=99.99, gt=50, le=100)
    """Share of magnitudes inside the range, for the method of this name."""
    attention: bool = False
    """Quantise both attention products too (head sizes 16, 32, 64)."""
    residual: bool = False
    """Quantise the other input of the residual sums too."""
    gate: GateSettings = GateSettings()


def sites_of(blocks: Iterable[int], settings: Int8Settings) -> list[str]:
    """Names of the sites that are quantised when `blocks` are."""
    names = [name for name in LINEAR if not (settings.attention and name == "attention/proj")]  # `values` is its input already
    names += PRODUCTS if settings.attention else ()
    names += RESIDUAL if settings.residual else ()
    return [f"block{i}/{name}" for i in sorted(blocks) for name in names]


def block_of(site: str) -> int:
    """Number of the block that a site is in."""
    return int(site.split("/")[0].removeprefix("block"))


def check_attention(spec: DiTSpec, head_size: int) -> None:
    """UsageError where TensorRT would not fuse INT8 attention: then its products are better left in FP16."""
    if head_size not in FUSING_HEADS or spec.tokens > FUSING_TOKENS:
        larger = next((size for size in FUSING_HEADS if size >= head_size), None)
        fix = "leave int8.attention out"
        raise UsageError("TensorRT fuses INT8 attention at head sizes 16, 32 and 64 and up to 512 tokens only",
                         saw=f"head size {head_size}, {spec.tokens} tokens",
                         fix=f"{fix}, or pad: --set head_size={larger}" if larger and spec.tokens <= FUSING_TOKENS else fix)


def scale_of(largest: float, dtype: type[np.floating] = np.float16) -> float:
    """The scale that maps ±`largest` to ±127, as a number of `dtype`, never below `SMALLEST_SCALE`."""
    return float(dtype(max(largest / LEVELS, SMALLEST_SCALE)))


def scales_of(ranges: Mapping[str, float], sites: Iterable[str]) -> dict[str, float]:
    """Scale of each site from its range."""
    return {site: scale_of(ranges[site]) for site in sites}


def quantise_weight(array: NDArray[Any]) -> tuple[NDArray[np.int8], NDArray[Any]]:
    """(inputs, outputs) → INT8 of the same shape and the scales (outputs,) in the array's type; rounds half to even.

    A channel of zeros (padding) gets the smallest scale and stays zero.
    """
    largest = np.abs(array.astype(np.float64)).max(axis=0)
    scale = np.maximum(largest / LEVELS, SMALLEST_SCALE).astype(array.dtype)
    whole = np.rint(array.astype(np.float64) / scale.astype(np.float64))
    return np.clip(whole, -LEVELS, LEVELS).astype(np.int8), scale
