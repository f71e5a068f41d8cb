"""Distances between a student's image and its teacher's: L1, L2, LPIPS (science.md §5, §9)."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from edgedit.core.errors import UsageError
from edgedit.core.say import Say, silent
from edgedit.core.spec import DiTSpec
from edgedit.distill.lpips import Features, Lpips
from edgedit.distill.lpips_weights import SMALLEST
from edgedit.distill.settings import LossSettings

Target: TypeAlias = Tensor | Features
"""Images (B, C, S, S), or what `Loss.features` made of them."""


class Loss(Protocol):
    """How far images are from their targets. Gradients reach the prediction only."""

    def __call__(self, prediction: Tensor, target: Target, /) -> Tensor:
        """(B, C, S, S) in about [-1, 1] and its target → scalar, the mean over the batch."""
        ...

    def distances(self, prediction: Tensor, target: Target) -> Tensor:
        """The same for each image, float32 (B,)."""
        ...

    def features(self, images: Tensor, indices: NDArray[Any] | None = None) -> Target:
        """What the loss needs of targets (B, C, S, S), made once for several predictions; with the indices (B,) of their pairs,
        perhaps from a cache. Only for images that are the same whenever their index is."""
        ...

    def facts(self) -> dict[str, Any]:
        """What was measured, as JSON."""
        ...


def make_loss(settings: LossSettings, spec: DiTSpec, device: torch.device, *, compiled: bool = False, say: Say = silent) -> Loss:
    """The loss that the settings name, on a device.

    Args:
        settings: name and, for LPIPS, variant.
        spec: the student's design: its image side is checked.
        device: where images will be.
        compiled: use torch.compile where that fuses something (LPIPS).
        say: told when a cache is too small.

    Raises:
        MissingError: LPIPS without a trunk that can be had.
        UsageError: images too small for the trunk of LPIPS.
    """
    if settings.name == "lpips":
        side = settings.lpips.resolution or spec.image
        least = SMALLEST[settings.lpips.net]
        if side < least:
            raise UsageError(f"LPIPS with '{settings.lpips.net}' needs images of at least {least} pixels",
                             saw=f"{side} pixels", fix="--set loss.lpips.resolution=64, another loss.lpips.net, or --loss l1")
        return Lpips.load(settings.lpips, compiled=compiled, say=say).to(device)
    return Pixel(settings.name)


class Pixel:
    """Mean absolute (l1) or mean square (l2) difference of pixels."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._difference = F.l1_loss if name == "l1" else F.mse_loss

    def __call__(self, prediction: Tensor, target: Target) -> Tensor:
        """Scalar: the mean over pixels and batch."""
        return self._difference(prediction, _images(target))

    def distances(self, prediction: Tensor, target: Target) -> Tensor:
        """float32 (B,): the mean over the pixels of each image."""
        return self._difference(prediction, _images(target), reduction="none").float().flatten(1).mean(1)

    def features(self, images: Tensor, indices: NDArray[Any] | None = None) -> Tensor:
        """The pixels themselves."""
        return images

    def facts(self) -> dict[str, Any]:
        """The name."""
        return {"name": self.name}


def _images(target: Target) -> Tensor:
    if not isinstance(target, Tensor):
        raise UsageError("a pixel loss was given features of another loss as its target")
    return target
