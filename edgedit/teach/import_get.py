"""Stage "pairs import get": GET's published noise–image pairs as a pair set with stored noise (science.md §5).

Their noise came from torch generators on whatever device was used, so it cannot be made again from a seed and is kept. All files are
hashed and checked before the first shard is written; then shards are cut across them in order, one file pair in memory at a time.
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgedit import __version__
from edgedit.core import artifact
from edgedit.core.artifact import MANIFEST, Manifest, check_output, open_artifact, read_manifest
from edgedit.core.errors import ArtifactError
from edgedit.core.files import held
from edgedit.core.pairset import KIND, image_file, label_file, noise_file, to_uint8
from edgedit.core.say import Event, Say, silent
from edgedit.core.stop import interruptible
from edgedit.teach.convert import CLASS_NAMES
from edgedit.teach.get_files import Block, check_block, find_blocks
from edgedit.teach.sampler import evaluations
from edgedit.teach.settings import ImportSettings
from edgedit.teach.shards import Partial, put_shard, same

ORIGIN = "GET pair files"
_STEPS = 18  # GET's data generator: EDM's Heun sampler with its CIFAR-10 settings


def import_get(source: str | Path, out: str | Path, settings: ImportSettings | None = None, *, say: Say = silent) -> Manifest:
    """Make a pair set of GET's files, or go on with what an interrupted run left.

    Args:
        source: folder with `latent/*.pkl` and `image/*.pkl`.
        out: the artifact's folder; `<out>.partial` beside it is used on the way. Takes 15.4 KB a CIFAR-10 pair, of them 12.3 KB noise.
        settings: see `ImportSettings`.
        say: hears progress, in files and then in images.

    Returns:
        The manifest of the finished artifact; at once, checked, if `out` holds it already.

    Raises:
        ArtifactError: a file is missing, truncated, refused, or holds something else; it is named, and what was seen.
        NumericsError: NaN or infinity in a file.
        UsageError: `out` was made of other files or with other settings.
        OutputError: not writable, full, or another process is writing it.
        Interrupted: Ctrl-C or SIGTERM; finished shards are kept.
    """
    settings = settings or ImportSettings()
    folder, partial = Path(source), Partial(Path(out))
    check_output(partial.target)
    asked = {"import": "get", **settings.model_dump()}
    if (partial.target / MANIFEST).is_file():
        return _finished(partial.target, folder, asked, say)
    files = find_blocks(folder)
    with ExitStack() as stack:
        stack.enter_context(interruptible("pairs", partial.kept))
        blocks = _survey(files, settings.noise_scale, say)
        partial.make()
        stack.enter_context(held(partial.folder, "writing"))
        origin = {"teacher": "edm", "data": "cifar10", "origin": ORIGIN, **_extent(files), "files_sha256": _digest(blocks)}
        if not partial.sealed:
            partial.begin({**asked, "files_sha256": origin["files_sha256"], "edgedit": __version__})
            _write(partial, blocks, settings, say)
            _seal(partial, blocks, asked, origin)
        sealed = read_manifest(partial.folder)
        same(partial.folder, sealed.settings, asked)
        same(partial.folder, sealed.info["teacher"], origin, "of other files")
        return partial.publish()


def _finished(target: Path, folder: Path, asked: dict[str, Any], say: Say) -> Manifest:
    manifest = open_artifact(target, KIND).manifest
    same(target, manifest.settings, asked)
    if folder.is_dir():
        same(target, manifest.info["teacher"], {**manifest.info["teacher"], **_extent(find_blocks(folder))}, "of other files")
    else:
        say(Event(f"{folder} is not there, so that it was not compared with {target}", level="warning"))
    return manifest


def _extent(files: list[tuple[Path, Path]]) -> dict[str, int]:
    """How many files there are and their size, which tell other files without reading them."""
    every = [file for pair in files for file in pair]
    return {"files": len(every), "bytes": sum(file.stat().st_size for file in every)}


def _survey(files: list[tuple[Path, Path]], noise_scale: float, say: Say) -> list[Block]:
    """Check all files; ArtifactError, naming both, when one has other sizes than the first."""
    blocks: list[Block] = []
    for done, (latent, image) in enumerate(files, 1):
        block = check_block(latent, image, noise_scale)
        if blocks and (block.shape, block.classes) != (blocks[0].shape, blocks[0].classes):
            raise ArtifactError("the pair files are of mixed sizes", fix="import them one size at a time",
                                saw=f"{blocks[0].latent}: {blocks[0].shape}, {blocks[0].classes} classes; "
                                    f"{latent}: {block.shape}, {block.classes} classes")
        blocks.append(block)
        say(Event("check GET's files", done, len(files), unit="files"))
    return blocks


def _digest(blocks: list[Block]) -> str:
    """One hash for all files: SHA-256 over the lines "sha256  latent/name" and "sha256  image/name", in order."""
    lines = [f"{sha}  {file.parent.name}/{file.name}\n" for b in blocks for file, sha in zip((b.latent, b.image), b.sha256, strict=True)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _files(shard: int) -> list[str]:
    return [image_file(shard), label_file(shard), noise_file(shard)]


def _write(partial: Partial, blocks: list[Block], settings: ImportSettings, say: Say) -> None:
    """Make the shards that are missing."""
    count, size = sum(block.rows for block in blocks), settings.shard_size
    shards = range(-(-count // size))
    rows = [range(k * size, min((k + 1) * size, count)) for k in shards]
    todo = partial.missing(len(shards), _files, say)
    done = started = count - sum(len(rows[k]) for k in todo)
    say(Event("import pairs", done, count, started, "images"))
    reader = _Reader(blocks)
    for k in todo:
        z, classes, images = reader.rows(rows[k])
        put_shard(partial.folder, k, {
            image_file(k): to_uint8(images), label_file(k): classes.argmax(1).astype(np.uint8 if classes.shape[1] <= 256 else np.uint16),
            noise_file(k): (z / np.asarray(settings.noise_scale, z.dtype)).astype(np.float32)})
        done += len(rows[k])
        say(Event("import pairs", done, count, started, "images"))


class _Reader:
    """Rows across files, with the files of one block open at a time."""

    def __init__(self, blocks: list[Block]) -> None:
        self.blocks = blocks
        self.starts = np.cumsum([0, *(block.rows for block in blocks)])
        self._open: tuple[int, tuple[Tensor, ...]] | None = None

    def rows(self, which: range) -> tuple[NDArray[Any], ...]:
        """Noise, one-hot classes and images of consecutive rows, as stored."""
        first = int(np.searchsorted(self.starts, which.start, side="right")) - 1
        parts = []
        while self.starts[first] < which.stop:
            if self._open is None or self._open[0] != first:
                self._open = None  # before the next is read
                self._open = (first, self.blocks[first].load())
            low, high = (int(np.clip(x - self.starts[first], 0, self.blocks[first].rows)) for x in (which.start, which.stop))
            parts.append([tensor[low:high] for tensor in self._open[1]])
            first += 1
            if first == len(self.blocks):
                break
        return tuple(torch.cat([part[k] for part in parts]).numpy() for k in range(3))


def _seal(partial: Partial, blocks: list[Block], asked: dict[str, Any], origin: dict[str, Any]) -> None:
    (c, side, _), classes, count, size = blocks[0].shape, blocks[0].classes, sum(b.rows for b in blocks), asked["shard_size"]
    names = list(CLASS_NAMES) if classes == len(CLASS_NAMES) else [str(k) for k in range(classes)]
    sampler = {"name": "edm-heun", "steps": _STEPS, "evaluations": evaluations(_STEPS), "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0,
               "stated_by": "GET's generator; not checked"}
    info = {"label": "edm/cifar10 (GET)", "count": count, "shard_size": size, "image": side, "channels": c, "classes": classes,
            "class_names": names, "noise": "stored", "teacher": origin, "sampler": sampler}
    artifact.seal(partial.folder, KIND, [name for k in range(-(-count // size)) for name in _files(k)], info=info, settings=asked)
