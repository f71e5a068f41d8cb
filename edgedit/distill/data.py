"""Batches of pairs in a fixed order, made ahead by threads.

Everything random is a function of (seed, position): which pairs a step sees and which labels it drops follow from counters,
never from the state of a generator. So a resumed run sees what an uninterrupted one would have seen, for any number of
loader threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from types import TracebackType
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgedit.core.pairset import PairSet, to_float

_ORDER, _DROPOUT = 1, 2  # second key word of Philox; 0 is the noise of images
_AHEAD = 2  # batches ready for each loader thread


class Batch(NamedTuple):
    """What one step sees."""

    step: int
    noise: Tensor
    """float32 (B, C, S, S), unit Gaussian."""
    labels: Tensor
    """int64 (B,), some replaced by the null class."""
    classes: Tensor
    """int64 (B,), the true ones."""
    images: Tensor
    """float32 (B, C, S, S) in [-1, 1], the teacher's."""

    def to(self, device: torch.device) -> Batch:
        """The same on a device; copies from pinned memory do not wait."""
        return Batch(self.step, *(t.to(device, non_blocking=True) for t in self[1:]))


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """A permutation of 0 … count-1: the order in which an epoch visits the pairs (the rank of Philox words)."""
    return np.argsort(_words(seed, _ORDER, epoch, count), kind="stable")


def batch_indices(seed: int, step: int, batch: int, count: int) -> NDArray[np.int64]:
    """int64 (B,): pairs of a step. Epochs follow each other without a gap, so a batch may span two and none is cut."""
    position = np.arange(step * batch, (step + 1) * batch)
    out = np.empty(batch, np.int64)
    for epoch in np.unique(position // count):
        rows = position // count == epoch
        out[rows] = epoch_order(seed, int(epoch), count)[position[rows] % count]
    return out


def dropped(seed: int, step: int, batch: int, probability: float) -> NDArray[np.bool_]:
    """bool (B,): labels that a step replaces by the null class, each with `probability`, on its own."""
    return (_words(seed, _DROPOUT, step, batch) >> np.uint64(11)) * 2.0**-53 < probability


def _words(seed: int, stream: int, number: int, count: int) -> NDArray[np.uint64]:
    key = np.array([seed, stream], np.uint64)
    return np.random.Philox(key=key, counter=np.array([0, 0, 0, number], np.uint64)).random_raw(count)


class Batches:
    """Iterates over the batches of steps start … stop-1. Use as a context manager: threads stand behind it."""

    def __init__(self, pairs: PairSet, *, batch: int, seed: int, label_dropout: float, start: int, stop: int,
                 loaders: int = 1, pin: bool = False) -> None:
        self.pairs, self.batch, self.seed, self.label_dropout, self.pin = pairs, batch, seed, label_dropout, pin
        self._steps = iter(range(start, stop))
        self._pool = ThreadPoolExecutor(loaders, thread_name_prefix="batches")
        self._ready: deque[Future[Batch]] = deque()
        for _ in range(_AHEAD * loaders):
            self._order_next()

    def make(self, step: int) -> Batch:
        """The batch of one step, on the CPU."""
        indices = batch_indices(self.seed, step, self.batch, len(self.pairs))
        classes = self.pairs.labels(indices)
        labels = np.where(dropped(self.seed, step, self.batch, self.label_dropout), self.pairs.classes, classes)
        arrays = self.pairs.noise(indices), labels, classes, to_float(self.pairs.images(indices))
        tensors = [torch.from_numpy(a) for a in arrays]
        return Batch(step, *(t.pin_memory() if self.pin else t for t in tensors))

    def _order_next(self) -> None:
        step = next(self._steps, None)
        if step is not None:
            self._ready.append(self._pool.submit(self.make, step))

    def __iter__(self) -> Iterator[Batch]:
        while self._ready:
            batch = self._ready.popleft().result()
            self._order_next()
            yield batch

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
