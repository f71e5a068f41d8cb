"""LPIPS for the quality gate of INT8, where its weights are on this machine: nothing is downloaded for a check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedit.core.errors import ArtifactError, MissingError, UsageError
from edgedit.core.say import Event, Say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIDE = 64
"""Both images are resized to it, so that the limit means the same for every image size."""
_BATCH = 32
_FILES = {"squeeze": "squeezenet1_1-", "alex": "alexnet-", "vgg": "vgg16-"}


def find_lpips(weights: Path | None, say: Say) -> Callable[[NDArray[np.uint8], NDArray[np.uint8]], float] | None:
    """Mean LPIPS between two sets of uint8 images (N, S, S, C); None, said with the reason, where its weights are not here.

    Args:
        weights: torchvision's state dict of SqueezeNet 1.1, AlexNet or VGG-16; None looks into torch's cache.

    Raises:
        UsageError: weights that are none of the three.
    """
    metric = _load(weights, say)
    if metric is None:
        return None
    import torch

    def planes(images: NDArray[np.uint8]) -> torch.Tensor:
        return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1

    @torch.inference_mode()
    def distance(made: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
        parts = [metric.distances(planes(made[i : i + _BATCH]), planes(reference[i : i + _BATCH])) for i in range(0, len(made), _BATCH)]
        return float(torch.cat(parts).mean())

    return distance


def _load(weights: Path | None, say: Say) -> Any:
    from edgedit.distill.lpips import Lpips
    from edgedit.distill.settings import LpipsSettings

    nets = list(_FILES)
    if weights is None:
        nets = [net for net in nets if _cached(_FILES[net])]
        if not nets:
            say(Event("the gate measures no perceptual distance: LPIPS weights are not here (--lpips-weights FILE gives them)"))
            return None
    for net in nets:
        try:
            return Lpips.load(LpipsSettings(net=net, weights=weights, resolution=SIDE), say=say)  # type: ignore[arg-type]
        except ArtifactError as error:
            refused = error
        except MissingError as error:
            if weights is not None and not weights.is_file():
                raise
            say(Event(f"the gate measures no perceptual distance: {error.what}", level="warning"))
            return None
    raise UsageError(f"{weights or 'what torch has cached'} fits none of LPIPS's networks ({', '.join(_FILES)})", saw=refused.what,
                     fix="give torchvision's state dict of one of them")


def _cached(prefix: str) -> bool:
    """Whether torchvision would find the weights without a download."""
    import torch

    return any(Path(torch.hub.get_dir(), "checkpoints").glob(prefix + "*.pth"))
