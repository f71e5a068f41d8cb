"""One row an image, computed in chunks that are kept as they come, so that an evaluation killed half-way goes on.

A chunk is a .npz of arrays with one row an image: features, logits, predictions, distances. Of several processes each
makes its share of the chunks, in a folder that they share or in one of their own.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgedit.core.errors import ArtifactError, UsageError
from edgedit.core.files import output_error, write_atomic
from edgedit.core.say import Event, Say
from edgedit.evaluate.moments import Moments
from edgedit.evaluate.sources import Source
from edgedit.learn.ranks import Ranks


class Probe(Protocol):
    """Something that measures each image."""

    def rows(self, images: NDArray[np.uint8], labels: NDArray[np.int64] | None) -> dict[str, NDArray[Any]]:
        """uint8 (n, H, W, C), int64 (n,) or None → arrays whose first axis is n."""


class Comparison(Protocol):
    """Something that measures each image against one that belongs to its number."""

    def rows(self, images: NDArray[np.uint8], indices: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """uint8 (n, H, W, C), int64 (n,) → arrays whose first axis is n."""


@dataclass(frozen=True)
class Rows:
    """The chunks of one source, spread over the processes of the run.

    Attributes:
        folder: where this process's chunks lie.
        mine: numbers of the chunks that this process answers for; every chunk has exactly one that does.
        ranks: the processes.
    """

    folder: Path
    mine: tuple[int, ...]
    ranks: Ranks

    def collect(self, name: str) -> NDArray[Any]:
        """(N, …): one array of all images, in order, on every process."""
        parts = {k: chunk[name] for k, chunk in self._chunks()}
        every = {k: part for one in self.ranks.gather(parts) for k, part in one.items()}
        return np.concatenate([every[k] for k in sorted(every)])

    def moments(self, name: str) -> Moments:
        """Moments of the rows of all processes."""
        own: Moments | None = None
        for _, chunk in self._chunks():
            more = Moments.of(chunk[name])
            own = more if own is None else own + more
        total: Moments | None = None
        for part in self.ranks.gather(own):
            total = part if total is None else total if part is None else total + part
        if total is None:
            raise UsageError("there is no image to measure")
        return total

    def _chunks(self) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
        for k in self.mine:
            chunk = _read(self.folder, k)
            if chunk is None:
                raise ArtifactError(f"{_file(self.folder, k)} was damaged since it was made", fix="run the same command again")
            yield k, chunk


def measure(source: Source, indices: NDArray[np.int64], probes: Sequence[Probe], folder: Path, *, chunk: int, text: str, say: Say,
            ranks: Ranks, comparisons: Sequence[Comparison] = ()) -> Rows:
    """Measure images, or go on with what an earlier run left in `folder`.

    A chunk that lacks an array counts as not made: an earlier version measured less. One image, measured again, tells what is wanted.

    Args:
        source, indices: which images.
        probes: what to measure of each.
        folder: where chunks are kept.
        chunk: images in one.
        text: of the progress events.
        ranks: this process among the others.
        comparisons: what else to measure of each, by its number.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(folder, error) from error
    parts = [indices[i : i + chunk] for i in range(0, len(indices), chunk)]
    found_there = {k: set(arrays) for k in range(len(parts)) if (arrays := _read(folder, k)) is not None}
    wanted = set(_measure(source, parts[0][:1], probes, comparisons)) if found_there else set()
    there = {k for k, names in found_there.items() if wanted <= names}
    holders = ranks.gather(sorted(there))
    everywhere = {k for held in holders for k in held}
    todo = [k for k in range(len(parts)) if k not in everywhere]
    mine = [k for k in sorted(everywhere) if _answers(k, holders) == ranks.rank] + todo[ranks.rank :: ranks.world]
    done = started = sum(len(parts[k]) for k in everywhere)
    say(Event(text, done, len(indices), started, "images"))
    for k in todo[ranks.rank :: ranks.world]:
        stream = io.BytesIO()
        np.savez(stream, **_measure(source, parts[k], probes, comparisons))  # type: ignore[arg-type]
        write_atomic(_file(folder, k), stream.getvalue())
        done = min(len(indices), done + ranks.world * len(parts[k]))  # the others go at the same pace, about
        say(Event(text, done, len(indices), started, "images"))
    ranks.barrier()
    return Rows(folder, tuple(sorted(mine)), ranks)


def _measure(source: Source, indices: NDArray[np.int64], probes: Sequence[Probe],
             comparisons: Sequence[Comparison]) -> dict[str, NDArray[Any]]:
    """All arrays of some images, by name."""
    images = source.images(indices)
    labels = source.labels(indices) if source.class_names else None
    found = {name: rows for probe in probes for name, rows in probe.rows(images, labels).items()}
    return found | {name: rows for comparison in comparisons for name, rows in comparison.rows(images, indices).items()}


def _answers(k: int, holders: list[list[int]]) -> int:
    """The process that answers for a chunk that some hold already."""
    having = [rank for rank, held in enumerate(holders) if k in held]
    return having[k % len(having)]


def _file(folder: Path, k: int) -> Path:
    return folder / f"chunk-{k:05d}.npz"


def _read(folder: Path, k: int) -> dict[str, NDArray[Any]] | None:
    """Arrays of a chunk; None when it is not there or not whole."""
    try:
        with np.load(_file(folder, k), allow_pickle=False) as chunk:
            return {name: chunk[name] for name in chunk.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None
