"""DiT-Nano in its training form: the stock diffusion transformer with adaLN-Zero, run at one constant timestep.

Parameter counts equal the paper's (science.md §4): positions, timestep MLP and null class included. Own implementation of
the published architecture (Peebles & Xie 2023, "Scalable Diffusion Models with Transformers").
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedit.core.spec import FREQUENCIES, DiTSpec
from edgedit.model import small_heads

LN_EPS = 1e-6
INIT_STD = 0.02


class DiT(nn.Module):
    """noise, labels → images, in one step.

    Letters in shape comments: B batch, C channels, S image side, T tokens, w width, h heads, H head size, n = p·p·C.
    """

    def __init__(self, spec: DiTSpec, *, seed: int = 0) -> None:
        super().__init__()
        w = spec.width
        self.spec = spec
        self.patch = nn.Linear(spec.patch_values, w)
        self.position = nn.Parameter(sincos_positions(spec), requires_grad=False)         # (T, w)
        self.timestep = TimestepEmbedding(w)
        self.label = nn.Embedding(spec.rows, w)
        self.blocks = nn.ModuleList(Block(spec) for _ in range(spec.depth))
        self.final = FinalLayer(spec)
        self.initialise(seed)

    def initialise(self, seed: int) -> None:
        """Xavier on every linear layer, small Gaussians in the embeddings, zeros where adaLN-Zero asks: output is 0."""
        chance = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight, generator=chance)
                nn.init.zeros_(module.bias)
        for table in (self.label, self.timestep.hidden, self.timestep.out):
            nn.init.normal_(table.weight, std=INIT_STD, generator=chance)
        for zero in (*self.modulations, self.final.linear):
            nn.init.zeros_(zero.weight)
            nn.init.zeros_(zero.bias)

    @property
    def modulations(self) -> list[nn.Linear]:
        """The adaLN linears: one a block, then the output layer's."""
        return [*(cast(Block, block).modulation for block in self.blocks), self.final.modulation]

    def forward(self, noise: Tensor, labels: Tensor, taps: tuple[int, ...] = ()) -> Tensor | tuple[Tensor, tuple[Tensor, ...]]:
        """One-step images without guidance, and tokens on the way where they are asked for.

        Args:
            noise: float (B, C, S, S), unit Gaussian.
            labels: int (B,), 0 … classes; `spec.null_class` means "no class".
            taps: layers 1 … depth whose output is wanted too.

        Returns:
            Images, float (B, C, S, S), about [-1, 1], not clipped; with taps (images, tokens after each of them (B, T, w)).
        """
        x = self.patch(patchify(noise, self.spec.patch)) + self.position                  # (B, T, w)
        c = self.condition(labels)                                                        # (B, w)
        tapped: dict[int, Tensor] = {}
        for layer, block in enumerate(self.blocks, 1):
            x = block(x, c)
            if layer in taps:
                tapped[layer] = x
        images = self.decode(x, c)                                                        # (B, C, S, S)
        return (images, tuple(tapped[layer] for layer in taps)) if taps else images

    def decode(self, x: Tensor, c: Tensor) -> Tensor:
        """Tokens (B, T, w) of the last layer, or of another read as if it were the last, and `condition` → images (B, C, S, S)."""
        return unpatchify(self.final(x, c), self.spec)

    def condition(self, labels: Tensor) -> Tensor:
        """(B,) labels → (B, w): timestep embedding at the constant t = 0 plus label embedding."""
        return self.timestep(0.0) + self.label(labels)

    def guided(self, noise: Tensor, labels: Tensor, scale: float) -> Tensor:
        """Classifier-free guidance on the predicted image: u + scale·(c - u) (science.md §3.3); one pass if scale is 1."""
        if scale == 1.0:
            return self(noise, labels)
        null = torch.full_like(labels, self.spec.null_class)
        conditional, unconditional = self(torch.cat([noise, noise]), torch.cat([labels, null])).chunk(2)
        return unconditional + scale * (conditional - unconditional)


class TimestepEmbedding(nn.Module):
    """t → sinusoid of 256 values, cosines first → MLP. At the one-step constant t = 0: 128 ones, 128 zeros."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(FREQUENCIES, width)
        self.out = nn.Linear(width, width)

    def forward(self, t: float) -> Tensor:
        weight = self.hidden.weight
        half = FREQUENCIES // 2
        k = torch.arange(half, device=weight.device, dtype=weight.dtype)
        angle = t * torch.exp(-math.log(10_000) * k / half)
        waves = torch.cat([angle.cos(), angle.sin()])                                     # (256,)
        return self.out(F.silu(self.hidden(waves)))                                       # (w,)


class Block(nn.Module):
    """Transformer block with adaLN-Zero: attention and MLP, each normalised, modulated, gated and added."""

    def __init__(self, spec: DiTSpec) -> None:
        super().__init__()
        w = spec.width
        self.heads = spec.heads
        self.modulation = nn.Linear(w, 6 * w)
        self.qkv = nn.Linear(w, 3 * w)
        self.proj = nn.Linear(w, w)
        self.up = nn.Linear(w, spec.mlp_ratio * w)
        self.down = nn.Linear(spec.mlp_ratio * w, w)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        m = self.modulation(F.silu(c)).unsqueeze(1).chunk(6, dim=-1)                      # 6 × (B, 1, w)
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = m
        x = x + gate_msa * self.attend(modulate(normalise(x), shift_msa, scale_msa))      # (B, T, w)
        h = F.gelu(self.up(modulate(normalise(x), shift_mlp, scale_mlp)), approximate="tanh")
        return x + gate_mlp * self.down(h)                                                # (B, T, w)

    def attend(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x)                                                                 # (B, T, 3w)
        if small_heads.serves(qkv, self.heads):
            return self.proj(small_heads.attention(qkv, self.heads))                      # (B, T, w)
        q, k, v = split_heads(qkv, self.heads)                                            # 3 × (B, h, T, H)
        return self.proj(merge_heads(F.scaled_dot_product_attention(q, k, v)))            # (B, T, w)


class FinalLayer(nn.Module):
    """Normalise, modulate, project every token to the values of its patch."""

    def __init__(self, spec: DiTSpec) -> None:
        super().__init__()
        self.modulation = nn.Linear(spec.width, 2 * spec.width)
        self.linear = nn.Linear(spec.width, spec.patch_values)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.modulation(F.silu(c)).unsqueeze(1).chunk(2, dim=-1)           # 2 × (B, 1, w)
        return self.linear(modulate(normalise(x), shift, scale))                          # (B, T, n)


def normalise(x: Tensor) -> Tensor:
    """LayerNorm over channels without affine part."""
    return F.layer_norm(x, x.shape[-1:], eps=LN_EPS)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """adaLN: x·(1 + scale) + shift."""
    return x * (1 + scale) + shift


def split_heads(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, T, 3w) → q, k, v, each (B, h, T, H)."""
    b, t, _ = qkv.shape
    q, k, v = qkv.view(b, t, 3, heads, -1).permute(2, 0, 3, 1, 4)                         # 3 × (B, h, T, H)
    return q, k, v


def merge_heads(x: Tensor) -> Tensor:
    """(B, h, T, H) → (B, T, w)."""
    return x.transpose(1, 2).flatten(2)


def patchify(images: Tensor, p: int) -> Tensor:
    """(B, C, S, S) → (B, T, C·p·p): tokens row by row, values of a patch channel first (as a strided convolution reads them)."""
    b, c, s, _ = images.shape
    cells = images.view(b, c, s // p, p, s // p, p).permute(0, 2, 4, 1, 3, 5)             # (B, g, g, C, p, p)
    return cells.reshape(b, (s // p) ** 2, c * p * p)


def unpatchify(tokens: Tensor, spec: DiTSpec) -> Tensor:
    """(B, T, p·p·C) → (B, C, S, S): values of a patch channel last, as the stock final layer writes them."""
    g, p, c = spec.grid, spec.patch, spec.channels
    cells = tokens.view(-1, g, g, p, p, c).permute(0, 5, 1, 3, 2, 4)                      # (B, C, g, p, g, p)
    return cells.reshape(-1, c, spec.image, spec.image)


def sincos_positions(spec: DiTSpec) -> Tensor:
    """Fixed 2-D sin-cos positions, float32 (T, w): the first half of the channels encodes the column, the second the row.

    Each half is [sin | cos] of position / 10000^(k/(w/4)), k = 0 … w/4-1 (science.md §4.1).
    """
    quarter = spec.width // 4
    omega = 10_000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    row, column = torch.meshgrid(*2 * [torch.arange(spec.grid, dtype=torch.float64)], indexing="ij")
    column, row = column.reshape(-1, 1) * omega, row.reshape(-1, 1) * omega               # (T, w/4)
    return torch.cat([column.sin(), column.cos(), row.sin(), row.cos()], dim=1).float()
