"""The same report as JSON: records whole, rows of sweeps, differences with intervals, tables as shown, chains with hashes."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from edgedit.report import fronts, rebuilt
from edgedit.report.sources import Sources
from edgedit.report.sweeps import Row, SweepSource
from edgedit.report.tables import Table
from edgedit.report.words import SPACE, near

SCHEMA = 1


def json_text(page: dict[str, Any], found: Sources) -> str:
    """The page's content (see `page.contents`) and the raw figures behind it; units are in the names, unknown values null."""
    body = {
        "schema": SCHEMA, "kind": "report", "tool": {"name": "edgedit", "version": page["version"]},
        "title": page["title"], "lead": page["lead"],
        "verdicts": [{"level": v.level, "text": v.text, "fix": v.fix, "of": v.of} for v in page["verdicts"]],
        "sweeps": [{"name": s.name, "digest": s.artifact.manifest.digest, "notes": s.notes,
                    "rows": [_row(row) for row in s.rows], "fronts": _fronts(s), "tables": _tables(shown)}
                   for s, shown in zip(found.sweeps, page["sweeps"], strict=True)],
        "records": [{"name": shown["name"], "digest": s.artifact.manifest.digest, "record": s.record.model_dump(mode="json"),
                     "notes": s.notes, "tables": _tables(shown)}
                    for s, shown in zip(found.records, page["records"], strict=True)],
        "comparisons": [{"base": c.base, "name": c.name, "changed": c.changed, "refused": c.refused, "notes": c.notes,
                         "method": page["compared_method"] or None,
                         "differences": [{"quantity": d.quantity, "percent": d.ratio.percent, "low": d.ratio.low, "high": d.ratio.high,
                                          "reading": d.reading} for d in c.changes]} for c, _ in page["compared"]],
        "paper": [_table(t) for t in page["paper_tables"]],
        "parities": [p.model_dump(mode="json", exclude={"artifact"}) for p in found.parities],
        "students": [{"name": s["name"], "text": s["text"]} for s in page["students"]],
        "chains": [{"name": c["name"], "links": [{"distance": k, **{f: v for f, v in asdict(link).items() if f != "parents"}}
                                                 for k, link in c["links"]]} for c in page["chains"]],
    }
    return json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False).replace(SPACE, " ") + "\n"


def _row(row: Row) -> dict[str, Any]:
    values = row.model_dump(mode="json") | {"not_the_papers": rebuilt.foreign(row) or None}
    values["paths"] = {role: path and near(path) for role, path in row.paths.items()}
    if row.quality is not None and row.quality.path:
        values["quality"]["path"] = near(row.quality.path)
    return values


def _fronts(sweep: SweepSource) -> list[dict[str, Any]]:
    return [{"quality": g.quality or None, "machine": g.where or None, "axes": g.axes,
             "front": [d.name for d in fronts.front(g.designs, g.axes)]}
            for g in fronts.own_groups(sweep) if len(g.axes) > 1]


def _tables(shown: dict[str, Any]) -> list[dict[str, Any]]:
    """Every table of a section, in the section's order."""
    found: list[dict[str, Any]] = []
    for value in shown.values():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Table):
                found.append(_table(one))
    return found


def _table(table: Table) -> dict[str, Any]:
    return {"title": table.title, "columns": table.columns, "rows": table.rows, "note": table.note}

