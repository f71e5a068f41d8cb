"""Folders to and from the board by the system's rsync: interrupted transfers go on where they stopped."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edgedit.core.say import Event, Say
from edgedit.remote.failures import rsync_failure
from edgedit.remote.ssh import Connection

_PROGRESS = re.compile(r"^\s*([\d,]+)\s+(\d+)%")
PARTIAL = ".rsync-partial"
EXTRA: tuple[str, ...] = ()
"""Further options of rsync; tests slow it down with them."""


def shell_argument(command: Sequence[str]) -> str:
    """A command as rsync's `-e` takes it: split at spaces, single quotes keep them, a doubled quote stands for one (rsync(1))."""
    return " ".join("'" + part.replace("'", "''") + "'" for part in command)


def push(connection: Connection, source: Path, remote: str, *, checksum: bool = False, say: Say) -> None:
    """Copy a file, or the contents of a folder, into the folder `remote` of the board.

    Args:
        checksum: compare contents instead of size and time.

    Raises:
        Unreachable: the connection broke; the same call goes on.
        EdgeditError: rsync failed for another reason.
    """
    local = f"{source.absolute()}/" if source.is_dir() else str(source.absolute())
    files = [p for p in source.rglob("*") if p.is_file()] if source.is_dir() else [source]
    total = sum(p.stat().st_size for p in files)
    _transfer(connection, [local], connection.target.path(f"{remote.rstrip('/')}/"), f"{source.name} to the board", total,
              f"{remote} on the board", checksum, say)


def pull(connection: Connection, remote: Sequence[str], target: Path, *, say: Say) -> None:
    """Copy files and folders of the board (no slash at the end: the folder itself) into the folder `target`. Errors as of `push`."""
    target.mkdir(parents=True, exist_ok=True)
    _transfer(connection, [connection.target.path(r) for r in remote], f"{target.absolute()}/", "results to the host", None, str(target),
              True, say)


def _transfer(connection: Connection, sources: Sequence[str], target: str, text: str, total: int | None, where: str, checksum: bool,
              say: Say) -> None:
    connection.open()
    argv = ["rsync", "--recursive", "--times", f"--partial-dir={PARTIAL}", "--timeout=60", "--protect-args", "--info=progress2",
            "--no-inc-recursive", *EXTRA, *(["--checksum"] if checksum else []), "-e", shell_argument(connection.command), "--",
            *sources, target]
    with tempfile.TemporaryFile("w+", errors="replace") as errors:
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True, errors="replace",
                              env={**os.environ, "LC_ALL": "C"}, start_new_session=True) as rsync:
            try:
                for line in rsync.stdout or ():  # universal newlines: each carriage return ends a line
                    match = _PROGRESS.match(line)
                    if match and total:
                        say(Event(text, min(int(match[1].replace(",", "")), total), total, unit="bytes"))
                code = rsync.wait()
            except BaseException:
                rsync.terminate()
                raise
        errors.seek(0)
        stderr = errors.read()
    if code:
        error = rsync_failure(code, stderr, where=where)
        raise error if error is not None else connection.lost(stderr)
