"""Long work on the board: started apart from the connection, followed, attached to again, started again after a power cut."""

from __future__ import annotations

import json
import re
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from edgedit.core.errors import EdgeditError, Interrupted
from edgedit.core.say import Event
from edgedit.remote.board import Board
from edgedit.remote.failures import disk_full

ATTEMPTS = 3
"""How often a job is started that vanishes without a word, before that counts as an answer."""
_PROGRESS = re.compile(r"(\S.*?)\s+\d+% ([\d,]+)/([\d,]+) (\S+)(?:\s|$)")


@dataclass(frozen=True)
class Job:
    """Commands that run in turn on the board.

    Attributes:
        name: of its folder under jobs/: "install", "build", "generate", "profile".
        key: names the request; a job that runs under the same key is followed, not started again.
        commands: argument lists; the first that fails ends the job.
        merge: the log also takes what they write to stdout.
        hide: lines that begin so are not told.
    """

    name: str
    key: str
    commands: tuple[tuple[str, ...], ...]
    merge: bool = False
    hide: str = "\0"


@dataclass
class _Seen:
    """What came of a log so far."""

    at: int = 0
    moved: bool = False
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=30))
    first: dict[str, int] = field(default_factory=dict)


def run_job(board: Board, folder: str, job: Job) -> str:
    """Start the job or attach to it, tell its progress, wait for its end.

    Returns:
        What its last command wrote to stdout.

    Raises:
        EdgeditError: it failed, with the board's own words; or it vanished three times; or another job runs.
        Unreachable: the board was away for longer than the patience; the job goes on there.
        Interrupted: it was stopped.
    """
    while True:
        started = board.ask("start", folder=folder, name=job.name, key=job.key, commands=job.commands, cwd=folder, env={}, merge=job.merge)
        if started.get("busy"):
            raise EdgeditError(f"another job runs on the board: {started['busy']}", saw=f"{folder}/jobs/{started['busy']}",
                               fix="the command that started it follows it again; with --stop it ends it")
        if started["attached"]:
            board.say(Event(f"{job.name} runs already on the board; following it"))
        seen = _Seen()
        end = board.patiently(partial(_follow, board, folder, job, seen), progressed=partial(_moved, seen))
        if end["state"] == "ended":
            return _result(job, end, list(seen.tail), folder)
        why = "the board was started again meanwhile" if end.get("rebooted") else "its process is gone"
        if end.get("attempt", ATTEMPTS) >= ATTEMPTS:
            raise EdgeditError(f"{job.name} ended {ATTEMPTS} times without a word: {why}", saw="\n".join(list(seen.tail)[-5:]) or "no log",
                               fix="look at the board's power supply and memory: journalctl -b -1 -e; then run the same command again")
        board.say(Event(f"{job.name} ended without a word ({why}); starting it again", level="warning"))


def stop_jobs(board: Board, folder: str, names: tuple[str, ...]) -> list[str]:
    """Stop what runs of these; the names of those that ran. Half a minute at most is left to each for saving."""
    stopped = []
    for name in names:
        if board.ask("status", folder=folder, name=name)["state"] == "running":
            board.say(Event(f"stopping {name}"))
            board.ask("stop", folder=folder, name=name)
            stopped.append(name)
    return stopped


def event_of(line: str, first: dict[str, int]) -> Event:
    """A line of edgedit's own console as an event again: progress, a warning, or a note.

    Args:
        line: without its newline.
        first: where each progress stood when it was seen first; filled here.
    """
    match = _PROGRESS.match(line)
    if match:
        text, done, total = f"board: {match[1]}", int(match[2].replace(",", "")), int(match[3].replace(",", ""))
        return Event(text, done, total, started=first.setdefault(text, done), unit=match[4])
    if line.startswith("warning: "):
        return Event("board: " + line.removeprefix("warning: "), level="warning")
    return Event(f"board: {line}")


def _follow(board: Board, folder: str, job: Job, seen: _Seen) -> dict[str, Any]:
    with board.following(folder, job.name, seen.at) as messages:
        for message in messages:
            if "answer" in message:
                end: dict[str, Any] = message["answer"]
                return end
            if "line" in message:
                seen.at, seen.moved = message["at"], True
                seen.tail.append(message["line"])
                if message["line"].strip() and not message["line"].startswith(job.hide):
                    board.say(event_of(message["line"], seen.first))
    raise board.connection.lost("")


def _moved(seen: _Seen) -> bool:
    moved, seen.moved = seen.moved, False
    return moved


def _result(job: Job, end: dict[str, Any], tail: list[str], folder: str) -> str:
    out, code = str(end["out"]), int(end["rc"])
    if end["stopped"]:
        raise Interrupted(f"{job.name} was stopped on the board", fix="the same command starts it again")
    if code == 0:
        return out
    full = disk_full("\n".join(tail), f"{folder} on the board")
    if full is not None:
        raise full
    if code == -9:
        raise EdgeditError(f"{job.name} was killed on the board: usually its memory was full", saw="\n".join(tail[-3:]) or "SIGKILL",
                           fix="on the board: sudo systemctl isolate multi-user.target (closes the desktop), or more swap; then again")
    try:
        told = json.loads(out)["error"]
        what, saw, fix = str(told["what"]), told.get("saw"), told.get("fix")
    except (ValueError, KeyError, TypeError):
        raise EdgeditError(f"{job.name} failed on the board with exit code {code}", saw="\n".join(tail[-8:]) or out[-500:],
                           fix=f"the whole log: {folder}/jobs/{job.name}/log on the board") from None
    raise EdgeditError(f"{job.name} failed on the board: {what}", saw=saw, fix=fix)
