"""The paper's Figures 3 and 4 from a sweep: quality over each size, quality and latency over parameters, and all three at once.

Published and own values of latency share a chart (open diamonds, solid dots); of quality they never do, since a quality is
another figure under another name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from edgedit.core import paper
from edgedit.report import fronts
from edgedit.report.figures import HALF, WIDE, Series, chart, line
from edgedit.report.fronts import Group
from edgedit.report.scatter import Front, Point, scatter
from edgedit.report.sweeps import Row, SweepSource
from edgedit.report.words import count, joules, number, plural

BASE = (6, 128, 4)
"""Depth, width and heads of Figure 3 for whichever is not swept; its values are in the paper's plots only."""
SIZES = ("depth", "width", "heads")
MILLIONS = "parameters, training form, millions"
LATENCY = "seconds for 50,000 images"


def figure_3(sweep: SweepSource) -> list[Markup]:
    """Quality over depth, width and heads, one chart for each that the sweep varies with the other two held."""
    rows = [r for r in sweep.rows if r.table == "fig3" and r.quality is not None and r.quality.value is not None and r.design]
    charts = []
    for k, size in enumerate(SIZES):
        others = [j for j in range(3) if j != k]
        swept = [r for r in rows if r.design and all(r.design[j] == BASE[j] for j in others)]
        for name in dict.fromkeys(r.quality.name for r in swept if r.quality):
            points = sorted((float((r.design or BASE)[k]), r.quality_value or 0.0) for r in swept if r.quality and r.quality.name == name)
            if len({x for x, _ in points}) > 1:
                charts.append(_swept(size, name, points, ", ".join(f"{SIZES[j]} {BASE[j]}" for j in others)))
    return charts


def _swept(size: str, name: str, points: list[tuple[float, float]], held: str) -> Markup:
    curve = Series(name, [x for x, _ in points], [y for _, y in points])
    alt = f"{name} over {size}: " + "; ".join(f"{number(x, 2)}: {number(y, 4)}" for x, y in points) + "."
    return chart(lambda width: line(width, [curve], size, name, alt, zero=False, dots=True), f"{name} over {size}, with {held}.",
                 width=HALF)


def quality_over_parameters(groups: Sequence[Group]) -> list[Markup]:
    """Figure 4a: one chart for the published FID, one for each quality of the sweep."""
    return [made for g in groups if (made := _pair(g, "parameters", "quality", f"{g.quality} over parameters")) is not None]


def energy_and_quality(groups: Sequence[Group]) -> list[Markup]:
    """Quality over energy per image, where a sweep measured energy."""
    return [made for g in groups if (made := _pair(g, "energy", "quality", f"{g.quality} over energy per image")) is not None]


def _pair(group: Group, x: str, y: str, title: str) -> Markup | None:
    designs = [d for d in group.designs if x in d.shown and y in d.shown]
    if not designs or (not group.quality and "quality" in (x, y)):
        return None
    scale, style = (1e-6 if x == "parameters" else 1.0), "s2" if group.published else "s1"
    x_label = MILLIONS if x == "parameters" else "joules per image"
    best = fronts.front(designs, (x, y))
    points = [Point(d.shown[x] * scale, d.shown[y], d.name, style, hollow=group.published, label=True, title=_told(group, d.shown, d.name))
              for d in designs]
    front = Front(tuple((d.shown[x] * scale, d.shown[y]) for d in best), style)
    log_x = len(designs) > 1 and max(p.x for p in points) > 3 * min(p.x for p in points)
    kind = f"Published, {paper.BOARD}" if group.published else group.title
    alt = f"{title}, {kind}: {plural(len(designs), 'design')}; on the front: {', '.join(d.name for d in best)}."
    dashed = " The dashed line joins the front: no design is better in both." if len(best) > 1 else ""
    return chart(lambda width: scatter(width, points, x_label, group.quality, alt, height=300, log_x=log_x, fronts=[front]),
                 f"{kind}: {title}.{dashed}", width=HALF)


def latency_over_parameters(groups: Sequence[Group]) -> list[Markup]:
    """Figure 4b: published designs and the sweep's on one chart; designs of another image size, data set … on charts of their own."""
    apart = dict.fromkeys(g.foreign for g in groups if g.foreign)
    parts = [[g for g in groups if g.foreign == other] for other in ("", *apart)]
    return [made for part in parts if (made := _latency(part)) is not None]


def _latency(groups: Sequence[Group]) -> Markup | None:
    """One chart of latency over parameters, a colour for each machine."""
    points, legend, lines, ours = [], [], [], 0
    for k, group in enumerate(fronts.by_machine(groups)):
        style = "s2" if group.published else ("s1", "s3", "s4", "s5")[k % 4]
        designs = group.designs
        ours += 0 if group.published else len(designs)
        for d in designs:
            points.append(Point(d.shown["parameters"] / 1e6, d.shown["latency"], d.name, style, hollow=group.published,
                                label=not group.published or len(groups) == 1, title=_told(group, d.shown, d.name)))
        best = fronts.front(designs, ("parameters", "latency"))
        lines.append(Front(tuple((d.shown["parameters"] / 1e6, d.shown["latency"]) for d in best), style))
        legend.append((f"published, {paper.BOARD}" if group.published else f"here, {group.where or 'machine not stated'}",
                       f"{style} open" if group.published else style))
    if not ours:
        return None
    other = groups[0].foreign
    alt = f"Seconds for 50,000 images over parameters: {plural(ours, 'design')} here and {len(points) - ours} published."
    words = ("Another machine and other conditions: where a dot lies against a diamond says nothing of the designs; how the dots lie "
             "among themselves does.")
    if other:
        alt, words = f"{alt} Here: {other}.", f"Here: {other}. Not the paper's rows, so nothing published stands on this chart."
    return chart(lambda width: scatter(width, points, MILLIONS, LATENCY, alt, log=True, height=340), words, legend=legend, width=WIDE)


def three_ways(groups: Sequence[Group]) -> list[Markup]:
    """Figure 4 whole: latency and quality as axes, parameters as the area of the dot."""
    charts = []
    for group in groups:
        designs = [d for d in group.designs if {"parameters", "quality", "latency"} <= set(d.shown)]
        if designs:
            charts.append(_three(group, designs))
    return charts


def _three(group: Group, designs: Sequence[fronts.Design]) -> Markup:
    style = "s2" if group.published else "s1"
    most = max(d.shown["parameters"] for d in designs)
    points = [Point(d.shown["latency"], d.shown["quality"], d.name, style, label=True, title=_told(group, d.shown, d.name),
                    radius=max(4.0, 13 * math.sqrt(d.shown["parameters"] / most))) for d in designs]
    best = fronts.front(designs, ("latency", "quality"))
    front = Front(tuple((d.shown["latency"], d.shown["quality"]) for d in best), style)
    kind = f"Published, {paper.BOARD}" if group.published else group.title
    alt = f"{group.quality} over latency, {kind}, the area is the number of parameters: {plural(len(designs), 'design')}."
    log_x = max(p.x for p in points) > 3 * min(p.x for p in points)
    return chart(lambda width: scatter(width, points, LATENCY, group.quality, alt, height=350, log_x=log_x, fronts=[front]),
                 f"{kind}: quality over latency; the area is the number of parameters, {number(most / 1e6, 2)} M for the largest.",
                 width=HALF)


def _told(group: Group, shown: dict[str, float], name: str) -> str:
    """What a point says on hover."""
    parts = [f"{count(round(shown['parameters']))} parameters"]
    parts += [f"{group.quality} {number(shown['quality'], 4)}"] if group.quality and "quality" in shown else []
    parts += [f"{number(shown['latency'], 4)} s for 50,000 images"] if "latency" in shown else []
    parts += [f"{joules(shown['energy'])} per image"] if "energy" in shown else []
    return f"{name}{' published' if group.published else ' here'}: {', '.join(parts)}"


def predicted(rows: Sequence[Row], styles: dict[str, str]) -> Markup | None:
    """Predicted over measured seconds for 50,000 images, one colour a model; the dashed line marks equality."""
    points = [Point(r.latency_50k_s, value, f"{r.shown}, {model}", styles[model],
                    title=f"{r.shown}: {model} {number(value, 4)} s, measured {number(r.latency_50k_s, 4)} s")
              for r in rows if r.latency_50k_s is not None for model, value in r.predicted_s.items()]
    if not points:
        return None
    alt = f"Predicted over measured seconds for 50,000 images: {plural(len(points), 'prediction')}."
    return chart(lambda width: scatter(width, points, "measured, " + LATENCY, "predicted, " + LATENCY, alt, log=True, diagonal=True),
                 "A prediction on the dashed line is exact; above it too slow, below it too fast.", width=WIDE,
                 legend=[(model, style) for model, style in styles.items()])


def quality_groups(groups: Sequence[Group]) -> list[Group]:
    """Groups merged by quality name, for charts that do not show latency."""
    merged: dict[tuple[bool, str, str], list[Group]] = {}
    for g in groups:
        if g.quality:
            merged.setdefault((g.published, g.quality, g.foreign), []).append(g)
    return [Group(f"Published, {paper.BOARD}" if pub else f"Here, {other}" if other else "Here", name, "",
                  tuple(d for g in found for d in g.designs), pub, other) for (pub, name, other), found in merged.items()]

