"""Axes, ticks and the drawing surface of the report's charts: inline SVG as text, coloured by the page's CSS variables.

Every text goes through `escape`; every number is written by this module. Colours are classes `s1` … `s6` that the style sheet
maps to a light and a dark palette, so the same SVG serves both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from markupsafe import Markup, escape

LETTER = 6.3
"""Mean width of a letter at the charts' font size of 11, pixels; a little generous, so that labels never touch."""
DIAMOND = 1.25
"""Half a diagonal of a diamond over the radius of the dot that it stands for."""


@dataclass(frozen=True)
class Axis:
    """A range of values with a label; `log` spaces decades evenly (the range must then be positive)."""

    low: float
    high: float
    label: str = ""
    log: bool = False

    def at(self, value: float) -> float:
        """Position of a value, 0 at `low` and 1 at `high`."""
        if self.log:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)

    def ticks(self, target: int) -> list[float]:
        """About `target` round values inside the range."""
        return log_ticks(self.low, self.high, target) if self.log else nice_ticks(self.low, self.high, target)


def span(values: list[float], label: str = "", *, zero: bool = False, log: bool = False, pad: float = 0.06) -> Axis:
    """The axis that holds `values`: padded, from 0 if `zero`, never of length nil."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if log:
        factor = max(high / low, 1.5) ** pad if high > low else 1.5
        return Axis(low / factor, high * factor, label, log=True)
    if zero:
        return Axis(0.0, high * (1 + pad) if high > 0 else 1.0, label)
    room = (high - low) * pad or abs(high) * pad or 1.0
    return Axis(low - room, high + room, label)


def nice_ticks(low: float, high: float, target: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within [low, high], about `target` of them."""
    rough = (high - low) / max(1, target)
    if not math.isfinite(rough) or rough <= 0:
        return []
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    digits = max(0, -math.floor(math.log10(step)) + 1)
    return [round(k * step, digits) for k in range(first, last + 1)]


def log_ticks(low: float, high: float, target: int = 5) -> list[float]:
    """Powers of ten within [low, high], with 2 and 5 (then all nine) between them while there is room."""
    for multiples in (tuple(range(1, 10)), (1, 2, 5), (1,)):
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [m * 10.0**d for d in decades for m in multiples if low <= m * 10.0**d <= high]
        if len(ticks) <= max(3, target):
            break
    if len(ticks) < 2:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [m * 10.0**d for d in decades for m in (1, 2, 5) if low <= m * 10.0**d <= high]
    return ticks if len(ticks) >= 2 else [t for t in nice_ticks(low, high, target) if low <= t <= high]


def tick_text(ticks: list[float]) -> list[str]:
    """Labels for ticks, with as many decimals as tell them apart."""
    texts = [f"{t:.6g}" for t in ticks]
    decimals = max((len(t.partition(".")[2]) for t in texts if "e" not in t), default=0)
    uniform = len(ticks) > 1 and math.isclose(ticks[1] - ticks[0], ticks[-1] - ticks[-2], rel_tol=1e-6)
    return [t if "e" in t else f"{v:,.{decimals if uniform else len(t.partition('.')[2])}f}".replace("-", "−")
            for v, t in zip(ticks, texts, strict=True)]


class Surface:
    """An SVG being drawn, `width` × `height` pixels, the origin at the top left."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self._parts: list[str] = []

    def path(self, points: list[tuple[float, float]], css: str) -> None:
        """A polyline."""
        self._parts.append(f'<path class="{escape(css)}" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in points)}"/>')

    def rule(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        """A straight line."""
        self._parts.append(f'<line class="{escape(css)}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')

    def box(self, x: float, y: float, width: float, height: float, css: str, title: str = "", round_: float = 0) -> None:
        """A rectangle; `title` shows on hover."""
        self._parts.append(f'<rect class="{escape(css)}" x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" '
                           f'height="{max(0.0, height):.1f}" rx="{round_:g}">{self._title(title)}</rect>')

    def dot(self, x: float, y: float, radius: float, css: str, title: str = "", *, diamond: bool = False) -> None:
        """A circle, or a diamond."""
        if diamond:
            r = radius * DIAMOND
            self._parts.append(f'<path class="{escape(css)}" d="M{x:.1f} {y - r:.1f}L{x + r:.1f} {y:.1f}L{x:.1f} {y + r:.1f}'
                               f'L{x - r:.1f} {y:.1f}Z">{self._title(title)}</path>')
        else:
            self._parts.append(
                f'<circle class="{escape(css)}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}">{self._title(title)}</circle>'
            )

    def text(self, x: float, y: float, text: str, css: str = "tick", anchor: str = "start") -> None:
        """A text, its baseline at y; anchor "start", "middle" or "end"."""
        self._parts.append(f'<text class="{escape(css)}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>')

    def svg(self, alt: str) -> Markup:
        """The drawing, with `alt` as its spoken description."""
        return Markup(f'<svg role="img" aria-label="{escape(alt)}" viewBox="0 0 {self.width:g} {self.height:g}" '
                      f'width="{self.width:g}" height="{self.height:g}">{"".join(self._parts)}</svg>')

    @staticmethod
    def _title(title: str) -> str:
        return f"<title>{escape(title)}</title>" if title else ""


class Plot(Surface):
    """A surface with two axes: ticks, grid lines, and labels (the y label lies above the axis, so it reads on a phone)."""

    def __init__(self, width: float, height: float, x: Axis, y: Axis) -> None:
        super().__init__(width, height)
        self.x, self.y = x, y
        self.top, self.bottom, self.right = 24.0, height - 36.0, width - 12.0

    @cached_property
    def left(self) -> float:
        """Where the plot area begins: beside the longest y tick."""
        return 10 + LETTER * max((len(t) for t in tick_text(self._y_ticks)), default=1)

    @cached_property
    def _y_ticks(self) -> list[float]:
        return self.y.ticks(max(2, int((self.bottom - self.top) / 30)))

    def px(self, value: float) -> float:
        """Pixel of an x value."""
        return self.left + self.x.at(value) * (self.right - self.left)

    def py(self, value: float) -> float:
        """Pixel of a y value."""
        return self.bottom - self.y.at(value) * (self.bottom - self.top)

    def axes(self) -> None:
        """Draw grid, ticks and labels."""
        for value, text in zip(self._y_ticks, tick_text(self._y_ticks), strict=True):
            self.rule(self.left, self.py(value), self.right, self.py(value), "grid")
            self.text(self.left - 6, self.py(value) + 4, text, anchor="end")
        ticks = self.x.ticks(max(2, int((self.right - self.left) / 68)))
        for value, text in zip(ticks, tick_text(ticks), strict=True):
            x, half = self.px(value), LETTER * len(text) / 2
            self.rule(x, self.bottom, x, self.bottom + 4, "axis")
            self.text(min(max(x, half), self.width - half), self.bottom + 16, text, anchor="middle")
        self.rule(self.left, self.bottom, self.right, self.bottom, "axis")
        self.text(0, 12, self.y.label, "label")
        self.text(self.right, self.height - 4, self.x.label, "label", anchor="end")
