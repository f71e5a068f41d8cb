"""One start of one job, in a process of its own: `python -m edgedit.design.sweep.attempt SWEEP JOB`.

It runs the job's command, keeps its output, and notes how it ended in the sweep's folder. When its standard input closes, which
happens also when the process that started it is killed or its node's Ray goes away, or on SIGTERM, it tells the command to save and
stop. It holds the job's folder meanwhile: a second start, of a cluster that believes the first one lost, waits until it lets go.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from edgedit.core.errors import EdgeditError, OutputError
from edgedit.core.files import held
from edgedit.design.sweep.plan import Job
from edgedit.design.sweep.state import LOG_FILE, Folder, Status

SAVE_S = 120.0
"""How long a command that was told to stop may take to save before it is killed."""
WAIT_S = 150.0
"""How long to wait for an earlier start of the same job that has not let go yet."""
BEAT_S = 5.0
"""How often the running time is noted: what of it a lost node can forget."""


@dataclass
class Stop:
    """Whether to stop, asked over a closed standard input or by SIGTERM."""

    signalled: bool = False

    def asked(self, wait_s: float) -> bool:
        """Wait a moment; True once asked."""
        if not self.signalled:
            ready, _, _ = select.select([0], [], [], wait_s)
            self.signalled = bool(ready) and not os.read(0, 1)
        return self.signalled


def run(folder: Folder, name: str, asked: Callable[[float], bool], node: str = "") -> Status:
    """Run a job's command to its end, or until `asked` says so; returns and notes how it stands.

    Raises:
        OutputError: an earlier start of this job still runs after `WAIT_S`.
    """
    job, identity = folder.get_job(name)
    with _hold(folder.job_folder(name)):
        before = folder.status(name)
        mine = before if before.identity == identity else Status(attempts=before.attempts)
        if mine.state == "done" and mine.digest == folder.digest(job):
            return mine  # an earlier start got it done after all
        if job.kind == "evaluate" and before.identity != identity:
            _aside(folder.path / job.out)
        base = mine.seconds if job.kind == "train" else 0.0
        node = node or socket.gethostname()
        mine = Status("running", identity, "", base, "", node, [*mine.attempts, [node, "running"]])
        folder.set_status(name, mine)
        ended = _run(folder, job, mine, asked)
        folder.set_status(name, ended)
        return ended


def _run(folder: Folder, job: Job, mine: Status, asked: Callable[[float], bool]) -> Status:
    begin, beat, base = time.monotonic(), time.monotonic(), mine.seconds
    told, deadline = False, float("inf")
    command = job.filled(folder.path, sys.executable)
    with (folder.job_folder(job.name) / LOG_FILE).open("ab") as log:
        log.write(f"\n$ {' '.join(command)}\n".encode())
        log.flush()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, preexec_fn=_die_with_parent,
                                   env=_environment())
        while (code := process.poll()) is None:
            now = time.monotonic()
            if not told:
                told = asked(0.2)
                if told:
                    process.send_signal(signal.SIGTERM)
                    deadline = time.monotonic() + SAVE_S
            else:
                time.sleep(0.1)
                if now > deadline:
                    process.kill()
            if now - beat > BEAT_S:
                beat = now
                folder.set_status(job.name, Status(**{**vars(mine), "seconds": base + now - begin}))
    seconds = round(base + time.monotonic() - begin, 2)
    return _judge(folder, job, Status(**{**vars(mine), "seconds": seconds}), code, told)


def _judge(folder: Folder, job: Job, mine: Status, code: int, told: bool) -> Status:
    """How a command that ended so stands."""
    digest = folder.digest(job) or ""
    state, why = "failed", ""
    if code == 0 and digest:
        state = "done"
        shutil.rmtree(_stale(folder.path / job.out), ignore_errors=True)
    elif code == 0:
        why = f"the command ended well and left no {job.kind} in {job.out}"
    elif told:
        state, why = "stopped", "stopped on request; the same command goes on"
    else:
        why = _last_words(folder, job, code)
    attempts = [*mine.attempts[:-1], [mine.node, state]]
    return Status(**{**vars(mine), "state": state, "why": why, "digest": digest if state == "done" else "", "attempts": attempts})


def _last_words(folder: Folder, job: Job, code: int) -> str:
    """The last error that a command printed, else its last line, else how it ended."""
    lines = folder.tail(job.name)
    start = max((k for k, line in enumerate(lines) if line.startswith("$ ")), default=-1)
    lines = lines[start + 1:]
    said = next((k for k in reversed(range(len(lines))) if lines[k].startswith("error")), None)
    if said is not None:
        more = [line.strip() for line in lines[said + 1:said + 3] if line.startswith("  saw: ")]
        return "; ".join([lines[said].partition(": ")[2] or lines[said], *more])
    if code < 0:
        return f"killed by {signal.Signals(-code).name}" + (", as the system does when memory runs out" if code == -signal.SIGKILL else "")
    return lines[-1].strip() if lines else f"exit status {code}, nothing said"


@contextlib.contextmanager
def _hold(job_folder: Path) -> Iterator[None]:
    """Hold the job's folder; wait for an earlier start to let go."""
    end = time.monotonic() + WAIT_S
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(held(job_folder, "running the job in"))
                break
            except OutputError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.5)
        yield


def _stale(out: Path) -> Path:
    return out.with_name(out.name + ".stale")


def _aside(out: Path) -> None:
    """Make room for an evaluation of something else than the one there."""
    shutil.rmtree(_stale(out), ignore_errors=True)
    shutil.rmtree(out.with_name(out.name + ".partial"), ignore_errors=True)
    if out.is_dir():
        out.rename(_stale(out))


def _environment() -> dict[str, str]:
    """The command's environment: nothing that would make it one process of several, output unbuffered."""
    gone = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    return {**{k: v for k, v in os.environ.items() if k not in gone}, "PYTHONUNBUFFERED": "1"}


def _die_with_parent() -> None:
    """On Linux, let the command be told to stop (and save) also when this process is killed."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def main(arguments: list[str] | None = None) -> int:
    """The command: 0 when the job is done, 1 otherwise; the status file says more."""
    given = sys.argv[1:] if arguments is None else arguments
    stop = Stop()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.signalled = True

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    folder = Folder(Path(given[0]))
    try:
        return 0 if run(folder, given[1], stop.asked, given[2] if len(given) > 2 else "").state == "done" else 1
    except EdgeditError as error:
        print(f"error: {error}", file=sys.stderr)
        folder.change(given[1], state="failed", why=error.what)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
