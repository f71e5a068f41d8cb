"""Small networks with random weights, and images, for the tests of evaluation."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgedit.core.artifact import create
from edgedit.core.pairset import KIND, PairSet, image_file, label_file
from edgedit.evaluate.classifier import ResNet

SHARED = Path(__file__).parents[3] / "shared" / "data"
STEM = SHARED / "inception2015_fid_stem_to_Mixed_6e.pt"
CIFAR = Path(__file__).parents[2] / ".work" / "cifar"


def pictures(count: int, seed: int = 0, side: int = 32, channels: int = 3) -> np.ndarray:
    """Smooth random images, uint8 (n, side, side, channels)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 4, channels)).repeat(side // 4, 1).repeat(side // 4, 2)
    return np.clip(coarse + rng.normal(0, 10, coarse.shape), 0, 255).astype(np.uint8)


def random_inception(file: Path, seed: int = 0) -> Path:
    """torch-fidelity's network with random weights whose activations neither vanish nor explode, saved as it saves them."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Blank(FeatureExtractorInceptionV3):
        def load_state_dict(self, state_dict, strict=True, assign=False):
            return None

    nothing = BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    net = Blank("blank", ["2048"], feature_extractor_weights_path=nothing)
    chance = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            fan = module.weight[0].numel()
            module.weight.data = torch.randn(module.weight.shape, generator=chance) * (2 / fan) ** 0.5
        elif isinstance(module, nn.Linear):
            module.weight.data = torch.randn(module.weight.shape, generator=chance) * 2
    torch.save(net.state_dict(), file)
    return file


def random_classifier(file: Path, blocks: int = 1, classes: int = 3, seed: int = 0) -> Path:
    """A CIFAR ResNet with random weights in akamaster's layout."""
    torch.manual_seed(seed)
    net = ResNet(blocks, classes)
    torch.save({"state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}, "best_prec1": 0.0}, file)
    return file


def teacher_pairs(out: Path, count: int = 12, *, seed: int = 5, start: int = 0, side: int = 32, pixels: int = 0) -> PairSet:
    """Pairs in three classes, smooth random images of the seed `pixels`, in shards of five."""
    images, labels = pictures(count, pixels, side), (np.arange(start, start + count) % 3).astype(np.uint8)
    with create(out, KIND) as draft:
        for k in range(-(-count // 5)):
            np.save(draft.path / image_file(k), images[5 * k : 5 * k + 5])
            np.save(draft.path / label_file(k), labels[5 * k : 5 * k + 5])
        draft.info = {"count": count, "shard_size": 5, "image": side, "channels": 3, "classes": 3, "class_names": ["a", "b", "c"],
                      "noise": "seed", "seed": seed, "start": start, "label": "test", "teacher": {"teacher": "test", "guidance": 2.0}}
    return PairSet.open(out)


class Painter:
    """A runtime: images from noise and label; keeps the batches it was given."""

    def __init__(self, batch: int | None = None) -> None:
        self.batch, self.calls = batch, []

    def infer(self, z, c):
        self.calls.append(len(z))
        levels = np.clip(z * 30 + 60 + 40 * c[:, None, None, None], 0, 255)
        return levels.astype(np.uint8).transpose(0, 2, 3, 1)
