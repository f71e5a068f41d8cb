"""Scatter plots with fronts: labels that look for a free place, values on hover, areas for a third quantity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from edgedit.report.axes import LETTER, Axis, Plot, span
from edgedit.report.words import number

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, pixels."""


@dataclass(frozen=True)
class Point:
    """A point of a scatter plot; `hollow` draws an open diamond; `name` is written beside it if `label`, else on hover.

    `radius` in pixels; `title` replaces the text on hover that is made from name and values.
    """

    x: float
    y: float
    name: str
    style: str = "s1"
    hollow: bool = False
    label: bool = False
    radius: float = 5
    title: str = ""


@dataclass(frozen=True)
class Front:
    """A dashed line through points (x, y), in the order given."""

    points: tuple[tuple[float, float], ...]
    style: str = "s1"


def scatter(width: int, points: Sequence[Point], x_label: str, y_label: str, alt: str, *, height: int = 320,
            log: bool = False, log_x: bool | None = None, fronts: Sequence[Front] = (), diagonal: bool = False) -> Markup:
    """Points on two axes (both logarithmic if `log`; `log_x` decides the x axis alone); open diamonds first, solid ones on top.

    `diagonal` draws the line y = x over the range that both axes share.
    """
    on_x = log if log_x is None else log_x
    plot = Plot(width, height, span([p.x for p in points], x_label, log=on_x, pad=0.12),
                span([p.y for p in points], y_label, log=log, pad=0.12))
    plot.axes()
    if diagonal:
        _diagonal(plot, plot.x, plot.y)
    for front in fronts:
        if len(front.points) > 1:
            plot.path([(plot.px(x), plot.py(y)) for x, y in front.points], f"front {front.style}")
    drawn = sorted(points, key=lambda p: (not p.hollow, -p.radius))
    taken: list[Box] = []
    for p in drawn:
        x, y = plot.px(p.x), plot.py(p.y)
        title = p.title or f"{p.name}: {number(p.y, 4)} ({y_label}) at {number(p.x, 4)} ({x_label})"
        plot.dot(x, y, p.radius, f"{'hollow' if p.hollow else 'fill'}{' wide-dot' if p.radius > 6 else ''} {p.style}", title,
                 diamond=p.hollow)
        taken.append((x - p.radius, y - p.radius, x + p.radius, y + p.radius))
    for p in sorted((p for p in drawn if p.label), key=lambda p: plot.py(p.y)):
        _label(plot, p, taken)
    return plot.svg(alt)


def _label(plot: Plot, p: Point, taken: list[Box]) -> None:
    """Write a name in the first free place beside, above or below its point; where all are taken, farther below."""
    x, y, long, gap = plot.px(p.x), plot.py(p.y), LETTER * len(p.name), p.radius + 4
    places = [(x + gap, y + 4), (x - gap - long, y + 4), (x - long / 2, y - gap - 1), (x - long / 2, y + gap + 9),
              (x + gap, y - 8), (x + gap, y + 16), (x - gap - long, y - 8), (x - gap - long, y + 16), (x - long / 2, y - gap - 13),
              (x - long / 2, y + gap + 21), (x, y - gap - 9), (x - long, y - gap - 9), (x, y + gap + 17), (x - long, y + gap + 17)]
    inside = [(left, base) for left, base in places if left >= 0 and left + long <= plot.width and plot.top <= base <= plot.bottom - 2]
    free = next(((a, b) for a, b in inside if not _overlaps((a, b - 10, a + long, b + 2), taken)), None)
    if free is None:
        left, base = max(0.0, min(x + gap, plot.width - long)), y + 4
        while base < plot.bottom - 2 and _overlaps((left, base - 10, left + long, base + 2), taken):
            base += 4
        if base >= plot.bottom - 2:
            return  # no room: the name is on hover and in the table
        free = (left, base)
    taken.append((free[0], free[1] - 10, free[0] + long, free[1] + 2))
    plot.text(free[0], free[1], p.name, "name")


def _overlaps(box: Box, taken: Sequence[Box]) -> bool:
    return any(box[0] < right and left < box[2] and box[1] < bottom and top < box[3] for left, top, right, bottom in taken)


def _diagonal(plot: Plot, x: Axis, y: Axis) -> None:
    low, high = max(x.low, y.low), min(x.high, y.high)
    if low < high:
        plot.rule(plot.px(low), plot.py(low), plot.px(high), plot.py(high), "mark")
