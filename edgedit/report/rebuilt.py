"""The paper's tables rebuilt from a sweep: its published values and the sweep's own, in columns of their own, never mixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgedit.core import paper
from edgedit.report.sweeps import Row, SweepSource
from edgedit.report.tables import Table
from edgedit.report.words import SPACE, count, joules, listing, number, seconds

NONE = "–"
TITLES = {
    1: "Table 1: distillation set-up and loss",
    2: "Table 2: the 0.42M designs",
    3: "Table 3: teaching assistant",
    4: "Table 4: multiple iterations in one",
    5: "Table 5: other methods, 50,000 images on an A100",
    6: "Table 6: all designs",
}
SOURCES = {2: ("table2", "table6", "fig4"), 6: ("table6", "fig4")}
"""Sweeps whose rows belong into a table, where it is not the table's own alone: Figure 4 shows the designs of Table 6."""
Extra = tuple[str, Callable[[Row], str], str]
"""A column of own values: heading, cell, alignment."""


@dataclass(frozen=True)
class Line:
    """A printed row: the cells that say what it is, its published values, and its design where it has one."""

    cells: tuple[str, ...]
    published: dict[str, float]
    design: tuple[int, int, int] | None = None

    def fits(self, row: Row) -> bool:
        """Whether a sweep's row is this one: by the published values it names, else by its design."""
        told = {k: v for k, v in row.published.items() if k in self.published}
        if told:
            return all(abs(v - self.published[k]) < 0.006 for k, v in told.items())
        return not row.published and self.design is not None and row.design == self.design


def lines(table: int) -> tuple[tuple[str, ...], list[Line]]:
    """Headings of the first columns and the printed rows of one of the paper's tables."""
    yes = {True: "yes", False: NONE}
    if table == 1:
        return ("Set-up", "Loss"), [Line((r.setup, r.loss), {"fid": r.fid}) for r in paper.TABLE_1]
    if table == 3:
        return ("Row", "Teacher", "TA image", "TA features"), [
            Line((str(r.row), yes[r.teacher], yes[r.assistant_image], yes[r.assistant_features]), {"fid": r.fid}) for r in paper.TABLE_3]
    if table == 4:
        return ("Mapped layers", "Times"), [
            Line((listing([str(x) for x in r.layers]) or "baseline", listing([f"{t:g}" for t in r.times]) or NONE), {"fid": r.fid})
            for r in paper.TABLE_4]
    if table == 5:
        nano = (7, 192, 12)
        return ("Method", "Parameters"), [
            Line((r.method, f"{r.parameters_millions:g}{SPACE}M"), {"fid": r.fid, "latency_s": r.latency_s},
                 nano if r.method == "DiT-Nano" else None) for r in paper.TABLE_5]
    rows = paper.TABLE_2 if table == 2 else paper.TABLE_6
    heads = ("Name", "Design") if table == 2 else ("Parameters", "Design")
    return heads, [Line((r.name if table == 2 else r.group, r.label + (f", {r.epochs} epochs" if r.epochs != 100 else "")
                         + (f"{SPACE}★" if r.follows else "")),
                        {"latency_s": r.latency_s, "fid": r.fid} | ({} if table == 2 else {"is": r.inception}),
                        (r.depth, r.width, r.heads)) for r in rows]


def tables(sweep: SweepSource) -> list[Table]:
    """Every table of the paper that the sweep has a row of, in the paper's order."""
    found = [made for number_ in TITLES if (made := rebuild(number_, sweep)) is not None]
    placed = {"fig4", *(f"table{n}" for n in TITLES)}
    parts: dict[tuple[str, str], list[Row]] = {}
    for row in sweep.rows:
        if row.table not in placed or row.foreign:
            parts.setdefault((row.table, foreign(row)), []).append(row)
    for (name, other), rest in parts.items():
        extra = _extra(rest)
        title = f"Rows of Figure {name[3:]}" if name.startswith("fig") else f"Rows of {name}" if name else "Rows of no table of the paper"
        title = f"Asked for as {name or 'no table of the paper'}, {other}" if other else title
        found.append(Table(title, ("Row", "Design", *(name for name, _, _ in extra)),
                           tuple((r.name, r.label or NONE, *(cell(r) for _, cell, _ in extra)) for r in rest),
                           "ll" + "".join(a for _, _, a in extra), _note(rest), frozenset(range(2, 2 + len(extra)))))
    return found


def foreign(row: Row) -> str:
    """Why a row stands apart from what is published: "another image size (8 × 8): not the paper's row"; "" where it does not."""
    other = row.foreign
    return f"another {listing([*other])} ({', '.join(other.values())}): not the paper's row" if other else ""


def rebuild(table: int, sweep: SweepSource) -> Table | None:
    """One table of the paper beside the sweep's rows of it; None when the sweep has none of them.

    Rows of another image size, data set … than the paper's (`foreign`) are none of it, whatever published values they name.
    """
    heads, printed = lines(table)
    own = [row for row in sweep.rows if row.table in SOURCES.get(table, (f"table{table}",)) and not row.foreign]
    chosen = {id(line): [row for row in own if line.fits(row)] for line in printed}
    used = {row.name for rows in chosen.values() for row in rows}
    loose = [] if table == 2 else [row for row in own if row.name not in used]
    if not used and not loose:
        return None
    shown = [row for row in own if row.name in used] + loose
    names = {"latency_s": "50,000 images, published", "fid": "FID, published", "is": "IS, published"}
    keys = [k for k in names if any(k in line.published for line in printed)]
    extra = _extra(shown)
    empty = tuple(NONE for _ in extra)
    rows: list[tuple[str, ...]] = []
    for line in printed:
        theirs = tuple(_published(k, line.published[k]) for k in keys)
        mine = chosen[id(line)]
        rows.append((*line.cells, *theirs, *(_cells(mine[0], extra) if mine else empty)))
        rows += [(*(("",) * (len(line.cells) - 1)), f"again: {row.name}", *("" for _ in keys), *_cells(row, extra)) for row in mine[1:]]
    rows += [(row.label or row.name, row.name, *(NONE for _ in heads[2:]), *(NONE for _ in keys), *_cells(row, extra)) for row in loose]
    first = len(heads) + len(keys)
    follows = "★ follows the paper's principles. " if table in (2, 6) else ""
    board = f"Published: {paper.BOARD}, runtime, precision and power mode not stated. " if table in (2, 6) else ""
    return Table(TITLES[table], (*heads, *(names[k] for k in keys), *(name for name, _, _ in extra)), tuple(rows),
                 "l" * len(heads) + "r" * len(keys) + "".join(a for _, _, a in extra), follows + board + _note(shown),
                 frozenset(range(first, first + len(extra))))


def _published(key: str, value: float) -> str:
    return f"{value:.1f}{SPACE}s" if key == "latency_s" and value > 20 else f"{value:.2f}{SPACE}s" if key == "latency_s" else f"{value:.2f}"


def _cells(row: Row, extra: Sequence[Extra]) -> tuple[str, ...]:
    return tuple(cell(row) for _, cell, _ in extra)


def _extra(rows: Sequence[Row]) -> list[Extra]:
    """Columns of own values, those only that some row has."""
    found: list[Extra] = []
    for name in dict.fromkeys(r.quality.name for r in rows if r.quality is not None and r.quality.value is not None):
        found.append((f"{name}, here", lambda r, name=name: number(r.quality_value, 4)  # type: ignore[misc]
                      if r.quality is not None and r.quality.name == name and r.quality.value is not None else NONE, "r"))
    if any(r.accuracy is not None for r in rows):
        found.append(("Accuracy, here", lambda r: NONE if r.accuracy is None else f"{number(100 * r.accuracy)}{SPACE}%", "r"))
    if any(r.latency_50k_s is not None for r in rows):
        found.append(("50,000 images, here", lambda r: NONE if r.latency_50k_s is None else f"{number(r.latency_50k_s, 4)}{SPACE}s", "r"))
    if any(r.energy_j_per_image is not None for r in rows):
        found.append(("Energy per image, here", lambda r: NONE if r.energy_j_per_image is None else joules(r.energy_j_per_image), "r"))
    if any(r.budget is not None and r.budget.images_seen is not None for r in rows):
        found.append(("Trained on, images", lambda r: NONE if r.budget is None or r.budget.images_seen is None
                      else count(r.budget.images_seen), "r"))
    if any("train" in r.seconds for r in rows):
        found.append(("Training", lambda r: seconds(r.seconds["train"]).partition(" (")[0] if "train" in r.seconds else NONE, "r"))
    return [*found, ("State", lambda r: r.status, "l")]


def _note(rows: Sequence[Row]) -> str:
    """What the own values are: quality names with their number of images, machines, cut budgets."""
    sizes = dict.fromkeys(f"{r.quality.name} of {count(r.quality.n, 'images')}" for r in rows
                          if r.quality is not None and r.quality.value is not None and r.quality.n is not None)
    machines = dict.fromkeys(r.device for r in rows if r.device and r.latency_50k_s is not None)
    cuts = dict.fromkeys(r.budget.cut for r in rows if r.budget is not None and r.budget.cut and r.stands)
    parts = [f"Here: {listing([*sizes])}." if sizes else "", f"Timed here on {listing([*machines])}." if machines else "",
             f"Cut budget: {'; '.join(cuts)}." if cuts else ""]
    return " ".join(p for p in parts if p)
