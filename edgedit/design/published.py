"""What the paper says about each design: the rows that its latency model is fitted to."""

from __future__ import annotations

from edgedit.core.paper import BATCH, IMAGES, TABLE_6
from edgedit.core.paper import Design as Row
from edgedit.core.spec import DiTSpec

__all__ = ["BATCH", "BOARD", "IMAGES", "ROWS", "TOKENS", "Row", "find_row", "row_of"]

TOKENS = 256
BOARD = "orin-nano"
ROWS = tuple(row for row in TABLE_6 if row.epochs == 100)
"""The twelve designs at 100 epochs; the thirteenth row repeats (7,192,12) at 200 epochs."""


def find_row(depth: int, width: int, heads: int) -> Row | None:
    """The row of a design, None when the paper has none."""
    return next((row for row in ROWS if (row.depth, row.width, row.heads) == (depth, width, heads)), None)


def row_of(spec: DiTSpec) -> Row | None:
    """The row of a design on the paper's data (32×32 RGB, patches of 2, ten classes), None when the paper has none."""
    same_data = (spec.image, spec.patch, spec.channels, spec.classes, spec.mlp_ratio) == (32, 2, 3, 10, 4)
    return find_row(spec.depth, spec.width, spec.heads) if same_data else None
