"""Distances between a student's image and its teacher's: L1, L2, LPIPS (science.md §5, §9)."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedit.core.errors import ArtifactError, MissingError, UsageError
from edgedit.core.files import sha256_file
from edgedit.core.spec import DiTSpec
from edgedit.distill.settings import LossSettings, LpipsSettings

MEANWHILE = "train meanwhile with --loss l1, which needs no weights"

TAPS = {"squeeze": (1, 4, 7, 9, 10, 11, 12), "alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}
"""Layers of torchvision's `features` whose outputs LPIPS compares."""
SMALLEST = {"vgg": 16, "squeeze": 17, "alex": 31}
"""Least image side that leaves every tapped layer at least one pixel."""
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Mean and deviation of ImageNet for images in [-1, 1], as LPIPS v0.1 rounds them."""


class Loss(Protocol):
    def __call__(self, prediction: Tensor, target: Tensor, /) -> Tensor:
        """Two (B, C, S, S) in about [-1, 1] → scalar, the mean over the batch. Gradients reach `prediction` only."""
        ...

    def facts(self) -> dict[str, Any]:
        """What was measured, as JSON."""
        ...


def make_loss(settings: LossSettings, spec: DiTSpec, device: torch.device) -> Loss:
    """The loss that the settings name, on a device.

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
        return Lpips.load(settings.lpips).to(device)
    return Pixel(settings.name)


class Pixel:
    """Mean absolute (l1) or mean square (l2) difference of pixels."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        return F.l1_loss(prediction, target) if self.name == "l1" else F.mse_loss(prediction, target)

    def facts(self) -> dict[str, Any]:
        return {"name": self.name}


class Lpips(nn.Module):
    """Learned perceptual distance v0.1 (Zhang et al. 2018) with the trunk of torchvision and the heads of package `lpips`.

    The same numbers as the package to 1e-5, built so that its traps cannot occur: trunk and heads are frozen buffers and hold
    no dropout, so `.train()` on a parent changes nothing; the root in the normalisation has its epsilon inside, so a zero
    feature vector has gradient 0 and not NaN; the teacher's features are made without a graph.

    Args:
        net: "vgg", "alex" or "squeeze".
        trunk: state dict of torchvision's model; only "features.*" is read.
        heads: one non-negative weight for each channel of each tap.
        resolution: side to resize both images to, bilinear; None leaves them.
        sources: hashes of the weights, for `facts`.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: str, trunk: dict[str, Tensor], heads: list[Tensor], resolution: int | None = None,
                 sources: dict[str, str] | None = None) -> None:
        super().__init__()
        self.name, self.resolution, self.sources = net, resolution, sources or {}
        self.taps = TAPS[net]
        self.features = _features(net)[: self.taps[-1] + 1]
        _fill(self.features, net, trunk)
        self.requires_grad_(False)
        for i, head in enumerate(heads):
            self.register_buffer(f"head{i}", head.detach().reshape(1, -1, 1, 1).float())              # (1, c, 1, 1)
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1))
        self.eval()

    @classmethod
    def load(cls, settings: LpipsSettings) -> Lpips:
        """With the published weights: the trunk from `settings.weights` or torchvision, the heads from the package."""
        heads, heads_sha256 = load_heads(settings.net)
        trunk, trunk_sha256 = load_trunk(settings.net, settings.weights)
        sources = {"trunk_sha256": trunk_sha256, "heads_sha256": heads_sha256}
        return cls(settings.net, trunk, heads, settings.resolution, sources)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return self.distances(prediction, target).mean()

    def distances(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Two (B, C, S, S) in about [-1, 1], C = 1 or 3 → float32 (B,)."""
        with torch.no_grad():
            reference = self._normalised(target)
        seen = self._normalised(prediction)
        total = torch.zeros(len(prediction), device=prediction.device)
        for i, (a, b) in enumerate(zip(seen, reference, strict=True)):
            total = total + ((a - b).square() * self.get_buffer(f"head{i}")).sum(1).mean((1, 2))      # (B,)
        return total

    def _normalised(self, images: Tensor) -> list[Tensor]:
        """Unit feature vectors at every tap, float32 (B, c, s, s)."""
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        if self.resolution is not None and images.shape[-1] != self.resolution:
            images = F.interpolate(images, size=(self.resolution, self.resolution), mode="bilinear", align_corners=False)
        x, out = (images - self.shift) / self.scale, []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.taps:
                out.append(unit(x.float()))
        return out

    def facts(self) -> dict[str, Any]:
        return {"name": "lpips", "net": self.name, "pooling": "max", "range": [-1, 1],
                "resolution": self.resolution or "native", **self.sources}


def unit(x: Tensor, eps: float = 1e-10) -> Tensor:
    """(B, c, s, s) → the same with channel vectors of length 1; the gradient at a zero vector is finite."""
    return x * torch.rsqrt(x.square().sum(1, keepdim=True) + eps)


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


def _published(net: str) -> Any:
    from torchvision import models

    known = {"vgg": models.VGG16_Weights, "alex": models.AlexNet_Weights, "squeeze": models.SqueezeNet1_1_Weights}
    return known[net].IMAGENET1K_V1


def _features(net: str) -> nn.Sequential:
    """torchvision's layers, without storage (the classifier of VGG alone would take half a gigabyte)."""
    try:
        from torchvision import models
    except ImportError:
        raise MissingError("the LPIPS loss needs torchvision", fix=f"pip install 'edgedit[host]'; or {MEANWHILE}") from None
    with torch.device("meta"):
        return {"vgg": models.vgg16, "alex": models.alexnet, "squeeze": models.squeezenet1_1}[net](weights=None).features


def _fill(features: nn.Sequential, net: str, trunk: dict[str, Tensor]) -> None:
    """Give the layers their weights, in float32; ArtifactError when they do not fit."""
    wanted = {name: tuple(t.shape) for name, t in features.state_dict().items()}
    seen = {name: trunk.get(f"features.{name}") for name in wanted}
    wrong = [n for n, t in seen.items() if t is None or tuple(t.shape) != wanted[n]]
    if wrong:
        found = seen[wrong[0]]
        shape = None if found is None else tuple(found.shape)
        raise ArtifactError(f"these weights are not torchvision's {net} trunk",
                            saw=f"features.{wrong[0]}: {shape}, needed {wanted[wrong[0]]}",
                            fix=f"give the state dict of {_published(net).url}")
    features.load_state_dict({n: t.detach().float().clone() for n, t in seen.items() if t is not None}, assign=True)


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
