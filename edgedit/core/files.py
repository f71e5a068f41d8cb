"""Single files: written whole or not at all, hashed, and errors that say how to go on."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgedit.core.errors import OutputError


def write_atomic(file: str | Path, data: bytes | str) -> None:
    """Write a single file so that readers and power cuts see the old content or the new, never a part."""
    file = Path(file)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as stream:
            stream.write(data.encode() if isinstance(data, str) else data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
        fsync(file.parent)
    except OSError as error:
        raise output_error(file, error) from error
    finally:
        with contextlib.suppress(OSError):  # what went wrong is told already
            temporary.unlink(missing_ok=True)


def output_error(target: Path, error: OSError) -> OutputError:
    """An OSError while writing, as a message with a remedy."""
    fixes = {errno.ENOSPC: "free some space, then run the same command again",
             errno.EDQUOT: "free some quota, then run the same command again",
             errno.EACCES: "choose an --out that you may write", errno.EROFS: "choose an --out on a writable file system"}
    return OutputError(f"{target} could not be written", saw=error.strerror or str(error), fix=fixes.get(error.errno or 0))


def sha256_file(file: Path) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


@contextmanager
def held(folder: Path, doing: str) -> Iterator[None]:
    """Hold a folder for this process alone while it is "training in" or "writing" it; the system lets go even after kill -9.

    The hold goes along when the folder is renamed. A folder that is not there needs no holding.

    Raises:
        OutputError: another process holds it.
    """
    import fcntl

    if not folder.is_dir():
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(f"another process is {doing} {folder}", fix="wait for it, stop it, or choose another --out") from None
        yield
    finally:
        os.close(descriptor)


def fsync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
