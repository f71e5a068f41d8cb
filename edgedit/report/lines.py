"""JSON-lines logs read leniently: a line that is no JSON object (a power cut while logging) is left out and counted."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgedit.core.artifact import Artifact


def read_lines(artifact: Artifact, name: str, notes: list[str]) -> tuple[list[dict[str, Any]], int]:
    """Objects of a JSON-lines payload and the number of lines that are none; a note when the file is not there."""
    file = artifact.path / name
    if not file.is_file():
        notes.append(f"{artifact.path.name} holds no {name}")
        return [], 0
    parsed = list(_objects(file))
    rows = [row for row in parsed if row is not None]
    return rows, len(parsed) - len(rows)


def count_bad(notes: list[str], name: str, bad: int) -> None:
    """A note on lines that could not be read, when there are any."""
    if bad:
        notes.append(
            f"{bad:,} line{'' if bad == 1 else 's'} of {name} could not be read and {'is' if bad == 1 else 'are'} left out"
        )


def finite(value: Any) -> float | None:
    """A finite number as float; None for anything else (a boolean, text, NaN)."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _objects(file: Path) -> Iterator[dict[str, Any] | None]:
    with file.open(encoding="utf-8", errors="replace") as stream:
        for text in stream:
            if text.strip():
                try:
                    row = json.loads(text)
                except ValueError:
                    row = None
                yield row if isinstance(row, dict) else None
