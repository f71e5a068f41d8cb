"""Places for the names of a chart's points: each at its own point, joined by a line where it stands off, left out where it cannot.

A name never covers a point, a name, a line to a name, or anything outside the bounds, and never lies nearer to another point
than to its own. That is checked for each place, not hoped for: greedy placing in three orders, the fullest of them is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgedit.report.axes import LETTER

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, pixels."""
Spot = tuple[float, float]
"""x, y, pixels."""
HEIGHT, DESCENT = 12.0, 2.0
"""Of a line of text, pixels, and how much of it lies below the baseline."""
REACHES = (4.0, 11.0, 20.0, 32.0, 46.0)
"""Distances from a point's edge to its name that are tried, pixels."""
CROWD = 12.0
"""Points with a neighbour nearer than this, pixels, get a line to their name however near it is."""
_TURNS = (0, 8, 12, 4, 14, 2, 10, 6, 15, 1, 9, 7, 13, 3, 11, 5)
"""Directions in sixteenths of a turn, clockwise from the right: right, left, above, below, then between."""


@dataclass(frozen=True)
class Mark:
    """A drawn point, pixels; `name` is what shall stand beside it, "" for nothing."""

    x: float
    y: float
    radius: float
    name: str = ""


@dataclass(frozen=True)
class Label:
    """Where a name stands: `box` around its text, `spot` and `anchor` to write it at, `line` to its point's centre if it needs one."""

    box: Box
    spot: Spot
    anchor: str
    line: tuple[Spot, Spot] | None
    reach: float

    @property
    def attach(self) -> Spot:
        """The middle of the text's edge that faces the point."""
        left, top, right, bottom = self.box
        x = left if self.anchor == "start" else right if self.anchor == "end" else (left + right) / 2
        return x, (top + bottom) / 2


def place(marks: Sequence[Mark], bounds: Box) -> dict[int, Label]:
    """Labels by index of the mark; a name that no place is free for is not in it."""
    named = [k for k, m in enumerate(marks) if m.name]
    near = {k: min((math.dist((marks[k].x, marks[k].y), (m.x, m.y)) for j, m in enumerate(marks) if j != k), default=math.inf)
            for k in named}
    orders = (sorted(named, key=lambda k: marks[k].y), sorted(named, key=lambda k: -marks[k].y), sorted(named, key=lambda k: -near[k]))
    tried = [_greedy(marks, order, near, bounds) for order in orders]
    return max(tried, key=lambda found: (len(found), -sum(label.reach for label in found.values())))


def _greedy(marks: Sequence[Mark], order: Sequence[int], near: dict[int, float], bounds: Box) -> dict[int, Label]:
    found: dict[int, Label] = {}
    for k in order:
        others = [m for j, m in enumerate(marks) if j != k]
        free = (c for c in _candidates(marks[k], near[k] < CROWD) if _inside(c.box, bounds) and _own(c, marks[k], others)
                and not any(_cover(c.box, _around(m)) for m in marks) and not any(_clash(c, label) for label in found.values()))
        if (first := next(free, None)) is not None:
            found[k] = first
    return found


def _candidates(mark: Mark, crowded: bool) -> Iterator[Label]:
    """Places for a name, the nearest first."""
    long = LETTER * len(mark.name)
    for reach in REACHES:
        for turn in _TURNS:
            ux, uy = math.cos(math.tau * turn / 16), math.sin(math.tau * turn / 16)
            x, y = mark.x + ux * (mark.radius + reach), mark.y + uy * (mark.radius + reach)
            anchor = "start" if ux > 0.1 else "end" if ux < -0.1 else "middle"
            left = x if anchor == "start" else x - long if anchor == "end" else x - long / 2
            top = y - HEIGHT / 2 if abs(uy) < 0.5 else y if uy > 0 else y - HEIGHT
            at = {"start": left, "end": left + long, "middle": x}[anchor]
            line = ((mark.x, mark.y), (at, top if anchor == "middle" and uy > 0 else top + HEIGHT * (1 if anchor == "middle" else 0.5)))
            yield Label((left, top, left + long, top + HEIGHT), (at, top + HEIGHT - DESCENT), anchor,
                        line if crowded or reach > REACHES[0] else None, reach)


def _own(label: Label, mark: Mark, others: Sequence[Mark]) -> bool:
    """Whether no other point is nearer than the label's own: to its text, to its facing edge, and from edge to edge."""
    mine = _to_box((mark.x, mark.y), label.box), math.dist((mark.x, mark.y), label.attach)
    for m in others:
        if (m.x, m.y) == (mark.x, mark.y):
            continue  # one place, two names: both are right there
        theirs = _to_box((m.x, m.y), label.box), math.dist((m.x, m.y), label.attach)
        if theirs[0] < mine[0] or theirs[1] < mine[1] or theirs[0] - m.radius < mine[0] - mark.radius:
            return False
        if label.line is not None and _to_line((m.x, m.y), label.line) < min(5.0, math.dist((m.x, m.y), (mark.x, mark.y))) - 1e-6:
            return False  # the line would run through that point
    return True


def _clash(a: Label, b: Label) -> bool:
    """Whether two labels, or the line of one and the other, cover each other."""
    return (_cover(a.box, b.box) or (a.line is not None and _through(a.line, b.box)) or (b.line is not None and _through(b.line, a.box))
            or (a.line is not None and b.line is not None and a.line[0] != b.line[0] and _cross(a.line, b.line)))


def _around(mark: Mark) -> Box:
    return mark.x - mark.radius, mark.y - mark.radius, mark.x + mark.radius, mark.y + mark.radius


def _inside(box: Box, bounds: Box) -> bool:
    return bounds[0] <= box[0] and bounds[1] <= box[1] and box[2] <= bounds[2] and box[3] <= bounds[3]


def _cover(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _to_box(spot: Spot, box: Box) -> float:
    return math.hypot(max(box[0] - spot[0], 0, spot[0] - box[2]), max(box[1] - spot[1], 0, spot[1] - box[3]))


def _to_line(spot: Spot, line: tuple[Spot, Spot]) -> float:
    (ax, ay), (bx, by) = line
    long = (bx - ax) ** 2 + (by - ay) ** 2
    t = min(1.0, max(0.0, ((spot[0] - ax) * (bx - ax) + (spot[1] - ay) * (by - ay)) / long)) if long else 0.0
    return math.dist(spot, (ax + t * (bx - ax), ay + t * (by - ay)))


def _through(line: tuple[Spot, Spot], box: Box) -> bool:
    """Whether a line enters a box."""
    if any(box[0] < x < box[2] and box[1] < y < box[3] for x, y in line):
        return True
    corners = [(box[0], box[1]), (box[2], box[1]), (box[2], box[3]), (box[0], box[3]), (box[0], box[1])]
    return any(_cross(line, side) for side in pairwise(corners))


def _cross(a: tuple[Spot, Spot], b: tuple[Spot, Spot]) -> bool:
    def side(p: Spot, q: Spot, r: Spot) -> float:
        return (q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])

    return side(*a, b[0]) * side(*a, b[1]) < 0 and side(*b, a[0]) * side(*b, a[1]) < 0
