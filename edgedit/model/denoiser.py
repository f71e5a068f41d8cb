"""EDM's preconditioning: a U-Net made a denoiser whose input, output and target all have unit variance.

Source: Karras et al. 2022, equation 7 and table 1; science.md §6.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedit.model.unet import UNet, UNetSpec

SIGMA_DATA = 0.5
"""Standard deviation of images in [-1, 1] that the preconditioning assumes."""
NO_CLASS = -1
"""Label that asks without a class: a row of zeros instead of one-hot."""


class Denoiser(nn.Module):
    """D(x; σ, class): the expected clean image given x = image + σ·noise."""

    def __init__(self, spec: UNetSpec, *, seed: int = 0) -> None:
        super().__init__()
        self.spec = spec
        self.network = UNet(spec, seed=seed)

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        """Denoised images.

        Args:
            x: floating point (B, C, S, S).
            sigma: noise level of each, (B,), above 0.
            labels: int (B,), 0 … classes - 1, or `NO_CLASS`.

        Returns:
            float32 (B, C, S, S), about [-1, 1]. The preconditioning is reckoned in float32, whatever autocast does inside.
        """
        x, sigma = x.float(), sigma.float()
        s = sigma[:, None, None, None]                                                    # (B, 1, 1, 1)
        norm = torch.rsqrt(s**2 + SIGMA_DATA**2)
        out = self.network(norm * x, sigma.log() / 4, one_hot(labels, self.spec.classes))
        return SIGMA_DATA**2 * norm**2 * x + s * SIGMA_DATA * norm * out.float()


def guided(denoiser: Callable[[Tensor, Tensor, Tensor], Tensor], x: Tensor, sigma: Tensor, labels: Tensor, scale: float) -> Tensor:
    """D without class + scale·(D with class - D without), both in one pass of twice the rows; one pass of B rows if scale is 1.

    Only for a denoiser that was taught with label dropout: another has learnt nothing about `NO_CLASS`.
    """
    if scale == 1.0:
        return denoiser(x, sigma, labels)
    none = torch.full_like(labels, NO_CLASS)
    known, unknown = denoiser(torch.cat([x, x]), torch.cat([sigma, sigma]), torch.cat([labels, none])).chunk(2)
    return unknown + scale * (known - unknown)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """int (B,) → float32 (B, classes); zeros for `NO_CLASS`."""
    return F.one_hot(labels.long() + 1, classes + 1)[:, 1:].float()


def loss_weight(sigma: Tensor) -> Tensor:
    """λ(σ) = (σ² + σ_data²)/(σ·σ_data)²: what makes the loss of every level weigh the same at the start (EDM table 1)."""
    return (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
