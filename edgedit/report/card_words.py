"""Pieces of a card's Markdown: cells, code, tables of facts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgedit.report.markdown import cell
from edgedit.report.tables import spoken

NOT_RECORDED = "not recorded"


def told(value: str | None) -> str:
    """A value as text; "not recorded" for none."""
    return value if value else NOT_RECORDED


def words(value: Any) -> str:
    """A JSON value in words, names with spaces; long hashes are cut to twelve digits."""
    if isinstance(value, dict):
        hashes = {k.replace("_", " "): v[:12] for k, v in value.items() if isinstance(v, str) and k.endswith("sha256")}
        others = {k.replace("_", " "): f"({spoken(v)})" if isinstance(v, list) and v else v for k, v in value.items()}
        name = others.pop("name", None)
        rest = {k: v for k, v in others.items() if k not in hashes}
        return ", ".join(x for x in (str(name or ""), spoken(rest), spoken(hashes)) if x)
    return spoken(value)


def code(text: str | None) -> str:
    """Text as a code span; "" for none."""
    safe = (text or "").replace("`", "'").replace("\n", " ").replace("|", "\\|")
    return f"`{safe}`" if safe else ""


def fence(lines: Sequence[str]) -> list[str]:
    """Commands as a block, long ones over several lines."""
    return ["```sh", *(piece for line in lines for piece in _broken(line.replace("```", "'''"))), "```"]


def _broken(command: str, width: int = 110) -> list[str]:
    """A command in lines of about `width`, broken before options."""
    pieces = command.split(" --")
    lines = [pieces[0]]
    for piece in pieces[1:]:
        if len(lines[-1]) + len(piece) + 3 > width:
            lines[-1] += " \\"
            lines.append(f"    --{piece}")
        else:
            lines[-1] += f" --{piece}"
    return lines


def table(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], *, escaped: bool = False) -> list[str]:
    """A Markdown table; columns are (heading, "l" or "r"); cells are escaped unless they are already."""
    lines = [f"| {' | '.join(cell(name) for name, _ in columns)} |", f"|{'|'.join('---:' if a == 'r' else '---' for _, a in columns)}|"]
    return lines + [f"| {' | '.join(row if escaped else [cell(c) for c in row])} |" for row in rows]


def rows_table(rows: Sequence[tuple[str, str | None]], *, raw: Sequence[int] = ()) -> list[str]:
    """Names and values; those numbered in `raw` are Markdown already, what is None is "not recorded"."""
    made = [[cell(name), told(value) if k in raw else cell(told(value))] for k, (name, value) in enumerate(rows)]
    return table([("", "l"), ("", "l")], made, escaped=True)
