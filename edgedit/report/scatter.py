"""Scatter plots with fronts: names at their own points (`labels`), values on hover, areas for a third quantity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from edgedit.report.axes import DIAMOND, Axis, Plot, span
from edgedit.report.labels import HEIGHT, Mark, place
from edgedit.report.words import number


@dataclass(frozen=True)
class Point:
    """A point of a scatter plot; `hollow` draws an open diamond; `name` is written beside it if `label` and a place is
    free there (`labels`), and is on hover always.

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
    marks = []
    for p in drawn:
        x, y = plot.px(p.x), plot.py(p.y)
        title = p.title or f"{p.name}: {number(p.y, 4)} ({y_label}) at {number(p.x, 4)} ({x_label})"
        plot.dot(x, y, p.radius, f"{'hollow' if p.hollow else 'fill'}{' wide-dot' if p.radius > 6 else ''} {p.style}", title,
                 diamond=p.hollow)
        marks.append(Mark(x, y, p.radius * (DIAMOND if p.hollow else 1), p.name if p.label else ""))
    found = place(marks, (plot.left, plot.top - HEIGHT + 2, plot.width, plot.bottom - 2))
    for label in found.values():
        if label.line is not None:
            plot.rule(*label.line[0], *label.line[1], "leader")
    for k, label in found.items():
        plot.text(*label.spot, marks[k].name, "name", anchor=label.anchor)
    return plot.svg(alt)


def _diagonal(plot: Plot, x: Axis, y: Axis) -> None:
    low, high = max(x.low, y.low), min(x.high, y.high)
    if low < high:
        plot.rule(plot.px(low), plot.py(low), plot.px(high), plot.py(high), "mark")
