"""Jobs on this machine, one after another, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from edgedit.design.sweep.plan import Job
from edgedit.design.sweep.state import Folder


class Local:
    """One job at a time. A second Ctrl-C leaves at once: jobs see their standard input close, and save by themselves."""

    retries = 0

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self.job: Job | None = None
        self.process: subprocess.Popen[bytes] | None = None

    def room(self) -> bool:
        """True when nothing runs."""
        return self.process is None

    def start(self, job: Job) -> None:
        """Begin a job; Ctrl-C at the terminal does not reach it, `stop` does."""
        self.job, self.process = job, start_attempt(self.folder, job.name)

    def ended(self, wait_s: float) -> list[tuple[str, str]]:
        """The job, once its process has ended."""
        if self.process is None or self.job is None:
            time.sleep(wait_s)
            return []
        try:
            code = self.process.wait(wait_s)
        except subprocess.TimeoutExpired:
            return []
        name, self.job = self.job.name, None
        close(self.process)
        self.process = None
        return [(name, f"its process was killed by signal {-code}" if code < 0 else "")]

    def stop(self) -> None:
        """Let the running job save."""
        if self.process is not None:
            close(self.process)

    def running(self) -> int:
        """0 or 1."""
        return 0 if self.process is None else 1


def start_attempt(folder: Folder, name: str, node: str = "") -> subprocess.Popen[bytes]:
    """Start a job's process, in a session of its own; closing its standard input stops it."""
    command = [sys.executable, "-m", "edgedit.design.sweep.attempt", str(folder.path), name, node]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)


def close(process: subprocess.Popen[bytes]) -> None:
    """Close a process's standard input."""
    if process.stdin is not None:
        process.stdin.close()


@contextmanager
def local(folder: Folder) -> Iterator[Local]:
    """This machine as a place for jobs; what still runs at the end is told to save."""
    workers = Local(folder)
    try:
        yield workers
    finally:
        workers.stop()
