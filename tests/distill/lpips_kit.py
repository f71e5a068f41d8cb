"""LPIPS as package `lpips` computes it, on trunks of random weights."""

from __future__ import annotations

import warnings
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn

from edgedit.distill.lpips_weights import _layers

SHARED = Path(__file__).parents[3] / "shared" / "data"
SQUEEZE = SHARED / "squeezenet1_1_from_ncnn_fp16.pth"
needs_squeeze = pytest.mark.skipif(not SQUEEZE.is_file(), reason="../shared/data is not here")
NETS = ("squeeze", "alex", "vgg")
_MODELS = {"squeeze": "squeezenet1_1", "alex": "alexnet", "vgg": "vgg16"}


@lru_cache
def package(net: str, pooling: str = "max") -> tuple[Any, dict[str, Tensor]]:
    """The package's own metric with a random trunk, and that trunk under torchvision's names."""
    lpips = pytest.importorskip("lpips")
    from torchvision import models

    layers = _layers(net).to_empty(device="cpu")
    chance = torch.Generator().manual_seed(5)
    for layer in layers.modules():
        if isinstance(layer, nn.Conv2d):
            values = (layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1])
            layer.weight.data = torch.randn(layer.weight.shape, generator=chance) * (2 / values) ** 0.5
            layer.bias.data = torch.randn(layer.bias.shape, generator=chance) * 0.05
    with patch.object(models, _MODELS[net], lambda pretrained: SimpleNamespace(features=layers)), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    trunk = {f"features.{name.split('.', 1)[1]}": t for name, t in metric.net.state_dict().items()}
    if pooling == "avg":
        for part in metric.net.modules():
            for name, layer in list(part.named_children()):
                if isinstance(layer, nn.MaxPool2d):
                    setattr(part, name, nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode))
    return metric, trunk


def images(side: int, count: int = 4, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Two batches of uniform pixels in [-1, 1], the second half way to the first."""
    chance = torch.Generator().manual_seed(seed)
    a, b = (torch.rand(count, 3, side, side, generator=chance) * 2 - 1 for _ in range(2))
    return a, (a + b) / 2


def gradient(loss: Any, prediction: Tensor, *target: Any) -> Tensor:
    """Of the mean of a loss, to the prediction."""
    x = prediction.clone().requires_grad_()
    return torch.autograd.grad(loss(x, *target).mean(), x)[0]


def off(a: Tensor, b: Tensor) -> float:
    """Relative distance of two tensors."""
    return float((a - b).norm() / b.norm())
