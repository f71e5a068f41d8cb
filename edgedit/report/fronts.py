"""Pareto fronts over parameters, quality, latency and energy: who is beaten in everything by whom.

Figures are set against each other only where they are of one kind: one quality by name, one machine. Published designs are a
set of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgedit.core import paper
from edgedit.report.derived import parameters_of
from edgedit.report.sweeps import Row, SweepSource
from edgedit.report.tables import Table
from edgedit.report.words import SPACE, count, joules, listing, number

OF_ONE_DESIGN = ("table1", "table3", "table4")
"""Tables that vary the training of one design: no designs to set against each other."""
AXES = ("parameters", "quality", "latency", "energy")


@dataclass(frozen=True)
class Design:
    """A design's place: `values` by axis, each so that less is better; `shown` the same figures as they are."""

    name: str
    values: dict[str, float]
    shown: dict[str, float]


@dataclass(frozen=True)
class Group:
    """Designs whose figures are of one kind; `quality` is the quality's name, `where` the machine."""

    title: str
    quality: str
    where: str
    designs: tuple[Design, ...]
    published: bool = False
    foreign: str = ""
    """What sets these designs apart from the paper's ("image size 8 × 8"), "" where nothing does."""

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes that every design has."""
        return tuple(a for a in AXES if all(a in d.values for d in self.designs))


def dominates(a: Design, b: Design, axes: Sequence[str]) -> bool:
    """Whether `a` is at least as good as `b` on all axes and better on one."""
    return all(a.values[x] <= b.values[x] for x in axes) and any(a.values[x] < b.values[x] for x in axes)


def front(designs: Sequence[Design], axes: Sequence[str]) -> list[Design]:
    """Designs that none dominates, in the order of the first axis."""
    free = [d for d in designs if not any(dominates(e, d, axes) for e in designs)]
    return sorted(free, key=lambda d: (d.values[axes[0]], d.values[axes[-1]]))


def published_group() -> Group:
    """The twelve designs of Table 6 at 100 epochs: parameters, FID and latency on the paper's board."""
    rows = [r for r in paper.TABLE_6 if r.epochs == 100]
    designs = []
    for r in rows:
        values = {"parameters": float(parameters_of(r)), "quality": r.fid, "latency": r.latency_s}
        designs.append(Design(r.label, values, values))
    return Group("Published", "FID", paper.BOARD, tuple(designs), published=True)


def own_groups(sweep: SweepSource) -> list[Group]:
    """The sweep's designs by quality name and machine; rows without parameters and a second figure are left out."""
    by: dict[tuple[str, str, str], list[Row]] = {}
    for row in sweep.rows:
        if row.parameters and row.table not in OF_ONE_DESIGN and (row.quality_value is not None or row.latency_50k_s is not None):
            name = row.quality.name if row.quality is not None and row.quality.value is not None else ""
            other = ", ".join(f"{k} {v}" for k, v in row.foreign.items())
            by.setdefault((name, row.device if row.latency_50k_s is not None else "", other), []).append(row)
    return [Group(_here(where, other), name, where, tuple(_once(map(_design, rows))), foreign=other)
            for (name, where, other), rows in by.items()]


def _here(where: str, other: str) -> str:
    return ", ".join(["Here", *(text for text in (where, other) if text)])


def _once(designs: Iterable[Design]) -> list[Design]:
    """Without those that say the very same: Figure 3 has its middle design in each of its three rows."""
    found: list[Design] = []
    for d in designs:
        if d not in found:
            found.append(d)
    return found


def by_machine(groups: Sequence[Group]) -> list[Group]:
    """Groups merged by machine, without their qualities: every design that was timed there."""
    merged: dict[tuple[bool, str, str], list[Design]] = {}
    for g in groups:
        merged.setdefault((g.published, g.where, g.foreign), []).extend(d for d in g.designs if "latency" in d.values)
    return [Group("Published" if pub else _here(where, other), "", where, tuple(_once(
        Design(d.name, {k: v for k, v in d.values.items() if k != "quality"}, d.shown) for d in found)), pub, other)
        for (pub, where, other), found in merged.items() if found]


def tables(groups: Sequence[Group]) -> list[Table]:
    """A table for each group, and one for each machine that timed more designs than any group of it holds."""
    def largest(machine: Group) -> int:
        return max(len(g.designs) for g in judged if _alike(g, machine))

    judged = [g for g in groups if g.quality]
    timed = [m for m in by_machine(groups) if not any(_alike(g, m) for g in judged) or len(m.designs) > largest(m)]
    return [t for g in (*judged, *timed) if (t := table(g)) is not None]


def _alike(a: Group, b: Group) -> bool:
    return (a.published, a.where, a.foreign) == (b.published, b.where, b.foreign)


def _design(row: Row) -> Design:
    shown: dict[str, float] = {"parameters": float(row.parameters or 0)}
    for axis, value in (("quality", row.quality_value), ("latency", row.latency_50k_s), ("energy", row.energy_j_per_image)):
        if value is not None:
            shown[axis] = value
    up = row.quality is not None and row.quality.higher_is_better
    return Design(row.shown, {a: -v if a == "quality" and up else v for a, v in shown.items()}, shown)


def table(group: Group) -> Table | None:
    """Who is on the front over all axes the group shares, and who beats the others; None for fewer than two designs or axes."""
    axes = group.axes
    if len(group.designs) < 2 or len(axes) < 2:
        return None
    heads = {"parameters": "Parameters", "quality": group.quality, "latency": "50,000 images", "energy": "Energy per image"}
    rows = []
    for d in sorted(group.designs, key=lambda d: d.values[axes[0]]):
        beaten = [e.name for e in group.designs if dominates(e, d, axes)]
        cells = {"parameters": count(round(d.shown["parameters"])), "quality": number(d.shown.get("quality"), 4),
                 "latency": f"{number(d.shown.get('latency'), 4)}{SPACE}s", "energy": joules(d.shown.get("energy"))}
        by = listing(beaten) if len(beaten) < 4 else f"{beaten[0]} and {len(beaten) - 1} more"
        verdict = f"beaten by {by}" if beaten else "on the front"
        rows.append((d.name, *(cells[a] for a in axes), verdict))
    words = {"parameters": "parameters", "quality": group.quality, "latency": "latency", "energy": "energy"}
    return Table(f"Front over {listing([words[a] for a in axes])}: {group.title[:1].lower() + group.title[1:]}",
                 ("Design", *(heads[a] for a in axes), "Verdict"), tuple(rows), "l" + "r" * len(axes) + "l",
                 "Beaten: another design is at least as good in every column and better in one.",
                 frozenset() if group.published else frozenset(range(1, len(axes) + 2)))
