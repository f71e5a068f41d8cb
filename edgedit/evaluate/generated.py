"""Images made as they are needed: a runtime; noise by seed and index with labels in turn or at random, or both of teacher pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgedit.core import noise
from edgedit.core.artifact import Parent
from edgedit.core.errors import NumericsError, UsageError
from edgedit.core.pairset import PairSet
from edgedit.evaluate.sources import ONCE


class Runs(Protocol):
    """What is needed of a runtime; `batch`, where it has one that is not None, is the only batch that it takes."""

    def infer(self, noise: NDArray[np.float32], labels: NDArray[np.int32]) -> NDArray[np.uint8]:
        """float32 (B, C, S, S), int32 (B,) → uint8 (B, S, S, C)."""


@dataclass(frozen=True)
class GeneratedSource:
    """Images that a runtime makes from noise and labels when they are asked for: image i is the same in any order and batch.

    Attributes:
        runtime: see `Runs`.
        noise_shape: (C, S, S).
        seed, start: image i has the noise of index start + i of the seed.
        random_labels: uniform random classes, instead of all classes in turn.
        pairs: where noise and classes come from instead: image i has those of pair start + i.
        batch: images a run where the runtime takes any.
        facts: digest, guidance, runtime and version, for the record.
        taught: facts of the pairs that the student was trained on, as its manifest has them.
    """

    name: str
    runtime: Runs
    noise_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    count: int = 50_000
    seed: int = 0
    start: int = 0
    random_labels: bool = False
    pairs: PairSet | None = None
    batch: int = 50
    facts: dict[str, Any] = field(default_factory=dict)
    taught: dict[str, Any] = field(default_factory=dict)
    parents: tuple[Parent, ...] = ()
    stored: bool = False

    def __post_init__(self) -> None:
        if self.pairs is None:
            return
        needed, seen = (self.noise_shape, len(self.class_names)), (self.pairs.shape, self.pairs.classes)
        if needed != seen:
            raise UsageError(f"{self.name} and {self.pairs.artifact.path} do not fit", fix="choose pairs like those it was trained on",
                             saw="the pairs are {} in {} classes, needed {} in {}".format(*seen, *needed))
        if self.start + self.count > len(self.pairs):
            raise UsageError(f"{self.pairs.artifact.path} holds {len(self.pairs):,} pairs", saw=f"{self.count:,} from {self.start:,} on")

    @property
    def identity(self) -> dict[str, Any]:
        """What makes these very images."""
        if self.pairs is not None:
            info = self.pairs.info
            of: dict[str, Any] = {k: info[k] for k in ("label", "seed", "teacher", "sampler") if k in info}
            of["digest"] = self.pairs.artifact.manifest.digest
            return {"kind": "generator", "name": self.name, "count": self.count, "start": self.start, "labels": "of the pairs",
                    "pairs": of, "quantisation": ONCE, **self.facts}
        return {"kind": "generator", "name": self.name, "count": self.count, "seed": self.seed, "start": self.start,
                "labels": "random" if self.random_labels else "balanced", "quantisation": ONCE, **self.facts}

    def labels(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 (n,)."""
        where = np.asarray(indices, np.int64) + self.start
        if self.pairs is not None:
            return self.pairs.labels(where)
        rule = random_labels if self.random_labels else noise.labels
        return rule(self.seed, where, len(self.class_names)).astype(np.int64)

    def noise(self, where: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 (n, C, S, S) of the noise indices (or pairs) `where`."""
        return noise.noise(self.seed, where, self.noise_shape) if self.pairs is None else self.pairs.noise(where)

    def targets(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 (n, S, S, C): the teacher's images of the same noise and classes; only with pairs."""
        if self.pairs is None:
            raise UsageError(f"{self.name} is asked for images that no teacher has made", fix="--pairs FOLDER")
        return self.pairs.images(np.asarray(indices, np.int64) + self.start)

    def images(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 (n, S, S, C); a ragged last run is padded and cut."""
        where = np.asarray(indices, np.int64) + self.start
        labels = self.labels(indices).astype(np.int32)
        fixed = getattr(self.runtime, "batch", None)
        c, h, w = self.noise_shape
        out = np.empty((len(where), h, w, c), np.uint8)
        for first in range(0, len(where), fixed or self.batch):
            kept = min(fixed or self.batch, len(where) - first)
            rows = np.arange(first, first + (fixed or kept)).clip(max=len(where) - 1)
            made = self.runtime.infer(self.noise(where[rows]), labels[rows])
            if made.dtype != np.uint8 or made.shape != (len(rows), h, w, c):
                raise NumericsError(f"{self.name} makes images of another form", saw=f"{made.dtype} {made.shape}",
                                    fix=f"needed are uint8 {(len(rows), h, w, c)}")
            out[first : first + kept] = made[:kept]
        return out


def random_labels(seed: int, indices: Sequence[int] | NDArray[np.integer] | range, classes: int) -> NDArray[np.int32]:
    """Uniform random labels: a function of (seed, index) alone, as the noise is, from another Philox stream of the seed.

    Returns:
        int32 (n,): word i of Philox4x64-10 with key (seed, 1), modulo `classes`.
    """
    where = np.asarray(indices, np.int64).reshape(-1)
    if not where.size:
        return np.empty(0, np.int32)
    first, last = int(where.min()) // 4, int(where.max()) // 4  # blocks of four words
    bits = np.random.Philox(key=np.array([seed, 1], np.uint64), counter=first)
    words = bits.random_raw(4 * (last - first + 1))
    return (words[where - 4 * first] % np.uint64(classes)).astype(np.int32)
