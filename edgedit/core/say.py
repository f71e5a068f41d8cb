"""How a stage tells its caller what it is doing. Stages never print; the CLI renders these events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Event:
    """One thing a stage has to say.

    Attributes:
        text: what is being done ("teacher pairs", "train", "profile") or, for notes, a sentence.
        done, total: progress in `unit`; both None for a plain note. `done` counts what a resumed run found already done.
        started: the value of `done` at the start of this run, so that a rate leaves out what was there before.
        unit: "images", "steps", "batches" …
        values: figures worth showing beside the bar (loss=0.12, power_mw=8100).
        level: "info" or "warning".
    """

    text: str
    done: int | None = None
    total: int | None = None
    started: int = 0
    unit: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    level: str = "info"


class Say(Protocol):
    def __call__(self, event: Event, /) -> None: ...


def silent(event: Event, /) -> None:
    """The default `say`: nobody listens."""
