"""LPIPS v0.1 (Zhang et al. 2018; science.md §9) as a training loss: frozen, finite, and a squared distance of features.

With x a tap's channel vector, h its head and s its side, LPIPS is Σ_taps 1/s² Σ_positions Σ_channels h·(x/‖x‖ - y/‖y‖)². So with
φ(x) = √h/s · x/‖x‖ it is ‖φ(prediction) - φ(target)‖²: φ is what `features` returns, and what can be kept of a target.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from edgedit.core.errors import ArtifactError
from edgedit.core.say import Say, silent
from edgedit.distill.lpips_cache import FeatureCache
from edgedit.distill.lpips_weights import TAPS, build_trunk, load_heads, load_trunk
from edgedit.distill.settings import LpipsSettings

Features: TypeAlias = tuple[Tensor, ...]
"""φ at each tap: float32 (B, c, s, s), without a graph."""

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Mean and deviation of ImageNet for images in [-1, 1], as LPIPS v0.1 rounds them."""
EPS = 1e-10


class Lpips(nn.Module):
    """Learned perceptual distance with the trunk of torchvision and the heads of package `lpips`.

    The same numbers as the package to 1e-5, built so that its traps cannot occur: trunk and heads are frozen and hold no
    dropout, so `.train()` on a parent changes nothing; the root in the normalisation has its epsilon inside, so a zero feature
    vector has a finite gradient; the target's features are made without a graph. Layers run channels last.

    Args:
        net: "vgg", "alex" or "squeeze".
        trunk: state dict of torchvision's model; only "features.*" is read.
        heads: one non-negative weight for each channel of each tap.
        resolution: side to resize both images to, bilinear; None leaves them.
        pooling: "max" or "avg", between the trunk's stages.
        precision: of the trunk: "fp32", "bf16", or "auto": autocast as it is where the loss is called. What follows the trunk is
            float32 in all three.
        compiled: run trunk and distance through torch.compile (features for the cache stay eager).
        cache: keeps features of targets by their pair's index.
        sources: hashes of the weights, for `facts`.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, net: str, trunk: dict[str, Tensor], heads: Sequence[Tensor], resolution: int | None = None, *,
                 pooling: str = "max", precision: str = "auto", compiled: bool = False, cache: FeatureCache | None = None,
                 sources: dict[str, str] | None = None) -> None:
        super().__init__()
        self.name, self.resolution, self.pooling, self.precision = net, resolution, pooling, precision
        self.taps, self.cache, self.sources = TAPS[net], cache, sources or {}
        self.trunk = build_trunk(net, trunk, pooling)
        for i, head in enumerate(heads):
            if not bool((head >= 0).all()):  # a metric has none; heads that were trained along by accident do
                raise ArtifactError(f"the LPIPS head of tap {i} has negative weights", saw=float(head.min()))
            self.register_buffer(f"root{i}", head.detach().float().reshape(1, -1, 1, 1).sqrt())       # √h (1, c, 1, 1)
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1))
        self.eval()
        self._compare = torch.compile(self._distances, dynamic=False) if compiled else self._distances
        self._embed = torch.compile(self._features, dynamic=False) if compiled else self._features

    @classmethod
    def load(cls, settings: LpipsSettings, *, compiled: bool = False, say: Say = silent) -> Lpips:
        """With the published weights: the trunk from `settings.weights` or torchvision, the heads from the package."""
        heads, heads_sha256 = load_heads(settings.net)
        trunk, trunk_sha256 = load_trunk(settings.net, settings.weights)
        cache = FeatureCache(settings.cache_gb, settings.cache_precision, say) if settings.cache_gb else None
        return cls(settings.net, trunk, heads, settings.resolution, pooling=settings.pooling, precision=settings.precision,
                   compiled=compiled, cache=cache, sources={"trunk_sha256": trunk_sha256, "heads_sha256": heads_sha256})

    def forward(self, prediction: Tensor, target: Tensor | Features) -> Tensor:
        """Scalar: the mean of `distances`."""
        return self.distances(prediction, target).mean()

    def terms(self, prediction: Tensor, target: Tensor | Features) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, which has no terms."""
        return self(prediction, target), {}

    def distances(self, prediction: Tensor, target: Tensor | Features) -> Tensor:
        """Images (B, C, S, S) in about [-1, 1], C = 1 or 3, and as many targets or their `features` → float32 (B,)."""
        return self._compare(prediction, self.features(target) if isinstance(target, Tensor) else target)

    @torch.no_grad()
    def features(self, images: Tensor, indices: NDArray[Any] | None = None) -> Features:
        """φ of images (B, C, S, S), for any number of calls of `forward` and `distances`.

        With the images' pair indices (B,) and a cache, features that are kept are not computed again; one loss has one set of
        pairs.
        """
        if self.cache is None or indices is None:
            return self._embed(images)
        return self.cache.features(self._features, images, indices)

    def _features(self, images: Tensor) -> Features:
        return tuple((x * inverse_norm(x)).mul_(w) for x, w in self._tapped(images))

    def _distances(self, prediction: Tensor, target: Features) -> Tensor:
        total = torch.zeros(len(prediction), device=prediction.device)
        for (x, w), y in zip(self._tapped(prediction), target, strict=True):
            total = total + Distance.apply(x, y, w)                                                   # (B,)
        return total

    def _tapped(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The trunk's output at every tap, float32 (B, c, s, s), and √h/s, (1, c, 1, 1)."""
        x = images.float().expand(-1, 3, -1, -1)
        if self.resolution is not None and images.shape[-1] != self.resolution:
            x = F.interpolate(x, size=(self.resolution, self.resolution), mode="bilinear", align_corners=False)
        # Folding shift and scale into the first layer would be exact only where that pads nothing (squeeze), for little gain.
        x = ((x - self.shift) / self.scale).contiguous(memory_format=torch.channels_last)
        out: list[tuple[Tensor, Tensor]] = []
        with self._autocast(x.device):
            for i, layer in enumerate(self.trunk):
                x = layer(x)
                if i in self.taps:
                    out.append((x.float(), self.get_buffer(f"root{len(out)}") / (x.shape[-1] * x.shape[-2]) ** 0.5))
        return out

    def _autocast(self, device: torch.device) -> AbstractContextManager[object]:
        if self.precision == "auto":
            return nullcontext()
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def facts(self) -> dict[str, Any]:
        """Which of the many metrics called LPIPS this is, with the hashes of its weights."""
        return {"name": "lpips", "net": self.name, "pooling": self.pooling, "range": [-1, 1],
                "resolution": self.resolution or "native", **self.sources}


def inverse_norm(x: Tensor) -> Tensor:
    """1/‖x‖ over channels, (B, c, s, s) → (B, 1, s, s); 1e5 at a zero vector, so that its product with it is 0."""
    return torch.rsqrt(torch.linalg.vector_norm(x, dim=1, keepdim=True).square() + EPS)


class Distance(torch.autograd.Function):
    """‖w·x/‖x‖ - y‖² of each sample, with the gradient by hand: autograd's own reads and writes more memory.

    With n = 1/‖x‖ and d = w·x·n - y, ∂/∂x = 2n·(w·d - n²·x·Σ_c x·w·d).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        """x, y float (B, c, s, s), w (1, c, 1, 1) → (B,). No gradient reaches y and w."""
        n = inverse_norm(x)                                                                           # (B, 1, s, s)
        d = (x * n).mul_(w).sub_(y)                                                                   # (B, c, s, s)
        ctx.save_for_backward(x, n, d, w)
        return torch.linalg.vector_norm(d, dim=1).square().sum((1, 2))  # over all three at once a CPU would lose four digits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """(B,) → (B, c, s, s)."""
        x, n, d, w = ctx.saved_tensors
        wd = d * w
        along = (x * wd).sum(1, keepdim=True).mul_(n).mul_(n)                                         # (B, 1, s, s)
        return wd.sub_(x * along).mul_(n * (2 * gradient).view(-1, 1, 1, 1)), None, None
