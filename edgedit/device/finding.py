"""What a check of the machine found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at: how it stands, a short stable code, a title, what was seen, and what to type (empty when well)."""

    level: Level
    code: str
    title: str
    saw: str = ""
    fix: str = ""
