"""Questions to the board, asked through `onboard` and asked again when the connection breaks."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from edgedit.core.errors import EdgeditError, MissingError, OutputError
from edgedit.core.files import output_error
from edgedit.core.say import Event, Say
from edgedit.remote import onboard, rsync
from edgedit.remote.failures import Unreachable
from edgedit.remote.ssh import Connection

PYTHON = "python3 -u -"
"""The one command line that the board's login shell ever sees."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 15.0
T = TypeVar("T")


def program(verb: str, arguments: dict[str, Any]) -> str:
    """What `python3 -` reads: the source of `onboard`, then one call of it."""
    source = resources.files("edgedit.remote").joinpath("onboard.py").read_text(encoding="utf-8")
    return f"{source}\n\nmain(json.loads({json.dumps({'verb': verb, **arguments})!r}))\n"


class Board:
    """A board behind an open connection.

    Args:
        connection: an open one.
        patience_s: how long a broken connection is tried again before `Unreachable` is raised.
    """

    def __init__(self, connection: Connection, *, patience_s: float, say: Say) -> None:
        self.connection, self._patience_s, self.say = connection, patience_s, say

    def ask(self, verb: str, **arguments: Any) -> Any:
        """The answer of `onboard.VERBS[verb]`; waits through breaks of the connection."""
        return self.patiently(lambda: self.ask_once(verb, **arguments))

    def ask_once(self, verb: str, **arguments: Any) -> Any:
        """Like `ask`, without waiting."""
        self.connection.open()
        done = self.connection.run(PYTHON, program(verb, arguments), timeout_s=arguments.get("timeout_s", 120) + 30)
        for line in done.out.splitlines():
            if line.startswith(onboard.MARK):
                return _answer(json.loads(line[len(onboard.MARK):]))
        raise _no_answer(done.code, done.err)

    def run(self, argv: list[str], *, cwd: str, timeout_s: float = 120, env: dict[str, str] | None = None) -> dict[str, Any]:
        """Run a short command on the board: {"rc", "out", "err"}."""
        answer: dict[str, Any] = self.ask("run", argv=argv, cwd=cwd, env=env or {}, timeout_s=timeout_s)
        return answer

    def push(self, source: Path, remote: str, *, checksum: bool = False) -> None:
        """`rsync.push`, going on after breaks."""
        self.patiently(lambda: rsync.push(self.connection, source, remote, checksum=checksum, say=self.say))

    def pull(self, remote: list[str], target: Path) -> None:
        """`rsync.pull`, going on after breaks."""
        self.patiently(lambda: rsync.pull(self.connection, remote, target, say=self.say))

    @contextmanager
    def following(self, folder: str, name: str, at: int) -> Iterator[Iterator[dict[str, Any]]]:
        """The messages of `onboard.follow`: {"line", "at"}, then {"answer": status}; one attempt."""
        self.connection.open()
        with self.connection.lines(PYTHON, program("follow", {"folder": folder, "name": name, "at": at})) as lines:
            yield (json.loads(line[len(onboard.MARK):]) for line in lines if line.startswith(onboard.MARK))

    def patiently(self, action: Callable[[], T], progressed: Callable[[], bool] = lambda: False) -> T:
        """Do it, and do it again while the connection breaks; the clock starts anew whenever `progressed` says so."""
        wait_s, broken_since = _FIRST_WAIT_S, None
        while True:
            try:
                return action()
            except Unreachable as error:
                now = time.monotonic()
                if broken_since is None or progressed():
                    wait_s, broken_since = _FIRST_WAIT_S, now
                if not error.again or now - broken_since + wait_s > self._patience_s:
                    raise
                self.say(Event(f"{error.what} ({error.saw}); trying again", level="warning"))
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)


def _answer(message: dict[str, Any]) -> Any:
    if "error" in message:
        told = message["error"]
        raise output_error(Path(f"{told['file']} on the board"), OSError(told["errno"], told["text"]))
    return message["answer"]


def _no_answer(code: int, stderr: str) -> EdgeditError:
    last = (stderr.strip().splitlines() or [""])[-1]
    if "python3" in stderr and ("not found" in stderr or code == 127):
        return MissingError("the board has no python3", saw=last, fix="on the board: sudo apt install python3 python3-venv")
    if "No usable temporary directory" in stderr:
        return OutputError("the board cannot write", saw=last, fix="free some space on the board")
    return EdgeditError("the board's Python gave no answer", saw=f"exit code {code}: {last}",
                        fix="try it by hand: ssh BOARD python3 --version")
