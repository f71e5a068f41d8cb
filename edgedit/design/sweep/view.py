"""All jobs of a sweep in one view: how many are done, what runs and how far it is, what failed."""

from __future__ import annotations

from edgedit.core.say import Event, Say
from edgedit.design.sweep.plan import Plan
from edgedit.design.sweep.state import Folder

SHOWN = 4
"""Running jobs that are named; of more the number is told."""


class View:
    """Tells of progress through `say`, as often as it is asked to."""

    def __init__(self, plan: Plan, folder: Folder, say: Say) -> None:
        self.plan, self.folder, self.say = plan, folder, say
        self.started: int | None = None

    def show(self, states: dict[str, str], *, last: bool = False) -> None:
        """One event: jobs done of all, and beside it each running job with its own share."""
        ended = sum(state in ("done", "failed", "waiting", "stopped") for state in states.values())
        if self.started is None:
            self.started = sum(state == "done" for state in states.values())
        self.say(Event("sweep", ended, len(states), self.started, "jobs", {} if last else self.values(states)))

    def values(self, states: dict[str, str]) -> dict[str, str]:
        """Running jobs with how far they say they are; then counts of the queued and the failed."""
        out: dict[str, str] = {}
        handed = [name for name, state in states.items() if state == "running"]
        running = [name for name in handed if self.folder.status(name).state == "running"]
        for name in running[:SHOWN]:
            share = self.folder.share(name)
            out[name] = "begins" if share is None else f"{share}%"
        more = {"others": len(running) - SHOWN, "queued": len(handed) - len(running),
                "failed": sum(state == "failed" for state in states.values()),
                "waiting": sum(state == "waiting" for state in states.values())}
        return out | {key: str(value) for key, value in more.items() if value > 0}
