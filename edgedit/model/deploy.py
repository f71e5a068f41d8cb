"""DiT-Nano in its inference form: everything that one-step sampling makes constant is computed once.

At a constant timestep every adaLN vector depends on the class alone. So the timestep MLP, the label table and all adaLN
linears become one table of (classes + 1) rows of 6d + 2 vectors, and d + 1 matrix products become a look-up: 24-41 % fewer
parameters, exactly (science.md §4.3). Also folded: the softmax scale into the query weights, 1 + scale into the table.
Guidance runs as one batch of 2B inside the graph, and the output is uint8 NHWC, a quarter of the bytes.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedit.core.spec import DiTSpec
from edgedit.model.dit import DiT, merge_heads, normalise, patchify, split_heads, unpatchify

SHIFT_MSA, SCALE_MSA, GATE_MSA, SHIFT_MLP, SCALE_MLP, GATE_MLP = range(6)


class DeployedDiT(nn.Module):
    """noise, labels → guided uint8 images. Holds exactly `spec.deployed_parameters` parameters. Build with `fold`."""

    def __init__(self, spec: DiTSpec, guidance_scale: float = 1.0) -> None:
        super().__init__()
        w = spec.width
        self.spec, self.guidance_scale = spec, guidance_scale
        self.patch = nn.Linear(spec.patch_values, w)
        self.position = nn.Parameter(torch.zeros(spec.tokens, w))
        self.table = nn.Parameter(torch.zeros(spec.rows, spec.modulations, w))
        self.blocks = nn.ModuleList(DeployedBlock(spec) for _ in range(spec.depth))
        self.linear = nn.Linear(w, spec.patch_values)
        self.requires_grad_(False)

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """float (B, C, S, S), int (B,) → uint8 (B, S, S, C): truncation of x·127.5 + 128, clipped."""
        levels = self.images(noise, labels) * 127.5 + 128
        return levels.clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def images(self, noise: Tensor, labels: Tensor) -> Tensor:
        """The same before quantisation: float (B, C, S, S), not clipped."""
        x = F.linear(patchify(noise, self.spec.patch), self.patch.weight) + self.embedding_constant
        normed = normalise(x)                                                             # (B, T, w), shared by both halves
        guided = self.guidance_scale != 1.0
        if guided:
            labels = torch.cat([labels, torch.full_like(labels, self.spec.null_class)])
            x, normed = x.repeat(2, 1, 1), normed.repeat(2, 1, 1)                         # (2B, T, w)
        m = self.table[labels.long()].unsqueeze(2).unbind(1)                              # (6d+2) × (B, 1, w)
        for i, block in enumerate(self.blocks):
            x = block(x, normed if i == 0 else normalise(x), m[6 * i : 6 * i + 6])
        shift, one_plus_scale = m[-2:]
        tokens = self.linear(normalise(x) * one_plus_scale + shift)                       # (B, T, n)
        if guided:
            conditional, unconditional = tokens.chunk(2)
            tokens = unconditional + self.guidance_scale * (conditional - unconditional)
        return unpatchify(tokens, self.spec)

    @property
    def embedding_constant(self) -> Tensor:
        """Positions and patch bias merged: (T, w)."""
        return self.position + self.patch.bias


class DeployedBlock(nn.Module):
    """A block whose six modulation vectors are given."""

    def __init__(self, spec: DiTSpec) -> None:
        super().__init__()
        w = spec.width
        self.heads = spec.heads
        self.qkv = nn.Linear(w, 3 * w)
        self.proj = nn.Linear(w, w)
        self.up = nn.Linear(w, spec.mlp_ratio * w)
        self.down = nn.Linear(spec.mlp_ratio * w, w)

    def forward(self, x: Tensor, normed: Tensor, m: tuple[Tensor, ...]) -> Tensor:
        q, k, v = split_heads(self.qkv(normed * m[SCALE_MSA] + m[SHIFT_MSA]), self.heads)  # 3 × (B, h, T, H)
        mixed = merge_heads(F.scaled_dot_product_attention(q, k, v, scale=1.0))           # (B, T, w)
        x = x + m[GATE_MSA] * self.proj(mixed)
        hidden = F.gelu(self.up(normalise(x) * m[SCALE_MLP] + m[SHIFT_MLP]), approximate="tanh")
        return x + m[GATE_MLP] * self.down(hidden)


@torch.no_grad()
def fold(model: DiT, guidance_scale: float = 1.0) -> DeployedDiT:
    """The inference form of a trained model: the same function, in the same dtype, with fewer parameters.

    Args:
        model: training form; its dtype (float64 for proofs) and device carry over.
        guidance_scale: classifier-free guidance s in u + s·(c - u); 1.0 leaves the second half of the batch out.
    """
    spec = model.spec
    reference = model.patch.weight
    deployed = DeployedDiT(spec, guidance_scale).to(reference)
    deployed.patch.load_state_dict(model.patch.state_dict())
    deployed.linear.load_state_dict(model.final.linear.state_dict())
    deployed.position.copy_(model.position)
    deployed.table.copy_(modulation_table(model))
    for source, block in zip(model.blocks, deployed.blocks, strict=True):
        target = cast(DeployedBlock, block)
        for name in ("qkv", "proj", "up", "down"):
            getattr(target, name).load_state_dict(getattr(source, name).state_dict())
        target.qkv.weight[: spec.width] *= spec.head_size**-0.5
        target.qkv.bias[: spec.width] *= spec.head_size**-0.5
    return deployed.eval()


def modulation_table(model: DiT) -> Tensor:
    """All adaLN vectors of all classes: (classes + 1, 6d + 2, w), with 1 added to the scales.

    Block i owns rows 6i … 6i+5 in the order shift, scale, gate (attention), shift, scale, gate (MLP); the output layer
    owns the last two, shift and scale.
    """
    spec = model.spec
    labels = torch.arange(spec.rows, device=model.patch.weight.device)
    c = F.silu(model.condition(labels))                                                   # (K, w)
    table = torch.cat([layer(c).view(spec.rows, -1, spec.width) for layer in model.modulations], dim=1)
    scales = [6 * i + j for i in range(spec.depth) for j in (SCALE_MSA, SCALE_MLP)] + [spec.modulations - 1]
    table[:, scales] += 1
    return table
