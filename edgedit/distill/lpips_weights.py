"""What LPIPS is made of: the trunk's layers and weights from torchvision, the heads from package `lpips` (science.md §9)."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgedit.core.errors import ArtifactError, MissingError
from edgedit.core.files import sha256_file

MEANWHILE = "train meanwhile with --loss l1, which needs no weights"

TAPS = {"squeeze": (1, 4, 7, 9, 10, 11, 12), "alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}
"""Layers of torchvision's `features` whose outputs LPIPS compares."""
SMALLEST = {"vgg": 16, "squeeze": 17, "alex": 31}
"""Least image side that leaves every tapped layer at least one pixel."""


def build_trunk(net: str, weights: dict[str, Tensor], pooling: str = "max") -> nn.Sequential:
    """The layers up to the last tap, frozen, float32, channels last.

    Args:
        net: "vgg", "alex" or "squeeze".
        weights: state dict of torchvision's model; only "features.*" is read.
        pooling: "max" as trained, or "avg": the same windows averaged (for VGG what `replace_pooling=True` does in piq).

    Raises:
        MissingError: no torchvision.
        ArtifactError: the weights do not fit.
    """
    trunk = _layers(net)[: TAPS[net][-1] + 1]
    _fill(trunk, net, weights)
    if pooling == "avg":
        for i, layer in enumerate(trunk):
            if isinstance(layer, nn.MaxPool2d):
                trunk[i] = nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode)
    return trunk.requires_grad_(False).to(memory_format=torch.channels_last)


def load_heads(net: str) -> tuple[list[Tensor], str]:
    """Heads v0.1 as package `lpips` carries them, without running it: (a (1, c, 1, 1) for each tap, SHA-256 of the file)."""
    found = importlib.util.find_spec("lpips")
    if found is None or found.origin is None:
        raise MissingError("the LPIPS loss needs package lpips", fix=f"pip install 'edgedit[host]'; or {MEANWHILE}")
    file = Path(found.origin).parent / "weights" / "v0.1" / f"{net}.pth"
    state = _read(file, f"pip install --force-reinstall lpips; or {MEANWHILE}")
    return [state[f"lin{i}.model.1.weight"] for i in range(len(TAPS[net]))], sha256_file(file)


def load_trunk(net: str, weights: Path | None) -> tuple[dict[str, Tensor], str]:
    """State dict of the trunk, from a file or from torchvision's cache or download, and the SHA-256 of its tensors.

    Raises:
        MissingError: no such file, or no download (offline) and nothing cached.
        ArtifactError: the file is not a state dict of tensors.
    """
    published = _published(net)
    if weights is not None:
        if not weights.is_file():
            raise MissingError(f"LPIPS weights {weights} are not there",
                               fix=f"give the right path to --lpips-weights; or {MEANWHILE}")
        trunk = _read(weights, f"give the state dict of {published.url}; or {MEANWHILE}")
    else:
        try:
            trunk = published.get_state_dict(progress=False, check_hash=True)
        except (OSError, RuntimeError, ValueError) as error:  # URLError is an OSError; a wrong hash is a RuntimeError
            raise MissingError(f"the ImageNet weights of LPIPS '{net}' are not cached and cannot be downloaded", saw=error,
                               fix=f"fetch {published.url} on a machine with network and give it with --lpips-weights FILE; "
                                   f"or {MEANWHILE}") from error
    digest = hashlib.sha256()
    for name in sorted(n for n in trunk if n.startswith("features.")):
        digest.update(name.encode() + trunk[name].contiguous().numpy().tobytes())
    return trunk, digest.hexdigest()


def find_net(weights: Path | None) -> str | None:
    """The net whose trunk is here without a download: that of a file, or the first of squeeze, alex, vgg in torchvision's cache.

    Raises:
        MissingError: no such file, or no torchvision.
        ArtifactError: the file is no state dict, or fits none of the three.
    """
    if weights is None:
        cached = Path(torch.hub.get_dir()) / "checkpoints"
        return next((net for net in TAPS if (cached / Path(_published(net).url).name).is_file()), None)
    trunk, _ = load_trunk("squeeze", weights)
    for net in TAPS:
        if not _unfit(_layers(net)[: TAPS[net][-1] + 1], trunk):
            return net
    raise ArtifactError(f"{weights} fits none of LPIPS's networks ({', '.join(TAPS)})", saw=sorted(trunk)[:3],
                        fix="give torchvision's state dict of SqueezeNet 1.1, AlexNet or VGG-16")


def _published(net: str) -> Any:
    from torchvision import models

    known = {"vgg": models.VGG16_Weights, "alex": models.AlexNet_Weights, "squeeze": models.SqueezeNet1_1_Weights}
    return known[net].IMAGENET1K_V1


def _layers(net: str) -> nn.Sequential:
    """torchvision's layers, without storage (the classifier of VGG alone would take half a gigabyte)."""
    try:
        from torchvision import models
    except ImportError:
        raise MissingError("the LPIPS loss needs torchvision", fix=f"pip install 'edgedit[host]'; or {MEANWHILE}") from None
    with torch.device("meta"):
        return {"vgg": models.vgg16, "alex": models.alexnet, "squeeze": models.squeezenet1_1}[net](weights=None).features


def _fill(layers: nn.Sequential, net: str, weights: dict[str, Tensor]) -> None:
    """Give the layers their weights, in float32; ArtifactError when they do not fit."""
    wanted = layers.state_dict()
    if wrong := _unfit(layers, weights):
        found = weights.get(f"features.{wrong[0]}")
        shape = None if found is None else tuple(found.shape)
        raise ArtifactError(f"these weights are not torchvision's {net} trunk",
                            saw=f"features.{wrong[0]}: {shape}, needed {tuple(wanted[wrong[0]].shape)}",
                            fix=f"give the state dict of {_published(net).url}")
    layers.load_state_dict({n: weights[f"features.{n}"].detach().float().clone() for n in wanted}, assign=True)


def _unfit(layers: nn.Sequential, weights: dict[str, Tensor]) -> list[str]:
    """Names of the layers' tensors that `weights` lack or have in another shape."""
    shapes = {name: t.shape for name, t in weights.items()}
    return [name for name, t in layers.state_dict().items() if shapes.get(f"features.{name}") != t.shape]


def _read(file: Path, fix: str) -> dict[str, Tensor]:
    """A state dict on the CPU, by a reader that runs no code."""
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # on rubbish torch's restricted unpickler raises whatever its stack machine runs into
        raise ArtifactError(f"{file} cannot be read as weights", saw=f"{type(error).__name__}: {error}".splitlines()[0],
                            fix=fix) from error
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ArtifactError(f"{file} is not a state dict of tensors", saw=type(state).__name__, fix=fix)
    return state
