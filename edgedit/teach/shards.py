"""A folder of numbered shards that grows: what all stages that make pairs share.

While a stage works, finished shards lie in `<out>.partial`, each with a receipt of its hashes; at the end the folder is sealed with
a manifest and takes the name `<out>`. Stopped in any way, kill -9 and power cuts included, the same command goes on with the
shards that are missing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedit.core.artifact import MANIFEST, Manifest, read_manifest
from edgedit.core.errors import OutputError, UsageError
from edgedit.core.files import output_error, sha256_file, write_atomic
from edgedit.core.say import Event, Say
from edgedit.teach.data import NAMES
from edgedit.teach.settings import IDEAL

BEGUN = "begun.json"


# --- one shard --------------------------------------------------------------------------------------------------------------


def receipt(shard: int) -> str:
    """Name of the note that a shard is whole: its files' hashes."""
    return f"done-{shard:05d}.json"


def npy_bytes(array: NDArray[Any]) -> bytes:
    """The array as a .npy file's bytes."""
    stream = BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def put_shard(folder: Path, shard: int, arrays: dict[str, NDArray[Any]]) -> None:
    """Write the files of a shard, then its receipt; each whole or not at all."""
    hashes = {}
    for name, array in arrays.items():
        data = npy_bytes(array)
        write_atomic(folder / name, data)
        hashes[name] = hashlib.sha256(data).hexdigest()
    write_atomic(folder / receipt(shard), json.dumps(hashes))


def shard_state(folder: Path, shard: int, files: Sequence[str]) -> str:
    """ "done", "missing", or "damaged": there is a receipt, and the files do not have its hashes."""
    try:
        hashes = json.loads((folder / receipt(shard)).read_bytes())
        whole = all(sha256_file(folder / name) == hashes[name] for name in files)
        return "done" if whole else "damaged"
    except FileNotFoundError:
        return "damaged" if (folder / receipt(shard)).exists() else "missing"
    except (ValueError, TypeError, LookupError):
        return "damaged"


# --- their folder -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Partial:
    """`<target>.partial`, where the shards of `target` gather.

    Attributes:
        target: the artifact's folder, in the end.
        scratch: patterns of the files, beside notes and receipts, that only the work needs.
    """

    target: Path
    scratch: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return self.target.with_name(self.target.name + ".partial")

    @property
    def kept(self) -> str:
        """What a stop leaves, for its message."""
        return f"finished shards are in {self.folder}"

    @property
    def sealed(self) -> bool:
        """It was stopped just before it took its name."""
        return (self.folder / MANIFEST).is_file()

    def make(self) -> None:
        """Make the folder; OutputError if that cannot be."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(self.folder, error) from error

    def begin(self, what: dict[str, Any]) -> None:
        """Note what the folder is for, or compare with the note of the run that began it.

        A run that ended before its first shard (its download failed, say) leaves nothing worth keeping: its notes give way.
        """
        if (self.folder / BEGUN).is_file() and not any(self.folder.glob("done-*.json")):
            self.sweep(BEGUN, *self.scratch, "images-*.npy", "labels-*.npy", "noise-*.npy", ".*.part")
        if not (self.folder / BEGUN).is_file() and (strangers := sorted(p.name for p in self.folder.iterdir())):
            raise OutputError(f"{self.folder} holds files that this stage did not make; nothing there was touched",
                              saw=strangers[:5], fix="choose another --out, or move them away")
        self.note(BEGUN, what)

    def note(self, name: str, what: dict[str, Any], differ: str = "made with other settings") -> None:
        """Write a note, or raise UsageError unless the one that is there says the same."""
        try:
            before = json.loads((self.folder / name).read_bytes())
        except FileNotFoundError:
            write_atomic(self.folder / name, json.dumps(what, indent=1))
        else:
            same(self.folder, before, json.loads(json.dumps(what)), differ)

    def missing(self, shards: int, files: Callable[[int], Sequence[str]], say: Say) -> list[int]:
        """Shards that are yet to be made. A damaged one loses its receipt, so that receipts can be counted."""
        states = {shard: shard_state(self.folder, shard, files(shard)) for shard in range(shards)}
        for shard in [k for k, state in states.items() if state == "damaged"]:
            say(Event(f"shard {shard} was damaged since it was made; it is made again", level="warning"))
            self.sweep(receipt(shard))
        return [k for k, state in states.items() if state != "done"]

    def sweep(self, *patterns: str) -> None:
        """Take files away."""
        for pattern in patterns:
            for file in self.folder.glob(pattern):
                file.unlink(missing_ok=True)

    def publish(self) -> Manifest:
        """Take away what only the work needed, and give the folder its name."""
        try:
            self.sweep(BEGUN, *self.scratch, "done-*.json", ".*.part")
            os.replace(self.folder, self.target)
        except OSError as error:
            raise output_error(self.target, error) from error
        return read_manifest(self.target)


def same(folder: Path, there: dict[str, Any], now: dict[str, Any], differ: str = "made with other settings") -> None:
    """Raise UsageError that names what differs. Two ways to write one path are one path."""
    keys = [k for k in {**there, **now} if there.get(k) != now.get(k)]
    keys = [k for k in keys if k not in ("data", "teacher") or _place(there.get(k)) != _place(now.get(k))]
    if keys:
        raise UsageError(f"{folder} holds pairs {differ}", fix=f"choose another --out, or remove {folder}",
                         saw="; ".join(f"{k}: {there.get(k)} there, {now.get(k)} now" for k in keys))


def _place(value: Any) -> str:
    """A known name, or a path made absolute."""
    return str(value) if value in (None, IDEAL, *NAMES) else str(Path(str(value)).expanduser().resolve())
