"""The U-Net of diffusion teachers: DDPM++ as EDM trained it on CIFAR-10, and smaller kin of the same build.

Own implementation of the network that science.md §6 describes (Song et al. 2021, "DDPM++"; Karras et al. 2022, table 7).
`UNetSpec.edm_cifar10()` has the published network's 419 parameters under the published names, 55,735,299 numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedit.core.errors import UsageError

GN_EPS = 1e-6
_HALF = math.sqrt(0.5)


@dataclass(frozen=True)
class UNetSpec:
    """Sizes of a teacher.

    Attributes:
        width: channels of the first convolution; level l has width·multipliers[l].
        multipliers: one a resolution; each further level halves the image side.
        blocks: residual blocks a level on the way down; one more on the way up.
        attention: image sides at which blocks attend (one head).
        dropout: inside residual blocks, while training.
        augment: values of EDM's augmentation vector that the network was built for; 0 for none. It is never fed here.
        patch: pixels of a patch × patch square folded into channels at the entrance: 2 makes the network four times cheaper.
        image, channels, classes: of the data.
    """

    width: int = 128
    multipliers: tuple[int, ...] = (2, 2, 2)
    blocks: int = 4
    attention: tuple[int, ...] = (16,)
    dropout: float = 0.0
    augment: int = 0
    patch: int = 1
    image: int = 32
    channels: int = 3
    classes: int = 10

    def __post_init__(self) -> None:
        if self.width < 8 or self.width % 8 or not self.multipliers or min(self.multipliers) < 1 or self.blocks < 1:
            raise UsageError("a U-Net needs a width that 8 divides, multipliers of 1 or more, and blocks", saw=self)
        most = self.patch * 2 ** (len(self.multipliers) - 1)
        if self.patch < 1 or self.image % most:
            raise UsageError(f"{len(self.multipliers)} levels with patch {self.patch} need an image side that {most} divides",
                             saw=self.image)

    @classmethod
    def edm_cifar10(cls) -> UNetSpec:
        """The network of edm-cifar10-32x32-cond-vp."""
        return cls(width=128, multipliers=(2, 2, 2), blocks=4, attention=(16,), dropout=0.13, augment=9)

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> UNetSpec:
        """Inverse of `to_dict`."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in body.items()}
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @property
    def parameters(self) -> int:
        """Numbers in the network."""
        with torch.device("meta"):
            return sum(p.numel() for p in UNet(self).parameters())


class UNet(nn.Module):
    """noisy images, noise level, one-hot classes → F(x), before preconditioning (`model.denoiser`).

    Letters in shape comments: B batch, C channels, S image side, e embedding (4·width).
    """

    def __init__(self, spec: UNetSpec, *, seed: int = 0) -> None:
        super().__init__()
        self.spec = spec
        w, e = spec.width, 4 * spec.width
        self.map_label = nn.Linear(spec.classes, w)
        if spec.augment:
            self.map_augment = nn.Linear(spec.augment, w, bias=False)
        self.map_layer0, self.map_layer1 = nn.Linear(w, e), nn.Linear(e, e)
        side, values = spec.image // spec.patch, spec.channels * spec.patch**2
        enc: dict[str, nn.Module] = {f"{side}x{side}_conv": nn.Conv2d(values, w, 3, padding=1)}
        dec: dict[str, nn.Module] = {}
        skips, at = [w], w
        for level, (side, width) in enumerate(_levels(spec)):
            attends = side in spec.attention
            if level:
                enc[f"{side}x{side}_down"] = Block(at, at, e, resample="down", dropout=spec.dropout)
                skips.append(at)
            for k in range(spec.blocks):
                enc[f"{side}x{side}_block{k}"] = Block(at, width, e, attends=attends, dropout=spec.dropout)
                at = width
                skips.append(at)
        for level, (side, width) in reversed(list(enumerate(_levels(spec)))):
            if level == len(spec.multipliers) - 1:
                dec[f"{side}x{side}_in0"] = Block(at, at, e, attends=True, dropout=spec.dropout)
                dec[f"{side}x{side}_in1"] = Block(at, at, e, dropout=spec.dropout)
            else:
                dec[f"{side}x{side}_up"] = Block(at, at, e, resample="up", dropout=spec.dropout)
            for k in range(spec.blocks + 1):
                attends = side in spec.attention and k == spec.blocks
                dec[f"{side}x{side}_block{k}"] = Block(at + skips.pop(), width, e, attends=attends, dropout=spec.dropout)
                at = width
        dec[f"{side}x{side}_aux_norm"] = group_norm(at)
        dec[f"{side}x{side}_aux_conv"] = nn.Conv2d(at, values, 3, padding=1)
        self.enc, self.dec = nn.ModuleDict(enc), nn.ModuleDict(dec)
        self.initialise(seed)

    def initialise(self, seed: int) -> None:
        """Xavier everywhere; residual branches and the output begin near zero (1e-5), queries and keys small (√0.2)."""
        chance = torch.Generator().manual_seed(seed)
        small = {name for name, _ in self.named_modules() if name.endswith((".conv1", ".proj", "_aux_conv"))}
        for name, module in self.named_modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)) and not module.weight.is_meta:
                gain = 1e-5 if name in small else math.sqrt(0.2) if name.endswith(".qkv") else 1.0
                nn.init.xavier_uniform_(module.weight, gain=gain, generator=chance)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, c_noise: Tensor, classes: Tensor) -> Tensor:
        """F(x; noise level, class).

        Args:
            x: (B, C, S, S), scaled to unit variance.
            c_noise: (B,), ln(σ)/4.
            classes: one-hot (B, classes); a row of zeros asks without a class.

        Returns:
            (B, C, S, S).
        """
        emb = self.embed(c_noise, classes).to(x.dtype)                                    # (B, e)
        x = F.pixel_unshuffle(x, self.spec.patch) if self.spec.patch > 1 else x
        skips: list[Tensor] = []
        for block in self.enc.values():
            x = block(x, emb) if isinstance(block, Block) else block(x)
            skips.append(x)
        for block in self.dec.values():
            if isinstance(block, Block):
                if block.channels_in != x.shape[1]:
                    x = torch.cat([x, skips.pop()], dim=1)
                x = block(x, emb)
            else:
                x = F.silu(block(x)) if isinstance(block, nn.GroupNorm) else block(x)
        return F.pixel_shuffle(x, self.spec.patch) if self.spec.patch > 1 else x

    def embed(self, c_noise: Tensor, classes: Tensor) -> Tensor:
        """(B,), (B, classes) → (B, e): sines, then cosines of the noise level, plus the class, through two layers."""
        half = self.spec.width // 2
        k = torch.arange(half, device=c_noise.device, dtype=torch.float32)
        angle = c_noise.float()[:, None] * 10_000.0 ** (-k / (half - 1))                  # (B, w/2)
        emb = torch.cat([angle.sin(), angle.cos()], dim=1)                                # (B, w)
        emb = emb + self.map_label(classes * math.sqrt(self.spec.classes))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))


class Block(nn.Module):
    """Residual block, perhaps halving or doubling the side, perhaps with one head of attention; sums scaled by √½."""

    def __init__(self, channels_in: int, channels: int, embedding: int, *, resample: str = "", attends: bool = False,
                 dropout: float = 0.0) -> None:
        super().__init__()
        self.channels_in, self.resample, self.dropout, self.attends = channels_in, resample, dropout, attends
        self.norm0 = group_norm(channels_in)
        self.conv0 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.affine = nn.Linear(embedding, channels)
        self.norm1 = group_norm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        if channels_in != channels or resample:
            self.skip = nn.Conv2d(channels_in, channels, 1)
        if attends:
            self.norm2 = group_norm(channels)
            self.qkv = nn.Conv2d(channels, 3 * channels, 1)
            self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv0(self.resampled(F.silu(self.norm0(x))))                             # (B, c, s, s)
        h = h + self.affine(emb)[:, :, None, None]
        h = F.silu(self.norm1(h))
        if self.dropout and self.training:
            h = F.dropout(h, self.dropout)
        x = self.skip(self.resampled(x)) if hasattr(self, "skip") else x
        x = (self.conv1(h) + x) * _HALF
        return (self.attend(x) + x) * _HALF if self.attends else x

    def resampled(self, x: Tensor) -> Tensor:
        """Mean of 2 × 2, nearest × 2, or as it is."""
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2, mode="nearest") if self.resample == "up" else x

    def attend(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        qkv = self.qkv(self.norm2(x)).reshape(b, c, 3, h * w)                             # channel 3c is q, 3c+1 k, 3c+2 v
        q, k, v = qkv.permute(2, 0, 3, 1).unsqueeze(2)                                    # 3 × (B, 1, hw, c)
        out = F.scaled_dot_product_attention(q, k, v)                                     # (B, 1, hw, c)
        return self.proj(out.squeeze(1).transpose(1, 2).reshape(b, c, h, w))


def group_norm(channels: int) -> nn.GroupNorm:
    """At most 32 groups of four channels or more."""
    groups = next(g for g in range(min(32, channels // 4), 0, -1) if channels % g == 0)
    return nn.GroupNorm(groups, channels, eps=GN_EPS)


def _levels(spec: UNetSpec) -> Iterator[tuple[int, int]]:
    """(image side, channels) of each level, from the finest."""
    for level, multiplier in enumerate(spec.multipliers):
        yield spec.image // spec.patch >> level, spec.width * multiplier
