"""Names on charts: each at its own point, on nothing else, or left out."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedit.report import figures, fronts, landscapes, scatter
from edgedit.report.axes import LETTER
from edgedit.report.labels import Box, Label, Mark, place
from edgedit.report.scatter import Point

BOUNDS = (30.0, 14.0, 340.0, 262.0)
SPOTS = st.tuples(st.floats(35, 335), st.floats(20, 255))
MARKS = st.lists(st.builds(lambda at, radius, name: Mark(at[0], at[1], radius, name), SPOTS, st.sampled_from((4.0, 6.25, 13.0)),
                           st.sampled_from(("", "(5,64,8)", "(21,32,4)", "(16,128,8)"))), min_size=1, max_size=14)
CROWDS = st.lists(st.builds(lambda x, y: Mark(60 + x, 150 + y, 6.25, "(21,32,4)"), st.floats(0, 8), st.floats(0, 40)),
                  min_size=2, max_size=8)


def gap(x: float, y: float, box: Box) -> float:
    """Pixels from a point to a box, 0 inside it."""
    return math.hypot(max(box[0] - x, 0, x - box[2]), max(box[1] - y, 0, y - box[3]))


def overlap(a: Box, b: Box) -> bool:
    return min(a[2], b[2]) - max(a[0], b[0]) > 1e-9 and min(a[3], b[3]) - max(a[1], b[1]) > 1e-9


@settings(max_examples=80, deadline=None)
@given(st.one_of(MARKS, CROWDS))
def test_no_name_is_nearer_to_another_point_nor_covers_anything(marks: list[Mark]) -> None:
    found = place(marks, BOUNDS)
    assert all(marks[k].name for k in found)
    for k, label in found.items():
        left, top, right, bottom = label.box
        assert BOUNDS[0] <= left and BOUNDS[1] <= top and right <= BOUNDS[2] and bottom <= BOUNDS[3]
        assert right - left == pytest.approx(LETTER * len(marks[k].name))
        mine = gap(marks[k].x, marks[k].y, label.box)
        for j, m in enumerate(marks):
            assert not overlap(label.box, (m.x - m.radius, m.y - m.radius, m.x + m.radius, m.y + m.radius))
            assert gap(m.x, m.y, label.box) >= mine - 1e-9, f"{marks[k]} is named nearer to {marks[j]}"
        assert label.line is None or label.line[0] == (marks[k].x, marks[k].y), "a line ends at the point's centre"
        assert label.line is not None or mine <= marks[k].radius + 4 + 1e-9, "a name that stands off has a line"
        for j, other in found.items():
            assert j == k or not (overlap(label.box, other.box) or _runs_through(other, label.box))


def _runs_through(label: Label, box: Box) -> bool:
    if label.line is None:
        return False
    (ax, ay), (bx, by) = label.line
    steps = [(ax + (bx - ax) * t / 60, ay + (by - ay) * t / 60) for t in range(61)]
    return any(box[0] + 0.01 < x < box[2] - 0.01 and box[1] + 0.01 < y < box[3] - 0.01 for x, y in steps)


def test_a_point_on_its_own_has_its_name_right_beside_it() -> None:
    found = place([Mark(100, 100, 5, "a"), Mark(200, 200, 5, "b")], BOUNDS)
    assert [(found[k].anchor, found[k].line) for k in (0, 1)] == [("start", None)] * 2
    assert place([Mark(333, 100, 5, "abcdef")], BOUNDS)[0].anchor == "end", "no room at the right"
    assert place([Mark(100, 100, 5, "a" * 60)], BOUNDS) == {}


def text_box(node: ElementTree.Element) -> Box:
    """Around a text at 11 pixels, whose letters are at most as wide as the charts reckon."""
    x, y, long = float(node.get("x", 0)), float(node.get("y", 0)), LETTER * len(node.text or "")
    left = x - {"start": 0, "middle": long / 2, "end": long}[node.get("text-anchor", "start")]
    return left, y - 10, left + long, y + 2


@pytest.mark.parametrize("width", [figures.HALF, figures.NARROW])
@pytest.mark.parametrize("chart", ["figure 4a", "three ways"])
def test_published_designs_are_named_at_their_own_points(chart: str, width: int) -> None:
    """The crowded group of 0.42M: six designs within forty pixels, three of them one over the other."""
    group = fronts.published_group()
    [drawn] = (landscapes.quality_over_parameters if chart == "figure 4a" else landscapes.three_ways)([group])
    svgs = re.findall(r"<svg.*?</svg>", drawn, re.DOTALL)
    root = ElementTree.fromstring(svgs[width == figures.NARROW])
    spots = {}
    for node in root.iter():
        title = node.find("title")
        if title is not None and title.text:
            where = node.get("d") or f"M{node.get('cx')} {node.get('cy')}"
            x, y = map(float, re.findall(r"-?[\d.]+", where)[:2])
            spots[title.text.partition(" ")[0]] = (x, y + (6.25 if node.get("d") else 0))
    assert len(spots) == 12, "every design is on hover"
    names = [n for n in root.iter("text") if n.get("class") == "name"]
    ticks = [text_box(n) for n in root.iter("text") if n.get("class") in ("tick", "label")]
    assert len(names) >= 9
    for node in names:
        box = text_box(node)
        nearest = min(spots, key=lambda name: gap(*spots[name], box))
        assert gap(*spots[node.text or ""], box) <= gap(*spots[nearest], box) + 0.15, f"{node.text} stands at {nearest}"
        assert not any(overlap(box, tick) for tick in ticks), f"{node.text} paints over an axis"


def test_a_name_off_its_point_has_a_line_to_it() -> None:
    svg = scatter.scatter(340, [Point(1.0, 1.0 + k / 50, f"design {k}", label=True) for k in range(4)] + [Point(2.0, 9.0, "b")],
                          "x", "y", "alt")
    assert 'class="leader"' in svg and svg.index("<circle") < svg.index('class="leader"')
