"""Jobs in the order of what they need, on whatever runs them; a job that fails stops only those that need its output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from edgedit.core.say import Event, Say
from edgedit.core.stop import StopRequest
from edgedit.design.sweep.plan import Job, Plan
from edgedit.design.sweep.state import Folder, Status
from edgedit.design.sweep.view import View

TICK_S = 0.5


class Workers(Protocol):
    """What runs jobs: this machine one after another, or a cluster."""

    retries: int
    """How often a job that was lost (not one that failed) is begun again."""

    def room(self) -> bool:
        """Whether another job may be handed over now."""

    def start(self, job: Job) -> None:
        """Hand over a job whose `job.json` is written."""

    def ended(self, wait_s: float) -> list[tuple[str, str]]:
        """Jobs that ended within a moment: (name, "" or how it was lost: its node or process went away)."""

    def stop(self) -> None:
        """Tell all running jobs to save and stop; they still come back through `ended`."""

    def running(self) -> int:
        """Jobs handed over that have not come back."""


@dataclass
class Run:
    """A plan being carried out in its folder."""

    plan: Plan
    folder: Folder
    workers: Workers
    say: Say
    on_end: Callable[[], object]
    """Called after each job that ended."""
    states: dict[str, str] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)

    def go(self, stop: StopRequest) -> None:
        """Until every job is done, failed, or waits for one that failed; or until `stop` is asked and the running ones have saved."""
        view = View(self.plan, self.folder, self.say)
        self.states = dict.fromkeys(self.plan.jobs, "new")
        told = False
        while True:
            if not stop.reason:
                self._offer()
            elif not told:
                told = True
                self.say(Event(f"{stop.reason}: running jobs are told to save and stop; again to leave at once"))
                self.workers.stop()
            if not self.workers.running() and (stop.reason or not self._ready()):
                break
            for name, how in self.workers.ended(TICK_S):
                self._end(name, how, bool(stop.reason))
                self.on_end()
            view.show(self.states)
        view.show(self.states, last=True)

    def _ready(self) -> list[Job]:
        return [job for name, job in self.plan.jobs.items()
                if self.states[name] == "new" and all(self.states[a] == "done" for a in job.after)]

    def _offer(self) -> None:
        """Hand over what can begin; note what is done already and what waits for a failed one."""
        changed = True
        while changed:
            changed = False
            for name, job in self.plan.jobs.items():
                if self.states[name] != "new":
                    continue
                if broken := [a for a in job.after if self.states[a] in ("failed", "waiting")]:
                    self._wait(job, broken[0])
                    changed = True
                elif all(self.states[a] == "done" for a in job.after):
                    changed = self._begin(job) or changed

    def _begin(self, job: Job) -> bool:
        """True when the job turned out to be done, which may let others begin."""
        identity = job.identity({a: self.folder.status(a).digest for a in job.after})
        if self.folder.is_done(job, identity):
            self.states[job.name] = "done"
            return True
        if self.workers.room():
            self.folder.put_job(job, identity)
            self.folder.change(job.name, state="queued", why="")
            self.states[job.name] = "running"
            self.workers.start(job)
        return False

    def _wait(self, job: Job, broken: str) -> None:
        root, status = broken, self.folder.status(broken)
        if status.state == "waiting":
            root = status.why.removeprefix("waiting: ").removesuffix(" failed")
        self.folder.job_folder(job.name).mkdir(parents=True, exist_ok=True)
        self.folder.change(job.name, state="waiting", why=f"waiting: {root} failed")
        self.states[job.name] = "waiting"

    def _end(self, name: str, how: str, stopping: bool) -> None:
        status = self.folder.status(name)
        if stopping and status.state == "queued":
            self.states[name] = self.folder.change(name, state="stopped", why="not begun when the sweep was stopped").state
            return
        if status.state in ("done", "failed") or (status.state == "stopped" and (stopping or not how)):
            how = ""
        elif not how:
            how = "its process ended without a word"
        if how:
            self._lost(name, status, how, stopping)
        else:
            self.states[name] = status.state
            note = f": {status.why}" if status.why else ""
            self.say(Event(f"{name} {status.state} in {status.seconds:,.0f} s on {status.node}{note}",
                           level="warning" if status.state == "failed" else "info"))

    def _lost(self, name: str, status: Status, how: str, stopping: bool) -> None:
        """A job whose node or process went away: begun again, unless too often."""
        self.lost[name] = self.lost.get(name, 0) + 1
        again = self.lost[name] <= self.workers.retries and not stopping
        attempts = [[node, "lost" if end == "running" else end] for node, end in status.attempts]
        state = "stopped" if stopping else "queued" if again else "failed"
        self.folder.change(name, state=state, why=how, attempts=attempts)
        self.states[name] = "new" if again else state
        then = "; it is begun again" if again else ""
        self.say(Event(f"{name} was lost on {status.node or 'its node'} ({how}){then}", level="warning"))
