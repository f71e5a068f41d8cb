"""What a board has to be put back to, kept in a file: it outlives the process and a power cut."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from edgedit.core.errors import OutputError
from edgedit.core.files import output_error, write_atomic
from edgedit.device.clocks import clocks_locked
from edgedit.device.nvpmodel import read_live_id
from edgedit.device.sysfs import read_text

FORMAT = 1
STATE, LOCK = "board.json", "board.lock"
_SYSTEM = "var/lib/edgedit"


@dataclass(frozen=True)
class BoardState:
    """How a board was found and what was made of it.

    Attributes:
        boot: the kernel's boot id: pinned clocks do not survive a reboot, the power mode does.
        before_id, before_name: mode to put back.
        within_id, within_name: mode that was set; the same where only clocks were pinned.
        locked: clocks were pinned.
        clocks_before, clocks_within: files of `jetson_clocks --store`, before anything and after the mode was set; None if none.
        since_utc, pid: when and for which process.
    """

    boot: str
    before_id: int
    before_name: str
    within_id: int
    within_name: str
    locked: bool
    clocks_before: str | None = None
    clocks_within: str | None = None
    since_utc: str = ""
    pid: int = 0

    @property
    def changed(self) -> bool:
        return self.before_id != self.within_id


def boot_id(root: Path) -> str:
    """The kernel's id of this boot; "" where unknown."""
    return read_text(root / "proc/sys/kernel/random/boot_id") or ""


def folders(root: Path, environ: Mapping[str, str] = os.environ) -> list[Path]:
    """Where a state may lie: the system's folder (runs as root), then the user's."""
    home = Path(environ.get("XDG_STATE_HOME") or Path(environ.get("HOME") or "/root") / ".local/state")
    return [root / _SYSTEM, *([home / "edgedit"] if root == Path("/") else [])]


def own_folder(root: Path) -> Path:
    """The first of `folders` that this process can write, made if need be.

    Raises:
        OutputError: none can be written.
    """
    problem: OSError | None = None
    for folder in folders(root):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problem = error
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise output_error(folders(root)[-1], problem or PermissionError("no permission"))


def save_state(folder: Path, state: BoardState) -> None:
    """Write the state; on the disk when this returns."""
    write_atomic(folder / STATE, json.dumps({"format": FORMAT, **asdict(state)}, indent=1) + "\n")


def load_state(folder: Path) -> BoardState | None:
    """The state in a folder; None when there is none or it is not readable as one."""
    try:
        held = json.loads((folder / STATE).read_text())
        if held.pop("format") != FORMAT:
            return None
        return BoardState(**held)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def forget_state(folder: Path) -> None:
    """The board is as it was: nothing to keep."""
    for name in (STATE, "clocks-before.conf", "clocks-within.conf"):
        (folder / name).unlink(missing_ok=True)


def hold(folder: Path) -> int:
    """Hold the board for this process until it ends; returns the descriptor.

    Raises:
        OutputError: another process holds it.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise OutputError("another edgedit has set this board's power mode or clocks", saw=folder / STATE,
                          fix="wait until it is done") from None
    return descriptor


def held(folder: Path) -> bool:
    """Whether a living process holds the board."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def still_left(root: Path, state: BoardState) -> bool:
    """Whether the board is still as the run left it: in its mode, or (same boot) with clocks pinned."""
    if state.changed and read_live_id(root) == state.within_id:
        return True
    return state.locked and state.boot == boot_id(root) and read_live_id(root) == state.within_id and clocks_locked(root) is True


def commands(root: Path, folder: Path, state: BoardState) -> str:
    """What to type to put the board back by hand."""
    steps, same_boot = [], state.boot == boot_id(root)
    if same_boot and state.clocks_within is not None:
        steps.append(f"sudo jetson_clocks --restore {state.clocks_within}")
    if state.changed:
        steps.append(f"sudo nvpmodel -m {state.before_id}")
    if same_boot and state.clocks_before is not None:
        steps.append(f"sudo jetson_clocks --restore {state.clocks_before}")
    return " && ".join([*steps, f"sudo rm {folder / STATE}"])
