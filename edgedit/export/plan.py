"""What a graph will be: every choice made, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgedit.core.spec import DiTSpec
from edgedit.export.attention import DIALECTS, Dialect, fusing_head_size
from edgedit.export.precision import PRECISIONS, Precision


@dataclass(frozen=True)
class Plan:
    """One graph to write.

    Attributes:
        precision: number formats.
        dialect: how attention, normalisation and GELU are spelled.
        opset: version of the ONNX domain.
        head_size: channels of a head, zero-padding included; at least the spec's.
        batch: images per run; None for any number.
        guidance_scale: classifier-free guidance inside the graph; 1.0 is none.
        scales: INT8 scale by site (`edgedit.export.int8`); empty: nothing is quantised.
    """

    precision: Precision
    dialect: Dialect
    opset: int
    head_size: int
    batch: int | None
    guidance_scale: float
    scales: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, spec: DiTSpec, precision: str, attention: str, *, batch: int | None, guidance_scale: float,
           opset: int | None = None, head_size: int | None = None) -> Plan:
        """Fill in the defaults that follow from the target: opset by dialect, head size by precision and dialect."""
        dialect, kind = DIALECTS[attention], PRECISIONS[precision]
        if head_size is None:
            head_size = fusing_head_size(spec.head_size) if dialect.pads and kind.fuses else spec.head_size
        return cls(kind, dialect, opset or dialect.opset, head_size, batch, guidance_scale)
