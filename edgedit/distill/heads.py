"""Modules that are trained beside a student and left out of what is exported."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgedit.core.spec import DiTSpec
from edgedit.model.dit import FinalLayer, unpatchify


class ImageHead(FinalLayer):
    """Tokens of an inner layer → image, by a final layer of its own that begins at zero (science.md §3.1 E)."""

    def __init__(self, spec: DiTSpec) -> None:
        super().__init__(spec)
        self.spec = spec
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Tokens (B, T, w), conditioning (B, w) → images (B, C, S, S)."""
        return unpatchify(super().forward(x, c), self.spec)


def expansion(width: int, wider: int, seed: int) -> nn.Linear:
    """A projection of tokens to another network's width, from Xavier's distribution (science.md §3.2 A)."""
    linear = nn.Linear(width, wider)
    nn.init.xavier_uniform_(linear.weight, generator=torch.Generator().manual_seed(seed % (1 << 63)))
    nn.init.zeros_(linear.bias)
    return linear
