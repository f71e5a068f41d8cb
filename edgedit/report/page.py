"""Write a report: one self-contained HTML file, with Markdown, CSV and JSON beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedit import __version__
from edgedit.core.errors import OutputError, UsageError
from edgedit.core.files import output_error, write_atomic
from edgedit.core.say import Event, Say, silent
from edgedit.core.settings import Settings
from edgedit.report import bootstrap, compare, content, data, evidence, markdown, plain, plots, sweep_content, tables, verdicts
from edgedit.report.sources import Sources, read_sources
from edgedit.report.words import listing, plural


class ReportSettings(Settings):
    """Settings of a report; `title` replaces the heading that is made from the records."""

    title: str = ""


@dataclass(frozen=True)
class ReportResult:
    """What was written; `summary` is the result in one line, `warnings` the number of verdicts that are warnings or errors."""

    html: Path
    markdown: Path
    csv: Path
    json: Path
    records: int
    summary: str
    warnings: int
    html_bytes: int
    sweeps: int = 0


def write_report(
    sources: Sequence[Path], out: Path, settings: ReportSettings | None = None, *, say: Say = silent
) -> ReportResult:
    """Make `out` (.html) and its siblings .md, .csv and .json from record, sweep, parity and student folders.

    The HTML file loads nothing: styles, charts and pictures are inside it, it has no script, and its content security policy
    forbids any. The same inputs give the same bytes. Each file is written atomically, the HTML file last.

    Raises:
        UsageError: neither a record nor a sweep among the sources, a folder given twice, or `out` not named *.html.
        ArtifactError: a source that is not an artifact of a fitting kind, or was altered.
        OutputError: the files cannot be written.
    """
    settings, out = settings or ReportSettings(), Path(out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(
            "a report is an .html file", saw=out, fix=f"for example --out {out.with_name((out.name or 'report') + '.html')}"
        )
    check_file(out)
    say(Event("reading and checking the sources", 0, len(sources), unit="folders"))
    found = read_sources([Path(s) for s in sources])
    say(Event("reading and checking the sources", len(sources), len(sources), unit="folders"))
    page = contents(found, settings) | {f"{kind}_name": out.with_suffix(f".{kind}").name for kind in ("md", "csv", "json")}
    records, html = [s.record for s in found.records], render(page)
    rows = [
        plain.row(name, s.artifact.manifest.digest, s.record)
        for name, s in zip(content.names(found.records), found.records, strict=True)
    ]
    rows += [sweep_content.flat(sweep, row) for sweep in found.sweeps for row in sweep.rows]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(out, error) from error
    write_atomic(out.with_suffix(".csv"), plain.csv_text(rows))
    write_atomic(out.with_suffix(".md"), markdown.markdown(page))
    write_atomic(out.with_suffix(".json"), data.json_text(page, found))
    write_atomic(out, html)
    warnings = sum(v.level in ("warning", "error") for v in page["verdicts"])
    return ReportResult(
        out,
        out.with_suffix(".md"),
        out.with_suffix(".csv"),
        out.with_suffix(".json"),
        len(found.records),
        content.summary(records, found.sweeps).replace("\u00a0", " "),
        warnings,
        len(html.encode()),
        len(found.sweeps),
    )


def contents(found: Sources, settings: ReportSettings) -> dict[str, Any]:
    """Everything the page shows, as plain values and ready charts."""
    records, names = [s.record for s in found.records], content.names(found.records)
    several = len(records) > 1
    compared = compare.compare(names, found.records) if several else []
    page: dict[str, Any] = {
        "title": settings.title or content.title(records, found.sweeps), "lead": content.lead(names, records, found.sweeps),
        "version": __version__,
        "tiles": content.tiles(records[0]) if len(records) == 1 and not found.sweeps else [],
        "verdicts": verdicts.verdicts(names, found.records, found.sweeps, compared),
        "sweeps": [sweep_content.section(k, s) for k, s in enumerate(found.sweeps, 1)],
        "comparison": tables.comparison(names, records) if several else None,
        "differences": verdicts.difference_table(names, records),
        "compared": [(c, compare.table(c)) for c in compared],
        "compared_figure": compare.figure(compared),
        "compared_method": bootstrap.METHOD if any(d.ratio.low is not None for c in compared for d in c.changes) else "",
        "comparison_figures": plots.side_by_side(names, records) if several else [],
        "records": [content.record_section(k, n, s) for k, (n, s) in enumerate(zip(names, found.records, strict=True), 1)],
        "samples": evidence.samples([*zip(names, found.records, strict=True), *found.attached.items()]),
        "parities": [tables.parity(p) for p in found.parities],
        "students": [content.student_section(s, found.records) for s in found.students],
        "chains": evidence.chains(names, found),
        "made_from": listing([*([plural(len(found.sweeps), "sweep")] if found.sweeps else []),
                              *([plural(len(found.records), "record")] if found.records else []),
                              *([plural(len(found.parities), "parity ladder")] if found.parities else []),
                              *([plural(len(found.students), "training run")] if found.students else [])]),
        **content.paper_section(names, records),
        **({"landscape": None} if found.sweeps else {}),
    }
    optional = (
        *((s["anchor"], s["name"], True) for s in page["sweeps"]),
        ("compared", "Compared", page["comparison"]),
        ("paper", "Beside the paper", page["paper_tables"] or page["landscape"]),
        *((r["anchor"], r["name"], True) for r in page["records"]),
        ("samples", "Samples", page["samples"]),
        ("parity", "Parity", page["parities"]),
        ("training", "Training", page["students"]),
    )
    page["sections"] = [
        ("verdicts", "Verdicts"),
        *((a, n) for a, n, there in optional if there),
        ("evidence", "Chain of evidence"),
    ]
    return page


def render(page: dict[str, Any]) -> str:
    """The page as HTML; every value is escaped except the charts, which escape their own texts."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    folder = Path(__file__).parent / "templates"
    jinja = Environment(loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
                        lstrip_blocks=True, keep_trailing_newline=True)
    style = Markup((folder / "style.css").read_text(encoding="utf-8"))
    return jinja.get_template("page.html").render(page | {"style": style})


def check_file(out: Path) -> None:
    """OutputError before any work when the report could not be written at the end."""
    if out.is_dir():
        raise OutputError(f"{out} is a folder; a report is a file", fix=f"--out {out / 'report.html'}")
    parent = next(p for p in out.absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise OutputError(f"{out} cannot be written", saw=f"{parent} is {'not writable' if parent.is_dir() else 'a file'}",
                          fix="choose another --out")
