"""Does a design's attention become one fused kernel? By precision, head size and TensorRT version, before anything is exported.

The conditions are those that `edgedit.export.fusion` checks on a finished graph (jetson.md §5.1: the guide of TensorRT 10.0 to 10.3
and NVIDIA's answers in TRT#3575, #4167, #2981). Versions after 10.3 are taken to keep them; their full table was not read. When
all hold TensorRT may still decline: `edgedit build` reads the finished engine.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgedit.core.errors import UsageError

SMALLEST, LARGEST, MULTIPLE = 16, 256, 8
"""FP16: 16 ≤ head size ≤ 256, a multiple of 8."""
INT8_HEADS, INT8_TOKENS = (16, 32, 64), 512
"""INT8 inside the attention: these head sizes, at most this many tokens."""
FIRST = (10, 3)
"""Oldest TensorRT whose fused attention runs on Orin (10.3 does, 8.6 does not: TRT#3575, #4167) and the oldest edgedit supports."""
OPERATOR = (10, 14)
"""From here the parser reads ONNX `Attention`."""
AFTER = 12
"""First major version that nobody has looked at."""
VERSIONS = ("10.3", "10.14", "11")
"""Where something changes: the pattern alone; the ONNX operator too; typed networks only."""


@dataclass(frozen=True)
class Fusion:
    """Whether attention fuses, at which head size (padding included), and the reason in words."""

    precision: str
    tensorrt: str
    fuses: bool
    head_size: int
    why: str


def fusing_head_size(head_size: int) -> int:
    """The smallest head size ≥ `head_size` that fuses in FP16: a multiple of 8, at least 16; what `edgedit export` pads to."""
    return max(SMALLEST, -(-head_size // MULTIPLE) * MULTIPLE)


def parse_version(text: str) -> tuple[int, int]:
    """ "10.3.0.30" → (10, 3); UsageError when it is no version."""
    parts = str(text).split(".")
    if not all(part.isdigit() for part in parts[:2]) or not parts[0]:
        raise UsageError("this is no TensorRT version", saw=text, fix="for example 10.3, 10.16 or 11.4")
    return int(parts[0]), int(parts[1]) if len(parts) > 1 else 0


def attention_fuses(head_size: int, precision: str, tensorrt: str, *, tokens: int = 256, padded: bool = True,
                    int8_attention: bool = False) -> Fusion:
    """Judge one design.

    Args:
        head_size: channels of a head before padding, H = w/h.
        precision: "fp32", "fp16" or "int8".
        tensorrt: version, "10.3" or longer.
        padded: whether the export zero-pads heads to the next size that fuses (its default for FP16 and INT8).
        int8_attention: INT8 inside the attention too; edgedit's default leaves it in FP16.

    Raises:
        UsageError: no version, or an unknown precision.
    """
    version = parse_version(tensorrt)
    if precision not in ("fp32", "fp16", "int8"):
        raise UsageError(f"there is no precision '{precision}'", fix="fp32, fp16 or int8")
    size = fusing_head_size(head_size) if padded and precision != "fp32" else head_size
    fuses, why = _judge(head_size, size, precision, version, tokens, int8_attention)
    return Fusion(precision, tensorrt, fuses, size, why)


def _judge(own: int, size: int, precision: str, version: tuple[int, int], tokens: int, int8: bool) -> tuple[bool, str]:
    if version < FIRST:
        return False, "TensorRT before 10.3 has no fused attention on Orin"
    if version[0] >= AFTER:
        return False, f"TensorRT {version[0]} is not known to this edgedit"
    if precision == "fp32":
        return False, "FP32 never fuses"
    if precision == "int8" and int8:
        if size not in INT8_HEADS:
            return False, f"INT8 attention fuses at head sizes {', '.join(map(str, INT8_HEADS))} only, not at {size}"
        if tokens > INT8_TOKENS:
            return False, f"INT8 attention fuses up to {INT8_TOKENS} tokens, not {tokens}"
    if size < SMALLEST or size % MULTIPLE:
        return False, f"head size {size} is below {SMALLEST} or no multiple of {MULTIPLE}: let the export pad it to {fusing_head_size(own)}"
    if size > LARGEST:
        return False, f"head size {size} is above {LARGEST}: take more heads"
    how = f"head size {own} fuses as it is" if own == size else f"head size {own}, zero-padded to {size}"
    inside = " (its attention stays FP16)" if precision == "int8" and not int8 else ""
    operator = "as a pattern or as one ONNX operator" if version >= OPERATOR else "as a pattern of primitive operators"
    return True, f"{how}{inside}, {operator}"
