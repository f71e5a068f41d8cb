"""Batches of pairs in a fixed order, made ahead by threads; of several processes each makes its own rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgedit.core.pairset import PairSet, to_float
from edgedit.learn.ahead import Ahead
from edgedit.learn.order import FLIPS, batch_indices, chosen, generator
from edgedit.learn.ranks import ALONE, Ranks


@dataclass(frozen=True)
class Batch:
    """What one process sees of one step: its rows of the whole batch. B counts the rows here."""

    step: int
    seed: int
    size: int
    """Images of the whole batch, over all processes."""
    rows: range
    """Which of them are here."""
    indices: NDArray[np.int64]
    """(B,): numbers of the pairs in their set; a mirrored one has a number of its own, the set's count more."""
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
        noise, labels, classes, images = (t.to(device, non_blocking=True) for t in (self.noise, self.labels, self.classes, self.images))
        return replace(self, noise=noise, labels=labels, classes=classes, images=images)

    def normal(self, use: int = 0) -> Tensor:
        """Fresh unit Gaussians float32 (B, C, S, S) on the batch's device.

        They follow from (seed, step, use) and the row: neither a resume nor the number of processes changes them. Every use in
        one step needs a number of its own. (Processors and GPUs draw different numbers.)
        """
        device = self.images.device
        whole = torch.randn(self.size, *self.images.shape[1:], generator=generator(self.seed, self.step, device, use), device=device)
        return whole[self.rows.start : self.rows.stop]

    def uniform(self, use: int = 0) -> Tensor:
        """Uniform float32 (B,) in [0, 1), on the same terms as `normal`."""
        device = self.images.device
        whole = torch.rand(self.size, generator=generator(self.seed, self.step, device, use), device=device)
        return whole[self.rows.start : self.rows.stop]


@dataclass(frozen=True)
class Batches:
    """Makes the batches of a run.

    Args:
        batch: images a step, over all processes.
        pin: put them into pinned memory, for copies to a GPU that do not wait.
        flips: mirror every pair, noise and image, in half of its visits.
    """

    pairs: PairSet
    batch: int
    seed: int
    label_dropout: float
    ranks: Ranks = ALONE
    pin: bool = False
    flips: bool = False

    def make(self, step: int) -> Batch:
        """This process's rows of the batch of one step, on the CPU."""
        rows = self.ranks.rows(self.batch)
        here = slice(rows.start, rows.stop)
        indices = batch_indices(self.seed, step, self.batch, len(self.pairs))[here]
        classes = self.pairs.labels(indices)
        labels = np.where(chosen(self.seed, step, self.batch, self.label_dropout)[here], self.pairs.classes, classes)
        noise, images = self.pairs.noise(indices), to_float(self.pairs.images(indices))
        if self.flips:
            mirrored = chosen(self.seed, step, self.batch, 0.5, FLIPS)[here]
            noise, images = (np.where(mirrored[:, None, None, None], a[..., ::-1], a) for a in (noise, images))
            indices = indices + mirrored * len(self.pairs)
        tensors = [torch.from_numpy(a) for a in (noise, labels, classes, images)]
        return Batch(step, self.seed, self.batch, rows, indices, *(t.pin_memory() if self.pin else t for t in tensors))

    def ahead(self, start: int, stop: int, threads: int = 1) -> Ahead[Batch]:
        """The batches of steps start … stop-1, made ahead by threads; use it as a context manager."""
        return Ahead(self.make, start, stop, threads=threads)
