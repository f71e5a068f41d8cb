"""Distances between a student's image and its teacher's: L1, L2, LPIPS (science.md §5, §9), and sums of them."""

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

    def terms(self, prediction: Tensor, target: Target) -> tuple[Tensor, dict[str, Tensor]]:
        """The same scalar, and the terms of a sum by name, before their weights and detached: scalars to log."""
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
        settings: name, weights of a sum, and, for LPIPS, variant.
        spec: the student's design: its image side is checked.
        device: where images will be.
        compiled: use torch.compile where that fuses something (LPIPS).
        say: told when a cache is too small.

    Raises:
        MissingError: LPIPS without a trunk that can be had.
        UsageError: images too small for the trunk of LPIPS.
    """
    parts: dict[str, Loss] = {}
    for name in settings.terms:
        parts[name] = _lpips(settings, spec, compiled, say).to(device) if name == "lpips" else Pixel(name)
    if settings.terms == {settings.name: 1}:
        return parts[settings.name]
    return Sum(parts, settings.terms)


def _lpips(settings: LossSettings, spec: DiTSpec, compiled: bool, say: Say) -> Lpips:
    side = settings.lpips.resolution or spec.image
    least = SMALLEST[settings.lpips.net]
    if side < least:
        raise UsageError(f"LPIPS with '{settings.lpips.net}' needs images of at least {least} pixels",
                         saw=f"{side} pixels", fix="--set loss.lpips.resolution=64, another loss.lpips.net, or --loss l1")
    return Lpips.load(settings.lpips, compiled=compiled, say=say)


class Pixel:
    """Mean absolute (l1) or mean square (l2) difference of pixels."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._difference = F.l1_loss if name == "l1" else F.mse_loss

    def __call__(self, prediction: Tensor, target: Target) -> Tensor:
        """Scalar: the mean over pixels and batch."""
        return self._difference(prediction, _images(target))

    def terms(self, prediction: Tensor, target: Target) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, which has no terms."""
        return self(prediction, target), {}

    def distances(self, prediction: Tensor, target: Target) -> Tensor:
        """float32 (B,): the mean over the pixels of each image."""
        return self._difference(prediction, _images(target), reduction="none").float().flatten(1).mean(1)

    def features(self, images: Tensor, indices: NDArray[Any] | None = None) -> Tensor:
        """The pixels themselves."""
        return images

    def facts(self) -> dict[str, Any]:
        """The name."""
        return {"name": self.name}


class Sum:
    """Several losses, each times its weight.

    Args:
        parts: by name; "lpips" among them is an `Lpips`, the others compare pixels.
        weights: by name.
    """

    def __init__(self, parts: dict[str, Loss], weights: dict[str, float]) -> None:
        self.parts, self.weights = parts, weights

    def __call__(self, prediction: Tensor, target: Target) -> Tensor:
        """Scalar: the weighted sum of the parts' scalars."""
        return self.terms(prediction, target)[0]

    def terms(self, prediction: Tensor, target: Target) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and each part without its weight."""
        parts = {name: part(prediction, self._target(name, target)) for name, part in self.parts.items()}
        total = torch.stack([self.weights[name] * term.float() for name, term in parts.items()]).sum()
        return total, {name: term.detach().float() for name, term in parts.items()}

    def distances(self, prediction: Tensor, target: Target) -> Tensor:
        """float32 (B,): the weighted sum of the parts' distances."""
        parts = [self.weights[name] * part.distances(prediction, self._target(name, target)) for name, part in self.parts.items()]
        return torch.stack(parts).sum(0)

    def features(self, images: Tensor, indices: NDArray[Any] | None = None) -> Target:
        """The images, followed by LPIPS's features of them where it is a part (from its cache, where it has one)."""
        made = self.parts["lpips"].features(images, indices) if "lpips" in self.parts else ()
        return (images, *made) if "lpips" in self.parts else images

    def _target(self, name: str, target: Target) -> Target:
        """What one part needs of the target."""
        if isinstance(target, Tensor):
            return target
        if "lpips" not in self.parts or target[0].shape[1] not in (1, 3):
            raise UsageError("a sum of losses was given features of another loss as its target")
        return target[1:] if name == "lpips" else target[0]

    def facts(self) -> dict[str, Any]:
        """The names joined by +, the weights, and LPIPS's variant where it is a part."""
        of_parts = {key: value for part in self.parts.values() for key, value in part.facts().items()}
        return {**of_parts, "name": "+".join(self.parts), "weights": self.weights}


def _images(target: Target) -> Tensor:
    if not isinstance(target, Tensor):
        raise UsageError("a pixel loss was given features of another loss as its target")
    return target
