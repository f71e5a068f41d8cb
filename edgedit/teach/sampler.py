"""EDM's deterministic sampler: the probability-flow ODE by Heun's method.

Source: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models", Algorithm 1 and equation 5,
with the settings of their CIFAR-10 runs: 18 steps, σ 80 → 0.002, ρ = 7, no churn.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from edgedit.core.errors import NumericsError, UsageError

SIGMA_DATA = 0.5
"""Standard deviation of images in [-1, 1] that EDM's preconditioning assumes."""


class Denoise(Protocol):
    """A denoiser D(x; σ, class): the expected clean image given x = image + σ·noise.

    x is float64 (B, C, H, W), labels int64 (B,); the result is floating point (B, C, H, W), about [-1, 1].
    """

    def __call__(self, x: Tensor, sigma: float, labels: Tensor, /) -> Tensor: ...


def sigmas(steps: int = 18, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Tensor:
    """Noise levels float64 (steps + 1,), from sigma_max down to sigma_min, then 0 (Karras et al. equation 5).

    Raises:
        UsageError: fewer than 2 steps, or levels that do not descend.
    """
    if steps < 2:
        raise UsageError("the sampler needs at least 2 steps", saw=steps)
    if not 0 < sigma_min < sigma_max or rho <= 0:
        raise UsageError("the sampler needs 0 < sigma_min < sigma_max and rho > 0",
                         saw=f"sigma_min {sigma_min}, sigma_max {sigma_max}, rho {rho}")
    ramp = torch.arange(steps, dtype=torch.float64) / (steps - 1)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1, dtype=torch.float64)])


def evaluations(steps: int) -> int:
    """How often `heun` asks the denoiser: two a step, one in the last (to σ = 0)."""
    return 2 * steps - 1


@torch.inference_mode()
def heun(denoise: Denoise, noise: Tensor, levels: Tensor, labels: Tensor, *, path: list[Tensor] | None = None) -> Tensor:
    """Follow the probability-flow ODE dx/dσ = (x - D(x; σ))/σ from noise to image.

    Args:
        denoise: the teacher; asked 2·steps - 1 times.
        noise: unit Gaussian (B, C, H, W), any floating type.
        levels: float64 (steps + 1,), descending (`sigmas`); a Heun step between two levels, an Euler step to 0.
        labels: int64 (B,).
        path: if given, the state at every level is appended to it, steps + 1 tensors.

    Returns:
        float64 (B, C, H, W), about [-1, 1], neither clipped nor quantised. The state is float64 throughout.

    Raises:
        NumericsError: the denoiser gave NaN or infinity.
    """
    x = noise.to(torch.float64) * levels[0].to(noise.device)                   # (B, C, H, W)
    for now, after in zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True):
        if path is not None:
            path.append(x)
        slope = (x - denoise(x, now, labels).to(torch.float64)) / now          # (B, C, H, W)
        ahead = x + (after - now) * slope
        if after > 0:
            corrected = (ahead - denoise(ahead, after, labels).to(torch.float64)) / after
            ahead = x + (after - now) * (slope + corrected) / 2
        x = ahead
    if path is not None:
        path.append(x)
    if not bool(torch.isfinite(x).all()):
        raise NumericsError("the teacher gave NaN or infinity", fix="check the teacher's weights and data")
    return x
