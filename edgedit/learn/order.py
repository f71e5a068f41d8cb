"""The order of a run, as pure functions: which examples a step sees, which it changes at random, by counters alone.

Nothing depends on the state of a generator, so a resumed run sees what an uninterrupted one would have seen, for any number
of threads or processes.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

ORDER, DROPOUT, FLIPS = 1, 2, 3
"""Second key word of Philox for each use; 0 is the noise of images."""


@lru_cache(maxsize=4)
def epoch_order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """A permutation of 0 … count-1: the order in which an epoch visits the examples (the rank of Philox words)."""
    return np.argsort(_words(seed, ORDER, epoch, count), kind="stable")


def batch_indices(seed: int, step: int, batch: int, count: int) -> NDArray[np.int64]:
    """int64 (B,): examples of a step. Epochs follow each other without a gap, so a batch may span two and none is cut."""
    position = np.arange(step * batch, (step + 1) * batch)
    out = np.empty(batch, np.int64)
    for epoch in np.unique(position // count):
        rows = position // count == epoch
        out[rows] = epoch_order(seed, int(epoch), count)[position[rows] % count]
    return out


def chosen(seed: int, step: int, batch: int, probability: float, use: int = DROPOUT) -> NDArray[np.bool_]:
    """bool (B,): rows of a step that something happens to, each with `probability`, on its own."""
    return (_words(seed, use, step, batch) >> np.uint64(11)) * 2.0**-53 < probability


def generator(seed: int, step: int, device: torch.device, use: int = 0) -> torch.Generator:
    """A torch generator on `device` for one use in one step; the same numbers in every process, whatever ran before.

    Draw for the whole batch and take the rank's rows, so that the number of processes changes nothing.
    """
    word = _words(seed, 256 + use, step, 1)[0]
    return torch.Generator(device).manual_seed(int(word >> np.uint64(1)))


def _words(seed: int, use: int, number: int, count: int) -> NDArray[np.uint64]:
    key = np.array([seed, use], np.uint64)
    return np.random.Philox(key=key, counter=np.array([0, 0, 0, number], np.uint64)).random_raw(count)
