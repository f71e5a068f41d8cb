"""Three kinds of chart as inline SVG: line, histogram, stacked bars (`scatter` has the fourth). No script; values show on hover.

A chart is drawn twice, wide and narrow, and the style sheet shows the one that fits, so that text keeps its size on a phone.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from edgedit.report.axes import LETTER, Axis, Plot, Surface, span, tick_text
from edgedit.report.words import number

WIDE, HALF, NARROW = 920, 448, 340
"""Widths in pixels: a whole row of the page, half a row, a phone."""


@dataclass(frozen=True)
class Series:
    """A curve: x ascending, y of the same length; `style` is a colour class s1 … s6."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "s1"


@dataclass(frozen=True)
class Span:
    """A shaded stretch of the x axis."""

    start: float
    end: float
    label: str
    style: str = "s6"


@dataclass(frozen=True)
class Bar:
    """A horizontal bar of parts (name, value, style); `soft` draws it dashed, for what was not measured directly."""

    name: str
    parts: tuple[tuple[str, float, str], ...]
    text: str = ""
    soft: bool = False
    mark: float | None = None
    """A value to mark with a tick across the bar."""


def chart(draw: Callable[[int], Markup], caption: str, *, legend: Sequence[tuple[str, str]] = (), width: int = WIDE) -> Markup:
    """A <figure> with legend (name, style), the wide and the narrow drawing, and a caption."""
    keys = "".join(f'<li><span class="key {escape(style)}"></span>{escape(name)}</li>' for name, style in legend)
    return Markup(f'<figure class="chart">{f"<ul class=legend>{keys}</ul>" if keys else ""}'
                  f'<div class="wide">{draw(width)}</div><div class="narrow">{draw(NARROW)}</div>'
                  f'<figcaption>{escape(caption)}</figcaption></figure>')


def thin(x: Sequence[float], y: Sequence[float], limit: int) -> tuple[list[float], list[float]]:
    """At most about `limit` points that keep every bucket's lowest and highest value, in order; spikes survive."""
    if len(x) <= limit:
        return list(x), list(y)
    keep: list[int] = []
    buckets = max(1, limit // 2)
    for k in range(buckets):
        part = range(k * len(x) // buckets, (k + 1) * len(x) // buckets)
        keep.extend(sorted({min(part, key=y.__getitem__), max(part, key=y.__getitem__)}))
    return [x[i] for i in keep], [y[i] for i in keep]


def line(width: int, series: Sequence[Series], x_label: str, y_label: str, alt: str, *, height: int = 240, zero: bool = True,
         log: bool = False, spans: Sequence[Span] = (), dots: bool = False) -> Markup:
    """Curves over a common axis, with shaded spans behind; points of all curves tell their values on hover; `dots` shows them."""
    xs = [v for s in series for v in s.x] + [v for s in spans for v in (s.start, s.end)]
    ys = [v for s in series for v in s.y]
    plot = Plot(
        width, height, span(xs, x_label, pad=0), span(ys, y_label, zero=zero and not log, log=log, pad=0.16 if spans else 0.06)
    )
    plot.axes()
    for band in spans:
        left, right = plot.px(band.start), plot.px(band.end)
        plot.box(left, plot.top, right - left, plot.bottom - plot.top, f"band {band.style}", band.label)
        if right - left > LETTER * len(band.label) + 6:
            plot.text(left + 4, plot.top + 12, band.label, "note")
    for curve in series:
        x, y = thin(curve.x, curve.y, 2 * width)
        plot.path([(plot.px(a), plot.py(b)) for a, b in zip(x, y, strict=True)], f"curve {curve.style}")
        for a, b in zip(*thin(curve.x, curve.y, max(2, width // 6)), strict=True):
            told = f"{curve.name}: {number(b, 4)} at {number(a, 4)} ({x_label})"
            plot.dot(plot.px(a), plot.py(b), 4 if dots else 5, f"{'fill' if dots else 'hit'} {curve.style}", told)
    return plot.svg(alt)


def bins(values: Sequence[float], most: int = 48) -> tuple[list[float], list[int]]:
    """Edges and counts of a histogram: Freedman–Diaconis width, at most `most` bins; the last bin includes its right edge."""
    low, high = min(values), max(values)
    if high <= low:
        half = abs(low) * 0.005 or 0.5
        return [low - half, low + half], [len(values)]
    ranked = sorted(values)
    spread = ranked[3 * len(ranked) // 4] - ranked[len(ranked) // 4]
    width = 2 * spread / len(ranked) ** (1 / 3)
    n = min(most, max(5, math.ceil((high - low) / width))) if width > (high - low) / most else most
    edges = [low + (high - low) * k / n for k in range(n + 1)]
    counts = [0] * n
    for value in values:
        counts[min(n - 1, max(0, bisect_right(edges, value) - 1))] += 1
    return edges, counts


def histogram(width: int, values: Sequence[float], unit: str, y_label: str, alt: str, *, height: int = 220,
              marks: Sequence[tuple[str, float]] = ()) -> Markup:
    """How often each value occurs; `marks` are named values drawn as vertical lines."""
    edges, counts = bins(values)
    low, high = min([edges[0], *(v for _, v in marks)]), max([edges[-1], *(v for _, v in marks)])
    plot = Plot(width, height, Axis(low, high, unit), span([float(c) for c in counts], y_label, zero=True, pad=0.3))
    plot.axes()
    for left, right, n in zip(edges[:-1], edges[1:], counts, strict=True):
        if n:
            title = f"{number(left, 4)} to {number(right, 4)} {unit}: {n:,}"
            plot.box(
                plot.px(left) + 0.5, plot.py(n), plot.px(right) - plot.px(left) - 1, plot.bottom - plot.py(n), "fill s1", title
            )
    ends: list[float] = []
    for name, value in sorted(marks, key=lambda m: m[1]):
        x, text = plot.px(value), f"{name} {number(value, 4)}"
        start = max(0.0, min(max(plot.left, x - LETTER * len(text) / 2), plot.right - LETTER * len(text)))
        row = next((k for k, end in enumerate(ends) if end < start), len(ends))
        ends[row:row + 1] = [start + LETTER * len(text) + 4]
        plot.rule(x, plot.top + 12 * row + 14, x, plot.bottom, "mark")
        plot.text(start, plot.top + 12 * row + 10, text, "note")
    return plot.svg(alt)


def bars(width: int, rows: Sequence[Bar], unit: str, alt: str) -> Markup:
    """Horizontal bars, each under its own name, the value at the right; parts are stacked from the left."""
    totals = [sum(value for _, value, _ in row.parts) for row in rows]
    axis = span([*totals, *(row.mark for row in rows if row.mark is not None)], unit, zero=True)
    step, thick = 46, 18
    surface = Surface(width, step * len(rows) + 34)
    right = width - 12.0
    ticks = axis.ticks(max(2, width // 90))
    base = step * len(rows) + 2
    for value, text in zip(ticks, tick_text(ticks), strict=True):
        surface.rule(axis.at(value) * right, 4, axis.at(value) * right, base, "grid")
        surface.text(axis.at(value) * right, base + 14, text, anchor="middle" if value else "start")
    surface.text(right, base + 29, unit, "label", anchor="end")
    for k, row in enumerate(rows):
        y, x = k * step + 22, 0.0
        room = int((width - LETTER * len(row.text) - 24) / LETTER)
        surface.text(0, y - 7, row.name if len(row.name) <= room else row.name[:max(1, room - 1)] + "…", "name")
        surface.text(right, y - 7, row.text, "value", anchor="end")
        for part, value, style in row.parts:
            long = axis.at(value) * right
            surface.box(x, y, long - (1 if len(row.parts) > 1 and long > 2 else 0), thick,
                        f"{'soft' if row.soft else 'fill'} {style}", f"{row.name}, {part}: {number(value, 4)} {unit}", 2)
            x += long
        if row.mark is not None:
            surface.rule(axis.at(row.mark) * right, y - 4, axis.at(row.mark) * right, y + thick + 4, "wall")
    surface.rule(0, base, right, base, "axis")
    return surface.svg(alt)

