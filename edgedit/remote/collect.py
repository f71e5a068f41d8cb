"""Results from the board to the host, checked by hash before they take the place of older ones."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from edgedit.core.artifact import MANIFEST, open_artifact
from edgedit.core.errors import ArtifactError
from edgedit.core.files import output_error, sha256_file
from edgedit.remote.board import Board

IMAGES = ("images.npz", "images.npz.json", "images.png", "images.png.json")


def collect_record(board: Board, remote: str, target: Path) -> Path:
    """Bring the record `remote` to the folder `target`; at once when it is there already.

    Raises:
        ArtifactError: there is none on the board, or what arrived is not what lies there.
        OutputError: the host's disk is full or not writable.
    """
    digest = board.ask("hashes", files=[f"{remote}/{MANIFEST}"])[f"{remote}/{MANIFEST}"]
    if digest is None:
        raise ArtifactError("the board holds no record", saw=f"no {remote}/{MANIFEST}", fix="run the same command again")
    try:
        if open_artifact(target, "record").manifest.digest == digest:
            return target
    except ArtifactError:
        pass  # nothing whole there: it is fetched
    part = target.with_name(f".{target.name}.part")
    board.pull([f"{remote}/"], part)
    arrived = open_artifact(part, "record", fix="run the same command again: what is damaged is copied anew")
    if arrived.manifest.digest != digest:
        raise ArtifactError("another record arrived than lies on the board", saw=f"{arrived.manifest.digest[:12]}, there {digest[:12]}",
                            fix="run the same command again")
    _take_place(part, target)
    return target


def collect_images(board: Board, remote: str, target: Path) -> Path:
    """Bring images.npz, images.png and their notes to the folder `target`; errors as of `collect_record`."""
    there = {name: digest for name in IMAGES
             if (digest := board.ask("hashes", files=[f"{remote}/{name}"])[f"{remote}/{name}"]) is not None}
    if "images.npz" not in there:
        raise ArtifactError("the board holds no images", saw=f"no {remote}/images.npz", fix="run the same command again")
    if not _wrong(target, there):
        return target
    part = target.with_name(f".{target.name}.part")
    board.pull([f"{remote}/{name}" for name in there], part)
    if wrong := _wrong(part, there):
        raise ArtifactError("images arrived altered", saw=", ".join(wrong), fix="run the same command again")
    _take_place(part, target)
    return target


def _wrong(folder: Path, hashes: dict[str, str]) -> list[str]:
    return [name for name, digest in hashes.items() if not (folder / name).is_file() or sha256_file(folder / name) != digest]


def _take_place(part: Path, target: Path) -> None:
    """Put a whole folder where an older one may be: that one moves aside first and goes last."""
    old = target.with_name(f".{target.name}.old")
    try:
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            os.replace(target, old)
        os.replace(part, target)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise output_error(target, error) from error
