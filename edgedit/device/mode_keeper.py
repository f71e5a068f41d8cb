"""The process that sets a power mode and clocks, and puts them back when its pipe closes, however that comes about.

It is started by `edgedit.device.modes`, reads one line of JSON (the plan), answers one line, and waits. "goodbye" or the end of
the pipe (the measuring process was killed) both make it put the board back; it ignores Ctrl-C and SIGTERM. Standard library and
edgedit only, so that it also starts as root by sudo.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgedit.core.errors import EdgeditError
from edgedit.device import mode_state as kept
from edgedit.device.clocks import clocks_locked, gpu_clock
from edgedit.device.mode_state import BoardState
from edgedit.device.mode_tools import Tools, clocks, find_tools, live_mode, set_mode
from edgedit.device.nvpmodel import PowerMode, PowerTable, read_table

_SETTLE_S = 10.0


def main() -> None:
    """One run: plan in, answer out, wait, put back, answer out."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # already the leader of its own session
        os.setsid()
    plan = json.loads(sys.stdin.readline() or "{}")
    if not plan:
        return
    root = Path(plan["root"])
    try:
        tools, folder = find_tools(root, plan["way"]), kept.own_folder(root)
        lock = kept.hold(folder)
        if plan.get("restore"):
            _answer(_restored(tools, root, folder))
            return
        answer = apply(tools, root, folder, mode_id=plan["mode"], lock=plan["lock"], pid=plan["pid"])
    except EdgeditError as error:
        _answer(_as_dict(error))
        return
    _answer(answer)
    sys.stdin.readline()  # "goodbye", or "" when the other end was killed
    _answer(_restored(tools, root, folder))
    os.close(lock)


def apply(tools: Tools, root: Path, folder: Path, *, mode_id: int | None, lock: bool, pid: int) -> dict[str, Any]:
    """Set the mode and pin the clocks; the answer for the parent. What was done is put back when a step fails.

    Raises:
        EdgeditError: a step failed; the board is as it was, or the error says what to type.
    """
    table, live = read_table(root), live_mode(tools, root)
    target = table.modes.get(live if mode_id is None else mode_id, PowerMode(live, f"id {live}"))
    left = kept.load_state(folder)
    if left is not None and not kept.still_left(root, left):
        kept.forget_state(folder)
        left = None
    before = live if left is None else left.before_id  # after a run that was cut off, back to where that one came from
    if table.other_gpu(before, target.id):
        raise EdgeditError(f"power mode {target.name} switches other parts of the GPU off than {_name(table, before)}: changing back "
                           "needs a reboot", saw=f"{_gates(table, before)} and {_gates(table, target.id)}",
                           fix=f"sudo nvpmodel -m {target.id}, reboot, and measure without --power-mode")
    inherited = left.clocks_before if left is not None and left.boot == kept.boot_id(root) else None
    state = BoardState(
        boot=kept.boot_id(root), before_id=before, before_name=_name(table, before), within_id=target.id, within_name=target.name,
        locked=lock, clocks_before=inherited, since_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"), pid=pid)
    try:
        if left is None and (lock or (state.changed and tools.jetson_clocks is not None)):
            file = folder / "clocks-before.conf"
            clocks(tools, "--store", str(file))
            state = replace(state, clocks_before=str(file))
        kept.save_state(folder, state)
        if live != target.id:
            set_mode(tools, target.id, target.name)
        notes = _settled(tools, root, target)
        if lock:
            if state.changed or state.clocks_before is None:
                file = folder / "clocks-within.conf"
                clocks(tools, "--store", str(file))
                state = replace(state, clocks_within=str(file))
                kept.save_state(folder, state)
            clocks(tools)
            _wait(lambda: clocks_locked(root) is not False, "jetson_clocks ran, but the clocks are not pinned", "minimum below maximum",
                  "sudo jetson_clocks --show")
    except EdgeditError as error:
        undone = _restored(tools, root, folder)
        if "error" in undone:
            raise EdgeditError(error.what, saw=error.saw, fix=f"{error.fix}; the board could not be put back: "
                               f"{undone['error']['fix']}") from error
        raise
    clock = gpu_clock(root)
    return {"before": [state.before_id, state.before_name], "within": [target.id, target.name], "locked": lock, "notes": notes,
            "gpu_hz": None if clock is None else [int(clock.low), int(clock.high)]}


def restore(tools: Tools, root: Path, folder: Path) -> BoardState | None:
    """Put the board back as its state says, in the opposite order, and forget the state; None when there is nothing to do.

    Clocks that do not go back to those of the run's mode do not keep the mode from going back; the clocks as they were found,
    which go back last, include them.

    Raises:
        EdgeditError: a step failed or did not take; the state is kept.
    """
    state = kept.load_state(folder)
    if state is None:
        return None
    same_boot = state.boot == kept.boot_id(root)
    pinned: EdgeditError | None = None
    if same_boot and state.clocks_within is not None and Path(state.clocks_within).exists():
        try:
            clocks(tools, "--restore", state.clocks_within)
        except EdgeditError as error:
            pinned = error
    if state.changed and live_mode(tools, root) != state.before_id:
        set_mode(tools, state.before_id, state.before_name)
        _settled(tools, root, PowerMode(state.before_id, state.before_name))
    if same_boot and state.clocks_before is not None and Path(state.clocks_before).exists():
        clocks(tools, "--restore", state.clocks_before)
    elif pinned is not None:
        raise pinned
    kept.forget_state(folder)
    return state


def _restored(tools: Tools, root: Path, folder: Path) -> dict[str, Any]:
    try:
        state = restore(tools, root, folder)
    except EdgeditError as error:
        state = kept.load_state(folder)
        fix = kept.commands(root, folder, state) if state is not None else error.fix
        return _as_dict(EdgeditError(f"the board was not put back as it was: {error.what}", saw=error.saw, fix=fix))
    return {"restored": None if state is None else state.before_name}


def _settled(tools: Tools, root: Path, target: PowerMode) -> list[str]:
    """Wait until the live mode is the target and the GPU's cap is its cap; notes on what never came."""
    _wait(lambda: live_mode(tools, root) == target.id, f"nvpmodel ran, but the live mode is not {target.name}",
          lambda: f"id {live_mode(tools, root)}", "sudo nvpmodel -q")
    cap, until = target.gpu_max_hz, time.monotonic() + 1.0
    while cap is not None and (clock := gpu_clock(root)) is not None and clock.high > cap * 1.02:
        if time.monotonic() > until:
            return [f"the mode {target.name} caps the GPU at {cap / 1e6:.0f} MHz, but its clock may go to {clock.high / 1e6:.0f} MHz"]
        time.sleep(0.05)
    return []


def _wait(done: Callable[[], bool], what: str, saw: str | Callable[[], str], fix: str) -> None:
    until = time.monotonic() + float(os.environ.get("EDGEDIT_SETTLE_S", _SETTLE_S))
    while not done():
        if time.monotonic() > until:
            raise EdgeditError(what, saw=saw if isinstance(saw, str) else saw(), fix=fix)
        time.sleep(0.05)


def _name(table: PowerTable, number: int) -> str:
    return table.names.get(number, f"id {number}")


def _gates(table: PowerTable, number: int) -> str:
    return f"{_name(table, number)}: " + ", ".join(f"{name} {mask}" for name, mask in table.modes[number].gates.items())


def _as_dict(error: EdgeditError) -> dict[str, Any]:
    return {"error": {"kind": type(error).__name__, "what": error.what, "saw": error.saw, "fix": error.fix}}


def _answer(answer: dict[str, Any]) -> None:
    try:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - nobody listens any more; nothing may be flushed at exit


if __name__ == "__main__":
    main()
