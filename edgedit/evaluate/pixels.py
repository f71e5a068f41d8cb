"""What needs no network: how far images of a class lie apart, and how near to training images they come."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgedit.core.errors import UsageError
from edgedit.evaluate.sources import Source, rgb

_BLOCK = 5000
"""Training images compared at a time: 61 MB of CIFAR in float32."""


class Apart:
    """Distance from each image to a random other one of its class in the chunk: a draw from the distances inside a class.

    Not to the next one: neighbours in a data set may be alike (the digits of one writer are). The order is the same every time.

    Args:
        by_class: compare inside classes; else any with any.
    """

    def __init__(self, *, by_class: bool) -> None:
        self.by_class = by_class

    def rows(self, images: NDArray[np.uint8], labels: NDArray[np.int64] | None) -> dict[str, NDArray[Any]]:
        """→ "apart" float64 (n,): mean squared difference in levels²; NaN for the only image of its class."""
        flat = rgb(images).reshape(len(images), -1)
        groups = labels if self.by_class and labels is not None else np.zeros(len(images), np.int64)
        apart = np.full(len(images), np.nan)
        for label in np.unique(groups):
            members = np.random.default_rng(0).permutation(np.flatnonzero(groups == label))
            if len(members) > 1:
                away = flat[members].astype(np.int32) - flat[np.roll(members, 1)]
                apart[members] = np.square(away).mean(1)
        return {"apart": apart}


class Nearest:
    """The nearest training image in pixels.

    Args:
        train: held in memory as uint8 (on a GPU as float32).
        device: where the products run.

    Attributes:
        shape: (H, W) of the training images.
        count: how many.
    """

    def __init__(self, train: Source, device: torch.device) -> None:
        blocks = [rgb(train.images(np.arange(i, min(i + _BLOCK, train.count)))) for i in range(0, train.count, _BLOCK)]
        self.shape = blocks[0].shape[1:3]
        self._exact = np.concatenate([b.reshape(len(b), -1) for b in blocks])                  # (M, V) uint8
        self._device, self.count = device, len(self._exact)
        kept = range(0, self.count if device.type == "cuda" else 0, _BLOCK)
        self._ready = [self._centred(self._exact[i : i + _BLOCK]) for i in kept]

    def _centred(self, levels: NDArray[np.uint8]) -> torch.Tensor:
        return torch.from_numpy(levels).to(self._device).float() - 127.5

    def rows(self, images: NDArray[np.uint8], labels: NDArray[np.int64] | None) -> dict[str, NDArray[Any]]:
        """→ "nearest" float64 (n,), root mean square difference in levels, exact for the image found; "nearest_index" int64 (n,)."""
        if images.shape[1:3] != self.shape:
            raise UsageError("nearest compares images of one size", saw=f"{images.shape[1:3]} and {self.shape}")
        flat = rgb(images).reshape(len(images), -1)
        x = self._centred(flat)                                                                # (n, V)
        least = torch.full((len(x),), float("inf"), device=self._device)
        where = torch.zeros(len(x), dtype=torch.int64, device=self._device)
        for k in range(-(-len(self._exact) // _BLOCK)):
            first = k * _BLOCK
            y = self._ready[k] if self._ready else self._centred(self._exact[first : first + _BLOCK])           # (b, V)
            value, index = torch.addmm((y * y).sum(1)[None], x, y.T, alpha=-2).min(1)          # |y|² - 2 x·y
            better = value < least
            least, where = torch.where(better, value, least), torch.where(better, index + first, where)
        found = where.cpu().numpy()
        away = flat.astype(np.int32) - self._exact[found]
        return {"nearest": np.sqrt(np.square(away).mean(1)), "nearest_index": found}
