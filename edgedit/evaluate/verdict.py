"""Is INT8 worth it? One plain sentence from two measured records and the images' errors.

INT8 is often slower than FP16 for small transformers: Q/DQ keep layers apart that FP16 fuses, fused INT8 attention needs sizes
that few designs have, and products over 32 to 256 numbers have little arithmetic to save (jetson.md §5.2). So nothing is promised:
both bundles are profiled, and this says what came out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edgedit.core.record import Record, Verdict

WORTH = 1.05
"""From this gain on INT8 is worth its error: less is within what clocks and neighbours change from day to day."""

STEADY_PERCENT = 2.5
"""Coefficient of variation above which batch times are called unstable (trtexec's limit, as `edgedit profile` uses it)."""


def int8_verdict(quality: Mapping[str, Any], fp16: Record, int8: Record) -> Verdict:
    """Judge INT8 against FP16.

    Args:
        quality: `info["int8"]` of the INT8 bundle's manifest: PSNR of both against FP32 on the same noise.
        fp16, int8: records of `edgedit profile` of the two bundles, on one machine under one protocol.

    Returns:
        code "int8-faster" (level ok), "int8-not-worth" (note), or "int8-unknown" (warning) where the records cannot be compared or
        unsteady times scatter by more than they differ.
    """
    if apart := _apart(fp16, int8):
        return Verdict(level="warning", code="int8-unknown", text=f"the records of FP16 and INT8 cannot be compared: {'; '.join(apart)}",
                       fix="profile both bundles again, one after the other, with the same options")
    speedup = fp16.batch_ms.median / int8.batch_ms.median
    where = int8.environment.board or f"{int8.environment.gpu or int8.environment.cpu}, not a board"
    images = f"its images are {_decibels(quality['quality'])} from FP32's, FP16's {_decibels(quality['fp16_quality'])}"
    times = f"{int8.batch_ms.median:.2f} ms against {fp16.batch_ms.median:.2f} ms a batch of {int8.protocol.batch}, {where}"
    energy = _energy(fp16, int8)
    scatter = math.hypot(fp16.batch_ms.cov_percent, int8.batch_ms.cov_percent)
    if max(fp16.batch_ms.cov_percent, int8.batch_ms.cov_percent) > STEADY_PERCENT and abs(math.log(speedup)) < scatter / 100:
        text = f"INT8 and FP16 differ by less than their times scatter ({times}; {scatter:.0f} %): neither is shown to be faster"
        return Verdict(level="warning", code="int8-unknown", text=text,
                       fix="profile both again on a quiet machine; on a Jetson with --lock-clocks")
    if speedup >= WORTH:
        return Verdict(level="ok", code="int8-faster", text=f"INT8 is {speedup:.2f} × faster ({times}){energy}; {images}: use it")
    if speedup >= 1:
        text = f"INT8 is {speedup:.2f} × as fast ({times}){energy}, which is within what machines vary; {images}: FP16 is better"
    else:
        text = f"INT8 is {1 / speedup:.2f} × slower ({times}){energy}; {images}: FP16 is better, as often for small transformers"
    return Verdict(level="note", code="int8-not-worth", text=text)


def _decibels(quality: Mapping[str, Any]) -> str:
    value = quality["psnr_db"]
    return "equal to it" if value is None else f"{value:.1f} dB"


def _energy(fp16: Record, int8: Record) -> str:
    """", 0.82 × the energy an image" where both records have power of one boundary."""
    if fp16.power is None or int8.power is None or fp16.power.boundary != int8.power.boundary or not fp16.power.mj_per_image:
        return ""
    return f", {int8.power.mj_per_image / fp16.power.mj_per_image:.2f} × the energy an image"


def _apart(fp16: Record, int8: Record) -> list[str]:
    """What must be the same and is not, in words."""
    pairs = [
        ("precision", f"{fp16.subject.precision}, {int8.subject.precision}", "fp16, int8"),
        ("design", fp16.subject.spec, int8.subject.spec), ("guidance", fp16.subject.guidance_scale, int8.subject.guidance_scale),
        ("machine", fp16.environment.board or fp16.environment.machine, int8.environment.board or int8.environment.machine),
        ("CPU", fp16.environment.cpu, int8.environment.cpu),
        ("GPU", fp16.environment.gpu, int8.environment.gpu), ("power mode", fp16.environment.power_mode, int8.environment.power_mode),
        ("clocks locked", fp16.environment.clocks_locked, int8.environment.clocks_locked),
        ("runtime", fp16.protocol.runtime, int8.protocol.runtime), ("provider", fp16.protocol.provider, int8.protocol.provider),
        ("batch", fp16.protocol.batch, int8.protocol.batch), ("threads", fp16.protocol.threads, int8.protocol.threads)]
    return [f"{name} {one} and {other}" for name, one, other in pairs if one != other]
