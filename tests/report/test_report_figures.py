"""Charts: axes, ticks, and SVG that parses and escapes."""

from __future__ import annotations

import math
import random
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedit.report import axes, figures, scatter
from edgedit.report.figures import Bar, Series, Span
from edgedit.report.scatter import Point

HOSTILE = '"><script>alert(1)</script>&\'<img src=x onerror=alert(2)>'


def parse(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9), st.integers(2, 12))
def test_ticks_lie_inside_ascend_and_are_told_apart(low: float, length: float, target: int) -> None:
    ticks = axes.nice_ticks(low, low + length, target)
    if length < 1e-9 * abs(low):
        return
    assert ticks == sorted(set(ticks))
    assert all(low - 1e-6 * length <= t <= low + length * (1 + 1e-6) for t in ticks)
    assert len(ticks) <= 2 * target + 2


@given(st.floats(1e-6, 1e6), st.floats(1.2, 1e6), st.integers(2, 10))
def test_log_ticks_lie_inside(low: float, ratio: float, target: int) -> None:
    high = low * ratio
    ticks = axes.log_ticks(low, high, target)
    assert all(low <= t <= high * (1 + 1e-9) for t in ticks) and ticks == sorted(ticks)


def test_tick_labels_are_distinct() -> None:
    for low, high in ((0, 1), (0, 0.003), (409.8, 410.4), (0, 50_000), (-5, 5)):
        texts = axes.tick_text(axes.nice_ticks(low, high))
        assert len(set(texts)) == len(texts) >= 3


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400), st.integers(2, 50))
def test_thin_keeps_extremes_and_order(values: list[float], limit: int) -> None:
    x, y = figures.thin(range(len(values)), values, limit)
    assert min(y) == min(values) and max(y) == max(values)
    assert x == sorted(x) and all(values[int(k)] == v for k, v in zip(x, y, strict=True))
    assert len(x) <= max(limit, 2) or len(values) <= limit


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300))
def test_bins_count_every_value_once(values: list[float]) -> None:
    edges, counts = figures.bins(values)
    assert sum(counts) == len(values) and len(edges) == len(counts) + 1
    assert edges[0] <= min(values) and edges[-1] >= max(values) * (1 - 1e-12)


@pytest.mark.parametrize("width", [figures.WIDE, figures.HALF, figures.NARROW])
def test_charts_parse_stay_inside_and_escape(width: int) -> None:
    rng = random.Random(0)
    y = [100 + rng.random() for _ in range(391)]
    drawings = [
        figures.line(width, [Series(HOSTILE, range(391), y)], "batch", "ms", HOSTILE, spans=[Span(10, 300, HOSTILE)]),
        figures.line(width, [Series("loss", [1, 2, 3], [1.0, 0.1, 0.001])], "step", "loss", "alt", log=True),
        figures.histogram(width, y, HOSTILE, "batches", HOSTILE, marks=[(HOSTILE, 100.5), ("b", 100.5)]),
        figures.bars(width, [Bar(HOSTILE, ((HOSTILE, 3.0, "s1"), ("b", 2.0, "s2")), HOSTILE, mark=4.0)], HOSTILE, HOSTILE),
        scatter.scatter(
            width, [Point(1, 2, HOSTILE, label=True), Point(1, 2, "b", hollow=True, label=True)], "x", "y", HOSTILE, log=True
        ),
    ]
    for svg in drawings:
        root = parse(svg)
        assert root.get("role") == "img" and root.get("aria-label")
        tags = {node.tag for node in root.iter()}
        assert tags <= {"svg", "path", "line", "rect", "circle", "text", "title"}, tags
        for node in root.iter():
            assert not any(name.startswith("on") or name in ("href", "src") for name in node.attrib)
            for name in ("x", "x1", "x2", "cx"):
                assert -1 <= float(node.get(name, 0)) <= width + 1, (node.tag, node.attrib)


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0, 5.0], [1e-9, 2e-9], [1e12, 1.5e12], [-3.0, 4.0]])
def test_degenerate_data_still_draws(values: list[float]) -> None:
    for svg in (
        figures.line(340, [Series("a", range(len(values)), values)], "x", "y", "alt", zero=False),
        figures.histogram(340, values, "ms", "n", "alt"),
        figures.bars(340, [Bar("a", (("p", abs(v), "s1"),)) for v in values], "u", "alt"),
        scatter.scatter(340, [Point(v, v, "p") for v in values], "x", "y", "alt"),
    ):
        assert not any(
            math.isnan(float(v)) for node in parse(svg).iter() for k, v in node.attrib.items() if k in ("x", "y", "cx", "cy")
        )


def test_line_shows_values_on_hover() -> None:
    root = parse(figures.line(920, [Series("power", [0, 1, 2], [8.0, 9.5, 8.5])], "s", "W", "alt"))
    assert [t.text for t in root.iter("title")] == [
        "power: 8.000 at 0 (s)",
        "power: 9.500 at 1.000 (s)",
        "power: 8.500 at 2.000 (s)",
    ]


def test_stacked_parts_add_up() -> None:
    root = parse(figures.bars(920, [Bar("run", (("a", 1.0, "s1"), ("b", 3.0, "s2")))], "s", "alt"))
    a, b = root.iter("rect")
    assert float(b.get("x")) == pytest.approx(float(a.get("width")) + 1, abs=0.2)
    assert float(b.get("width")) + 1 == pytest.approx(3 * (float(a.get("width")) + 1), abs=0.5)
