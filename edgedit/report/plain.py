"""The same report as Markdown, and the records as CSV: one line each, full precision, units in the column names."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from edgedit.core.record import Record
from edgedit.report import derived
from edgedit.report.tables import Facts, Table


def cell(text: str) -> str:
    """Text that stays in its Markdown cell and brings no HTML along."""
    text = " ".join(text.split())
    for sign, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\\", "\\\\"), ("|", "\\|"), ("`", "\\`"), ("[", "\\["),
                       ("]", "\\]"), ("*", "\\*"), ("_", "\\_"), ("#", "\\#")):
        text = text.replace(sign, safe)
    return text


def markdown_table(table: Table) -> list[str]:
    """A table with its title and note."""
    lines = [f"**{cell(table.title)}**", "", f"| {' | '.join(map(cell, table.columns))} |",
             f"|{'|'.join('---:' if a == 'r' else '---' for a in table.align)}|"]
    lines += [f"| {' | '.join(map(cell, row))} |" for row in table.rows]
    return [*lines, "", *([cell(table.note), ""] if table.note else [])]


def _facts(title: str, rows: Facts) -> list[str]:
    return markdown_table(Table(title, ("", ""), tuple(rows), "ll"))


def markdown(page: dict[str, Any]) -> str:
    """The page's content (see `content`) as Markdown; pictures and charts are in the HTML file only."""
    lines = [f"# {cell(page['title'])}", "", cell(page["lead"]), "", "## Verdicts", ""]
    for v in page["verdicts"]:
        fix, of = (f" What to do: {cell(v.fix).rstrip('.')}." if v.fix else ""), (f" ({cell(v.of)})" if v.of else "")
        lines.append(f"- **{v.word}**: {cell(v.text).rstrip('.')}{of}.{fix}")
    lines.append("")
    if page["comparison"]:
        lines += ["## Compared", "", *(markdown_table(page["differences"]) if page["differences"] else []),
                  *markdown_table(page["comparison"])]
    if page["paper_tables"] or page["paper_without"]:
        lines += ["## Beside the paper", "", cell(f"{page['paper_title']} ({page['paper_author']})"), ""]
        for t in page["paper_tables"]:
            lines += markdown_table(t)
        lines += [line for text in page["paper_without"] for line in (cell(text), "")]
    for r in page["records"]:
        lines += [f"## {cell(r['name'])}", "", cell(r["headline"]), "", *(f"Note: {cell(n)}.\n" for n in r["notes"]),
                  *markdown_table(r["latency"]), *markdown_table(r["phases"])]
        for t in ([r["energies"], *r["rails"]] if r["energies"] else []):
            lines += markdown_table(t)
        if not r["energies"]:
            lines += [f"Power and energy: {cell(r['no_power'])}", ""]
        lines += [*_facts("What was measured", r["subject"]), *_facts("Where it ran", r["environment"])]
        if r["unrecorded"]:
            lines += [f"Not recorded: {cell(', '.join(r['unrecorded']))}.", ""]
    if page["parities"]:
        lines += ["## Parity", "", *(line for t in page["parities"] for line in markdown_table(t))]
    if page["students"]:
        lines += ["## Training", "", *(f"- {cell(s['name'])}: {cell(s['text'])}" for s in page["students"]), ""]
    lines += ["## Chain of evidence", ""]
    for chain in page["chains"]:
        lines += [f"{cell(chain['name'])}:", ""]
        lines += [
            f"{'  ' * depth}- {cell(link.role)} {cell(link.label)}: {cell(link.digest)}"
            for depth, link in chain["links"]
        ]
        lines += ["", *([cell(chain["end"]), ""] if chain["end"] else [])]
    return "\n".join(lines).replace("\u00a0", " ").rstrip() + "\n"


def row(name: str, digest: str, record: Record) -> dict[str, Any]:
    """One record as a flat row; unknown values are empty."""
    s, p, env, time50 = record.subject, record.protocol, record.environment, derived.fifty(record)
    flat: dict[str, Any] = {
        "record": name, "digest": digest, "started_utc": record.started_utc, "complete": record.complete, "design": s.label,
        **{name: s.spec.get(name) for name in ("depth", "width", "heads", "patch", "image", "channels", "classes")},
        "precision": s.precision,
        "attention": s.attention,
        "guidance_scale": s.guidance_scale,
        "parameters": s.parameters,
        "deployed_parameters": s.deployed_parameters,
        "flops_per_image": s.flops_per_image,
        "bundle_digest": s.bundle_digest,
        "machine": derived.machine(record),
        "board": env.board,
        "power_mode": env.power_mode,
        "clocks_locked": env.clocks_locked,
        "runtime": p.runtime,
        "provider": p.provider,
        "threads": p.threads,
        "images_asked": p.images,
        "images_done": derived.images_done(record),
        "batch": p.batch,
        "forward_batch": s.forward_batch,
        "seed": p.seed,
        "save": p.save,
        "overlap": p.overlap,
        "wall_s": record.wall_s,
        "images_per_s": record.images_per_s,
        "seconds_for_50000_images": time50.wall_s if time50 else None,
        "seconds_for_50000_images_how": time50.how if time50 else None,
    }
    for prefix, d in (("batch_ms", record.batch_ms), ("period_ms", record.period_ms)):
        flat |= {f"{prefix}_{key}": value for key, value in d.model_dump().items()}
    flat |= {f"phase_{name}_s": value for name, value in record.phases_s.items()}
    flat["peak_memory_mb"] = record.peak_memory_mb
    if record.power is not None:
        flat |= {f"power_{key}": value for key, value in record.power.model_dump(exclude={"rails"}).items()}
    rows = derived.published(record)
    flat |= {
        "paper_seconds_for_50000_images_orin_nano": rows[0].latency_s if rows else None,
        "paper_fid": rows[0].fid if rows else None,
    }
    flat["verdicts"] = "; ".join(f"{v.level}: {v.text}" for v in record.verdicts)
    return flat


def csv_text(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as CSV (RFC 4180) under the union of their columns; text that a spreadsheet would run gets a leading apostrophe."""
    columns = list(dict.fromkeys(key for r in rows for key in r))
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, columns, restval="", lineterminator="\r\n")
    writer.writeheader()
    for r in rows:
        writer.writerow(
            {key: f"'{v}" if isinstance(v, str) and v[:1] in ("=", "+", "-", "@", "\t", "\r") else v for key, v in r.items()}
        )
    return stream.getvalue()
