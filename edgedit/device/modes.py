"""A power mode and pinned clocks for the length of a `with` block, put back in every case."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgedit
from edgedit.core.errors import EdgeditError, MissingError, OutputError, UsageError
from edgedit.core.say import Event, Say, silent
from edgedit.device import mode_state as kept
from edgedit.device.mode_tools import Way, find_program, find_tools, find_way
from edgedit.device.nvpmodel import read_table
from edgedit.device.sysfs import container

_ANSWER_S = 150.0
_START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from edgedit.device.mode_keeper import main; main()"
_KINDS: dict[str, type[EdgeditError]] = {kind.__name__: kind for kind in (MissingError, OutputError, UsageError)}


@dataclass(frozen=True)
class BoardSetting:
    """What was set, read back from the board.

    Attributes:
        mode, mode_id: live power mode; None where nothing was asked.
        before: the mode that will be put back.
        locked: clocks are pinned by this block.
        gpu_range_hz: lowest and highest GPU clock, or None.
    """

    mode: str | None = None
    mode_id: int | None = None
    before: str | None = None
    locked: bool = False
    gpu_range_hz: tuple[int, int] | None = None


@contextmanager
def power_mode(root: Path = Path("/"), mode: str | None = None, *, lock_clocks: bool = False, say: Say = silent,
               euid: int | None = None) -> Iterator[BoardSetting]:
    """Put the board into a power mode, pin its clocks, and put both back at the end of the block.

    A second process does it all (`edgedit.device.mode_keeper`), in a session of its own, and puts the board back when its pipe
    closes: at the end of the block, after an exception, Ctrl-C or SIGTERM, and also when this process is killed (SIGKILL). What
    has to be put back is in a file before anything is changed, so that after a power cut `edgedit doctor` tells what to type.
    Without `mode` and `lock_clocks` nothing is touched and no process is started.

    Args:
        root: root of the board's file system.
        mode: name of a mode of this board, as `PowerTable.find` takes it.
        lock_clocks: run `jetson_clocks`, which pins clocks at the mode's maximum.
        say: told what was set and put back.
        euid: the user, for tests.

    Raises:
        UsageError: the board has no such mode.
        MissingError: no nvpmodel or jetson_clocks here, or no right to run them; the fix is what to type beforehand.
        OutputError: another edgedit holds the board.
        EdgeditError: nvpmodel refused or wants a reboot, the mode did not come, or (at the end) the board was not put back.
    """
    if mode is None and not lock_clocks:
        yield BoardSetting()
        return
    table = read_table(root)
    if mode is not None and not table.modes:
        inside = container(root)
        raise MissingError("the power modes of this machine are not known", saw=f"no etc/nvpmodel.conf under {root}",
                           fix="mount it: -v /etc/nvpmodel.conf:/etc/nvpmodel.conf:ro, and set the mode outside the container" if inside
                           else "leave --power-mode out; only a Jetson has power modes")
    target = None if mode is None else table.find(mode)
    way = find_way(find_tools(root), root, euid=euid)
    keeper = _Keeper(root, way)
    failed = True
    try:
        answer = keeper.ask({"root": str(root), "way": "root" if way == "given" else way, "lock": lock_clocks, "pid": os.getpid(),
                             "mode": None if target is None else target.id})
        _raise(answer)
        for note in answer["notes"]:
            say(Event(note, level="warning"))
        setting = BoardSetting(answer["within"][1], answer["within"][0], answer["before"][1], lock_clocks,
                               None if answer["gpu_hz"] is None else tuple(answer["gpu_hz"]))
        changed = f", before {setting.before}" if setting.before != setting.mode else ""
        say(Event(f"power mode {setting.mode} (id {setting.mode_id}{changed}){', clocks pinned' if lock_clocks else ''}"))
        yield setting
        failed = False
    finally:
        _finish(keeper, root, way, say, quiet=failed)


def _finish(keeper: _Keeper, root: Path, way: Way, say: Say, *, quiet: bool) -> None:
    """Have the board put back, wait for it and tell; with `quiet` a failure is told, not raised: another error is on its way."""
    if not keeper.working:
        keeper.close()
        return
    try:
        answer = keeper.ask("goodbye")
        while "within" in answer:  # interrupted while it was set: that answer comes first
            answer = keeper.listen()
    except EdgeditError:  # the keeper itself was killed: a new one does what it could not
        keeper.close()
        keeper = _Keeper(root, way)
        answer = keeper.ask({"root": str(root), "way": "root" if way == "given" else way, "restore": True})
    keeper.close()
    try:
        _raise(answer)
    except EdgeditError as error:
        if not quiet:
            raise
        say(Event(str(error), level="warning"))
        return
    if answer.get("restored"):
        say(Event(f"the board is as it was: power mode {answer['restored']}"))


class _Keeper:
    """The other process. `working` from an answer that says that the board was changed until it was put back."""

    def __init__(self, root: Path, way: Way) -> None:
        command = [sys.executable, "-I", "-c", _START, str(Path(edgedit.__file__).resolve().parents[1])]
        if way == "given":
            command = [str(find_program("sudo", root)), "-n", "--", *command]
        self.working, self._heard = False, b""
        # With a password of this terminal sudo has to see the terminal; the keeper leaves the session by itself.
        ours, theirs = os.pipe(), os.pipe()
        self._in, self._out = ours[1], theirs[0]
        try:
            self._process = subprocess.Popen(command, stdin=ours[0], stdout=theirs[1], start_new_session=way != "given")
        finally:
            os.close(ours[0])
            os.close(theirs[1])

    def ask(self, question: dict[str, Any] | str) -> dict[str, Any]:
        """Send one line and wait for the answer's line.

        Raises:
            EdgeditError: the keeper died, or did not answer in time.
        """
        line = question if isinstance(question, str) else json.dumps(question)
        with suppress(BrokenPipeError):
            os.write(self._in, line.encode() + b"\n")
        self.working = True  # from here on the board may be changed, whatever happens to the answer
        answer = self.listen()
        self.working = "within" in answer
        return answer

    def listen(self) -> dict[str, Any]:
        """The next answer; raises as `ask`."""
        until = time.monotonic() + _ANSWER_S
        while b"\n" not in self._heard:
            left = until - time.monotonic()
            piece = os.read(self._out, 1 << 16) if left > 0 and select.select([self._out], [], [], left)[0] else b""
            if not piece:
                raise EdgeditError("the process that sets the power mode ended or hangs", saw=f"exit {self._process.poll()}",
                                   fix="edgedit doctor tells whether the board was left in another mode")
            self._heard += piece
        line, _, self._heard = self._heard.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Close the pipe; the keeper puts back what is to be put back, and ends."""
        for descriptor in (self._in, self._out):
            with suppress(OSError):
                os.close(descriptor)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5.0)


def _raise(answer: dict[str, Any]) -> None:
    error = answer.get("error")
    if error is not None:
        raise _KINDS.get(error["kind"], EdgeditError)(error["what"], saw=error["saw"], fix=error["fix"])


def leftover(root: Path = Path("/")) -> tuple[kept.BoardState, str, bool] | None:
    """A board state that a killed run left: the state, what to type, and whether a run is still at it; None when there is none."""
    for folder in kept.folders(root):
        state = kept.load_state(folder)
        if state is None:
            continue
        if kept.held(folder):
            return state, "", True
        if kept.still_left(root, state):
            return state, kept.commands(root, folder, state), False
    return None
