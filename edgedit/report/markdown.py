"""The same report as Markdown; charts and pictures are in the HTML file only."""

from __future__ import annotations

from typing import Any

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
    for s in page["sweeps"]:
        lines += [f"## Sweep {cell(s['name'])}", "", cell(", ".join(f"{n} {state}" for state, n in s["states"])) + ".", ""]
        tables = [*s["tables"], *s["fronts"], *(t for t in (s["predictions"], s["trouble"]) if t)]
        lines += [line for t in tables for line in markdown_table(t)]
        lines += _facts("The sweep", s["facts"])
    if page["comparison"]:
        lines += ["## Compared", "", *(markdown_table(page["differences"]) if page["differences"] else []),
                  *markdown_table(page["comparison"])]
        for c, t in page["compared"]:
            lines += markdown_table(t) if t else [f"{cell(c.title)}: {cell(c.text)}", ""]
        lines += [cell(page["compared_method"]), ""] if page["compared_method"] else []
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
        if r["engine"]:
            lines += _facts("TensorRT engine", r["engine"])
        for t in (r["engine_blocks"], r["gate"]):
            lines += markdown_table(t) if t else []
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
