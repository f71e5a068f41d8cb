"""What the page says of a sweep: how far it is, the paper's tables and figures rebuilt, fronts, predictions, and rows that failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from edgedit.report import fronts, landscapes, predictions, rebuilt
from edgedit.report.sweeps import Row, SweepSource
from edgedit.report.tables import Facts, Table, spoken
from edgedit.report.words import SPACE, count, listing, number, plural

ORDER = ("done", "running", "waiting", "stopped", "failed", "skipped")


def progress(sweep: SweepSource) -> str:
    """ "3 of 13 rows done"."""
    return f"{sum(r.status == 'done' for r in sweep.rows)} of {plural(len(sweep.rows), 'row')} done"


def lead(sweep: SweepSource) -> str:
    """The result in a few sentences: best quality, highest rate, and on what budget."""
    parts = []
    for name in dict.fromkeys(r.quality.name for r in sweep.rows if r.quality and r.quality.value is not None):
        rows = [r for r in sweep.having("quality_value") if r.quality and r.quality.name == name]
        up = rows[0].quality is not None and rows[0].quality.higher_is_better
        best = (max if up else min)(rows, key=lambda r: r.quality_value or 0.0)
        of = f", of {len(rows)} measured" if len(rows) > 1 else ""
        parts.append(f"Best {name}: {number(best.quality_value, 4)}, {best.shown}{of}.")
    for device, other in dict.fromkeys((r.device, rebuilt.foreign(r)) for r in sweep.having("latency_50k_s")):
        rows = [r for r in sweep.having("latency_50k_s") if (r.device, rebuilt.foreign(r)) == (device, other)]
        best = min(rows, key=lambda r: r.latency_50k_s or 0.0)
        where, n = f" on {device}" if device else "", sweep.reckoned_from(best)
        how = f", reckoned from {count(n, 'images')}" if n is not None else ""
        parts.append(f"Fastest{where}: {best.shown}, {number(best.latency_50k_s, 4)}{SPACE}s for 50,000 images{how}"
                     f"{f', of {other}' if other else ''}.")
    return " ".join(parts) or "Nothing is measured yet."


def verdicts(sweep: SweepSource) -> list[tuple[str, str, str, str]]:
    """(level, sentence, what to do, sweep's name) on what a reader must know before believing the sweep's figures."""
    found: list[tuple[str, str, str]] = []
    cuts: dict[str, list[str]] = {}
    apart = Counter(why for r in sweep.rows if (why := rebuilt.foreign(r)))
    for why, n in apart.items():
        found.append(("warning", f"{plural(n, 'row')} of {why}. No published value stands beside theirs, in no table and on no chart", ""))
    for r in sweep.rows:
        if r.status in ("failed", "stopped"):
            why = r.why or "the row does not say why"
            found.append(("warning", f"Row {r.name} {r.status}: {why}", "run the same sweep command again; rows that are done are kept"))
        if r.budget is not None and r.budget.cut and r.stands:
            cuts.setdefault(r.budget.cut, []).append(r.name)
        if r.published and r.table in {f"table{n}" for n in rebuilt.TITLES} and not _printed(r):
            told = ", ".join(f"{k} {v:g}" for k, v in r.published.items())
            found.append(("warning", f"Row {r.name} names published values ({told}) that no row of the paper's {r.table} has", ""))
    if cuts:
        every = len(cuts) == 1 and len(next(iter(cuts.values()))) == sum(r.stands for r in sweep.rows)
        told = "; ".join(f"{'every row' if every else listing(names) if len(names) < 4 else plural(len(names), 'row')}: {cut}"
                         for cut, names in list(cuts.items())[:3])
        told += f"; {len(cuts) - 3} more in the notes of the tables" if len(cuts) > 3 else ""
        found.append(("warning", f"Cut budget. {told[:1].upper() + told[1:]}. Quality here cannot be set against the paper's", ""))
    for name in dict.fromkeys(r.quality.name for r in sweep.rows if r.quality):
        seen = [r.budget.images_seen for r in sweep.having("quality_value") if r.quality and r.quality.name == name and r.budget
                and r.budget.images_seen and r.table not in fronts.OF_ONE_DESIGN]
        if seen and max(seen) > 1.01 * min(seen):
            found.append(("warning", f"Rows were trained on {count(min(seen))} to {count(max(seen), 'images')}: a better {name} may come "
                          "from more training, not from the design", "sweep with one budget for all rows"))
    own = dict.fromkeys(r.quality.name for r in sweep.rows if r.quality and r.quality.value is not None)
    if own:
        found.append(("note", f"Quality here is {listing([*own])}; the paper prints FID with its reference set not stated: the two are not "
                      "the same figure and stand on charts of their own", ""))
    waiting = [r.name for r in sweep.rows if r.status not in ("done", "failed", "stopped", "skipped")]
    if waiting:
        told = listing(waiting) if len(waiting) < 7 else f"{listing(waiting[:5])} and {len(waiting) - 5} more"
        found.append(("note", f"{plural(len(waiting), 'row')} not finished: {told}", "run the same sweep command again"))
    if not found and sweep.rows:
        found.append(("ok", "Every row is done on the budget asked for", ""))
    found += [("note", note[:1].upper() + note[1:], "") for note in sweep.notes]
    return [(*f, sweep.name) for f in found]


def _printed(row: Row) -> bool:
    return any(printed.fits(row) for printed in rebuilt.lines(int(row.table[5:]))[1])


def section(number_: int, sweep: SweepSource) -> dict[str, Any]:
    """Everything about one sweep."""
    own = fronts.own_groups(sweep)
    groups = [fronts.published_group(), *own] if _on_the_map(sweep.rows) else own
    qualities = landscapes.quality_groups(groups)
    states = Counter(r.status for r in sweep.rows)
    return {
        "anchor": f"sweep-{number_}",
        "name": sweep.name,
        "apart": listing([*dict.fromkeys(f"another {listing([*r.foreign])}" for r in sweep.rows if r.foreign)]),
        "states": [(s, states[s]) for s in [*ORDER, *sorted(set(states) - set(ORDER))] if states[s]],
        "tables": rebuilt.tables(sweep),
        "figure_3": landscapes.figure_3(sweep),
        "figure_4a": landscapes.quality_over_parameters(qualities) if any(not g.published for g in qualities) else [],
        "figure_4b": landscapes.latency_over_parameters(groups),
        "three_ways": landscapes.three_ways(groups) if any(not g.published and {"quality", "latency"} <= set(d.shown)
                                                           for g in groups for d in g.designs) else [],
        "energy": landscapes.energy_and_quality(own),
        "fronts": fronts.tables(groups),
        "predictions": predictions.table(sweep.rows),
        "predictions_figure": predictions.figure(sweep.rows),
        "trouble": _trouble(sweep.rows),
        "facts": _facts(sweep),
    }


def _on_the_map(rows: Sequence[Row]) -> bool:
    """Whether the paper's designs belong on the sweep's charts: some row is of their image, patch and class sizes, and data set."""
    return any(r.design is not None and not r.foreign and (r.quality_value is not None or r.latency_50k_s is not None) for r in rows)


def _trouble(rows: Sequence[Row]) -> Table | None:
    """Rows that are not done, with why."""
    open_ = tuple((r.name, r.label or "–", r.status, r.why or "–") for r in rows if r.status in ("failed", "stopped", "skipped"))
    return Table("Rows that did not finish", ("Row", "Design", "State", "Why"), open_, "llll") if open_ else None


def _facts(sweep: SweepSource) -> Facts:
    """What the sweep says of itself."""
    m = sweep.artifact.manifest
    told = [(k.replace("_", " ").capitalize(), spoken(v)) for k, v in m.info.items() if k not in ("label", "name")]
    return [*((k, v) for k, v in told if v), ("This sweep", m.digest)]


def flat(sweep: SweepSource, row: Row) -> dict[str, Any]:
    """A row for the CSV: full precision, empty where unknown."""
    spec, budget, quality = row.spec or {}, row.budget, row.quality
    n = sweep.reckoned_from(row)
    how = f"reckoned from {n} images" if n is not None else "as the sweep states it"
    return {
        "kind": "sweep row", "record": row.name, "digest": sweep.artifact.manifest.digest, "sweep": sweep.name, "table": row.table,
        "design": row.label, **{k: spec.get(k) for k in ("depth", "width", "heads", "patch", "image", "channels", "classes")},
        "precision": row.precision or None, "setup": row.setup, "loss": row.loss, "parameters": row.parameters,
        "deployed_parameters": row.deployed_parameters, "status": row.status, "why": row.why,
        "images_seen": budget.images_seen if budget else None, "epochs": budget.epochs if budget else None,
        "pairs": budget.pairs if budget else None, "cut": budget.cut if budget else None,
        "quality_name": quality.name if quality else None, "quality": quality.value if quality else None,
        "quality_images": quality.n if quality else None, "accuracy": row.accuracy, "machine": row.device,
        "images_per_s": row.images_per_s, "seconds_for_50000_images": row.latency_50k_s,
        "seconds_for_50000_images_how": None if row.latency_50k_s is None else how,
        "power_mj_per_image": None if row.energy_j_per_image is None else 1e3 * row.energy_j_per_image,
        **{f"predicted_{k}_s": v for k, v in row.predicted_s.items()}, **{f"seconds_{k}": v for k, v in row.seconds.items()},
        "not_the_papers": rebuilt.foreign(row).replace(SPACE, " ") or None,
        "paper_seconds_for_50000_images_orin_nano": None if row.table == "table5" or row.foreign else row.published.get("latency_s"),
        "paper_fid": None if row.foreign else row.published.get("fid"),
    }
