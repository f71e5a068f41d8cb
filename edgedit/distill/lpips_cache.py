"""Features of targets that come back in every epoch, kept in memory up to a budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgedit.core.say import Event, Say, silent

Embed = Callable[[Tensor], tuple[Tensor, ...]]
"""Images (B, C, S, S) → (B, c, s, s) for each tap."""


class FeatureCache:
    """Keeps features by pair index, on the device that made them.

    Going on from a checkpoint begins with an empty cache and must still follow the same path. So a pair's features are made
    by passes of that one image, whatever batch it first comes in, and which pairs are kept follows from their index (the first
    that fit the budget), not from the order in which they came.

    Args:
        gb: budget in 10⁹ bytes; with several processes, of each.
        precision: "fp32" keeps values as they are; "fp16" twice as many pairs, each value rounded to 11 bits.
        say: told once when the budget does not hold all pairs.
    """

    def __init__(self, gb: float, precision: str = "fp32", say: Say = silent) -> None:
        self.bytes, self.dtype, self.say = gb * 1e9, {"fp32": torch.float32, "fp16": torch.float16}[precision], say
        self.rows: dict[int, Tensor] = {}
        self.shapes: list[tuple[int, int, int]] = []
        self.limit = 0
        self._warned = False

    def features(self, embed: Embed, images: Tensor, indices: NDArray[np.integer[Any]]) -> tuple[Tensor, ...]:
        """What `embed(images)` gives, to rounding, for images of the pairs `indices` (B,)."""
        if not self.shapes:
            self._measure(embed(images[:1]))
        keep = indices < self.limit
        for row in np.flatnonzero(keep).tolist():
            if (index := int(indices[row])) not in self.rows:
                self.rows[index] = _flat(embed(images[row : row + 1]))[0].to(self.dtype)              # (D,)
        kept = [self.rows[int(index)] for index in indices[keep]]
        if len(kept) == len(indices):
            return self._parts(torch.stack(kept).float())
        self._warn()
        rest = torch.from_numpy(np.flatnonzero(~keep)).to(images.device)
        out = torch.empty(len(indices), self._values, device=images.device)                           # (B, D)
        out[rest] = _flat(embed(images[rest]))
        if kept:
            out[torch.from_numpy(np.flatnonzero(keep)).to(images.device)] = torch.stack(kept).float()
        return self._parts(out)

    @property
    def _values(self) -> int:
        return sum(c * h * w for c, h, w in self.shapes)

    def _measure(self, parts: tuple[Tensor, ...]) -> None:
        self.shapes = [(p.shape[1], p.shape[2], p.shape[3]) for p in parts]
        self.limit = int(self.bytes // (self._values * self.dtype.itemsize))

    def _parts(self, flat: Tensor) -> tuple[Tensor, ...]:
        """(B, D) → views (B, c, s, s), channels last."""
        split = flat.split([c * h * w for c, h, w in self.shapes], 1)
        return tuple(p.unflatten(1, (h, w, c)).permute(0, 3, 1, 2) for p, (c, h, w) in zip(split, self.shapes, strict=True))

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            self.say(Event(f"the LPIPS cache of {self.bytes / 1e9:g} GB holds the features of the first {self.limit:,} pairs, "
                           f"{self._values * self.dtype.itemsize / 1e6:.2f} MB each; the others' are computed at every step",
                           level="warning"))


def _flat(parts: tuple[Tensor, ...]) -> Tensor:
    """(B, c, s, s) each → float32 (B, D), in the order in which channels-last layers hold them."""
    return torch.cat([p.permute(0, 2, 3, 1).flatten(1) for p in parts], 1)
