"""What Table 6 of the paper says about each design: the data that its latency model is fitted to. Equal to `edgedit.report.paper`."""

from __future__ import annotations

from dataclasses import dataclass

BATCH, IMAGES, TOKENS = 128, 50_000, 256
BOARD = "orin-nano"


@dataclass(frozen=True)
class Row:
    """One design: parameter budget as printed, sizes, seconds for 50,000 images, FID and IS after 100 epochs."""

    group: str
    depth: int
    width: int
    heads: int
    latency_s: float
    fid: float
    inception: float
    follows: bool = False


ROWS = (
    Row("0.42M", 1, 128, 8, 97.5, 57.07, 6.38), Row("0.42M", 2, 96, 8, 123.6, 34.78, 7.48), Row("0.42M", 5, 64, 4, 162.6, 29.66, 7.76),
    Row("0.42M", 5, 64, 8, 198.7, 29.14, 7.79, True), Row("0.42M", 9, 48, 6, 259.0, 28.52, 7.78),
    Row("0.42M", 21, 32, 4, 411.7, 32.81, 7.41), Row("2.2M", 3, 192, 12, 233.2, 16.40, 8.78),
    Row("2.2M", 7, 128, 8, 322.6, 13.95, 8.90, True), Row("2.2M", 13, 96, 8, 493.7, 12.76, 8.92),
    Row("5M", 4, 256, 16, 367.6, 11.74, 9.04), Row("5M", 16, 128, 8, 657.9, 10.25, 9.15), Row("5M", 7, 192, 12, 460.9, 10.32, 9.16, True),
)
"""The twelve designs at 100 epochs; the thirteenth row repeats (7,192,12) at 200 epochs."""


def find_row(depth: int, width: int, heads: int) -> Row | None:
    """The row of a design, None when the paper has none."""
    return next((row for row in ROWS if (row.depth, row.width, row.heads) == (depth, width, heads)), None)
