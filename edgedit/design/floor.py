"""Model (b): what the work alone takes at a device's full rates. A floor: no kernel reaches these rates, and nothing else is counted.

On a GPU the three kinds of work overlap, so the slowest counts, and every kernel adds its launch:

    batch = max(products, bytes at the borders of products and attention, exponentials) + kernels · launch

On a CPU, where ONNX Runtime runs one operator after another on the same cores, they add up, and every operator's bytes count:

    batch = products + bytes of every operator + exponentials
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgedit.core.spec import DiTSpec
from edgedit.design.cost import Work, cost
from edgedit.design.devices import NEEDS, Device
from edgedit.design.fuses import VERSIONS, attention_fuses


@dataclass(frozen=True)
class Floor:
    """Milliseconds per batch of each kind of work, and of all of it."""

    arithmetic_ms: float
    bytes_ms: float
    exponentials_ms: float
    launches_ms: float
    batch_ms: float

    @property
    def bound(self) -> str:
        """What takes most: "arithmetic", "bytes", "exponentials" or "launches"."""
        named = {"arithmetic": self.arithmetic_ms, "bytes": self.bytes_ms, "exponentials": self.exponentials_ms,
                 "launches": self.launches_ms}
        return max(named, key=named.__getitem__)

    def seconds(self, images: int, batch: int) -> float:
        """Seconds for `images`, the last batch padded."""
        return math.ceil(images / batch) * self.batch_ms / 1e3


def work_on(spec: DiTSpec, device: Device, precision: str, guidance_scale: float, tensorrt: str | None = None) -> Work:
    """The work of a design in the form that this device gets: ONNX Runtime's dialect on a CPU, the pattern on a GPU.

    Args:
        tensorrt: version that decides whether attention fuses; None takes the device's newest, or 10.3.
    """
    if device.kind == "cpu":
        return cost(spec, precision, guidance_scale, dialect="ort")
    version = tensorrt or (device.tensorrt[-1] if device.tensorrt else VERSIONS[0])
    fused = attention_fuses(spec.head_size, precision, version, tokens=spec.tokens).fuses
    return cost(spec, precision, guidance_scale, attention_fused=fused)


def floor(work: Work, device: Device, batch: int) -> Floor:
    """The floor of one batch.

    Raises:
        UsageError: the device lacks a figure that this precision or kind of device needs.
    """
    device.need_all({**_rates(work), "dram_gb_s": NEEDS["dram_gb_s"],
                     **({"exponentials_g": NEEDS["exponentials_g"]} if device.kind == "cpu" else {})})
    arithmetic = batch * _arithmetic_s(work, device) * 1e3
    gb_s = device.need("dram_gb_s")
    if device.kind == "cpu":
        moved = (batch * work.operator_bytes + work.weight_bytes) / gb_s / 1e6
        exponentials = batch * work.exponentials / device.need("exponentials_g") / 1e6
        launches = work.operators * (device.launch_us or 0.0) / 1e3
        return Floor(arithmetic, moved, exponentials, launches, arithmetic + moved + exponentials + launches)
    moved = (batch * work.border_bytes + work.weight_bytes) / gb_s / 1e6
    exponentials = batch * work.exponentials / device.exponentials_g / 1e6 if device.exponentials_g else 0.0
    launches = work.kernels * (device.launch_us or 0.0) / 1e3
    return Floor(arithmetic, moved, exponentials, launches, max(arithmetic, moved, exponentials) + launches)


def _rates(work: Work) -> dict[str, str]:
    """Rates of arithmetic that a precision is predicted with, and the words for what needs them."""
    names = {"int8": ("int8_tops", "fp16_tflops"), "fp16": ("fp16_tflops",)}.get(work.precision, ("fp32_tflops",))
    return dict.fromkeys(names, f"predicting {work.precision.upper()}")


def _arithmetic_s(work: Work, device: Device) -> float:
    """Seconds of all products of one image at full rate. INT8 has its own rate; the attention of an INT8 graph stays FP16."""
    if work.precision == "int8":
        return (work.product_flops / device.need("int8_tops") + work.attention_flops / device.need("fp16_tflops")) / 1e12
    if work.precision == "fp16":
        return (work.product_flops + work.attention_flops) / device.need("fp16_tflops") / 1e12
    return (work.product_flops + work.attention_flops) / device.need("fp32_tflops") / 1e12
