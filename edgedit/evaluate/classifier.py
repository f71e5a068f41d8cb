"""A CIFAR ResNet (He et al. 2016, §4.2) as a judge of classes: whether a generated image is of the class that was asked for.

Weights: the files of akamaster/pytorch_resnet_cifar10 (resnet20 … resnet110), or any of that layout with shortcuts of option A.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from edgedit.core.errors import ArtifactError, UsageError
from edgedit.core.files import sha256_file
from edgedit.evaluate.sources import rgb
from edgedit.evaluate.weights import read_tensors

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE = 32


class Block(nn.Module):
    """Two 3×3 convolutions and a shortcut; where the size halves, the shortcut takes every second pixel and pads channels with 0."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.stride = outside // inside
        self.conv1 = nn.Conv2d(inside, outside, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.extra = (outside - inside) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))                     # (B, out, H/s, W/s)
        x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra, self.extra))
        return F.relu(x + y)


class ResNet(nn.Module):
    """6·blocks + 2 layers of 16, 32, 64 channels: float (B, 3, 32, 32) → logits (B, classes)."""

    def __init__(self, blocks: int, classes: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.layer1, self.layer2, self.layer3 = (
            nn.Sequential(Block(inside, outside), *(Block(outside, outside) for _ in range(blocks - 1)))
            for inside, outside in ((16, 16), (16, 32), (32, 64)))
        self.linear = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))                                           # (B, 16, 32, 32)
        x = self.layer3(self.layer2(self.layer1(x)))                                  # (B, 64, 8, 8)
        return self.linear(x.mean((2, 3)))                                            # (B, classes)


class Classifier:
    """Class predictions of images.

    Args:
        file: weights.
        device: where it runs.
        batch: images a pass.

    Attributes:
        classes: how many it tells apart.

    Raises:
        MissingError, ArtifactError: no such file, or not weights of such a network.
    """

    def __init__(self, file: str | Path, device: torch.device, batch: int = 250) -> None:
        self.file, self.device, self.batch = Path(file).expanduser(), device, batch
        tensors = {k: v for k, v in read_tensors(self.file).items() if not k.endswith("num_batches_tracked")}
        numbers = [int(m[1]) for k in tensors if (m := re.match(r"layer1\.(\d+)\.", k))]
        if not numbers or "linear.weight" not in tensors:
            raise ArtifactError(f"{self.file} is no CIFAR ResNet", saw=sorted(tensors)[:4],
                                fix="weights in the layout of github.com/akamaster/pytorch_resnet_cifar10")
        blocks, self.classes = max(numbers) + 1, len(tensors["linear.weight"])
        self.name = f"resnet{6 * blocks + 2}"
        self._network = ResNet(blocks, self.classes)
        shapes = {k: v.shape for k, v in self._network.state_dict().items() if not k.endswith("num_batches_tracked")}
        seen = {k: v.shape for k, v in tensors.items()}
        if wrong := sorted(k for k in shapes.keys() | seen.keys() if shapes.get(k) != seen.get(k)):
            raise ArtifactError(f"{self.file} is no {self.name} with shortcuts of option A", saw=f"{wrong[0]} does not fit")
        self._network.load_state_dict(tensors, strict=False)
        self._network.to(device).eval().requires_grad_(False)
        self.sha256 = sha256_file(self.file)

    @property
    def facts(self) -> dict[str, Any]:
        """For the record."""
        return {"name": self.name, "classes": self.classes, "sha256": self.sha256, "file": self.file.name}

    def rows(self, images: NDArray[np.uint8], labels: NDArray[np.int64] | None) -> dict[str, NDArray[Any]]:
        """uint8 (n, 32, 32, C), int64 (n,) → "predicted" and "labels", both int64 (n,)."""
        if images.shape[1:3] != (SIDE, SIDE):
            raise UsageError(f"{self.name} takes images of {SIDE}×{SIDE}", saw=f"{images.shape[1]}×{images.shape[2]}")
        if labels is None:
            raise UsageError("accuracy needs labelled images")
        made = [self._pass(images[i : i + self.batch]) for i in range(0, len(images), self.batch)]
        return {"predicted": np.concatenate(made), "labels": labels.astype(np.int64)}

    def _pass(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(rgb(images))).to(self.device).float() / 255         # (B, 32, 32, 3)
            x = (x - x.new_tensor(MEAN)) / x.new_tensor(STD)
            return self._network(x.permute(0, 3, 1, 2)).argmax(1).cpu().numpy().astype(np.int64)
