"""Muon: descent along orthogonalised momentum for the matrices inside a network, AdamW for everything else.

A matrix's momentum is brought near to the nearest orthogonal matrix by five Newton–Schulz iterations, so that all its directions move
alike (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks", with its coefficients and Nesterov's momentum).
The step is 0.2·√(larger side) of that, which has the size of AdamW's, so that rates and weight decay carry over (Liu et al. 2025,
"Muon is Scalable for LLM Training", §2.2). A convolution's filters are a matrix (out, in·k·k).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

_A, _B, _C = 3.4445, -4.7750, 2.0315
_STEPS = 5
MOMENTUM = 0.95


class Muon(torch.optim.Optimizer):
    """One optimiser over both kinds; each keeps its state in `state` under the parameter, as torch's own do.

    Args:
        matrices: parameters of two dimensions or more that are layers inside the network, not its first or last.
        others: all that are left, for AdamW.
        lr, weight_decay: of both.
        betas: AdamW's.
    """

    def __init__(self, matrices: Iterable[Tensor], others: Iterable[Tensor], lr: float, betas: tuple[float, float],
                 weight_decay: float) -> None:
        self.rest = torch.optim.AdamW(others, lr, betas, weight_decay=weight_decay, fused=True)
        super().__init__([{"params": list(matrices)}], {"lr": lr, "weight_decay": weight_decay})
        self.param_groups += self.rest.param_groups
        self.rest.state = self.state

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Move all parameters that have a gradient."""
        assert closure is None
        group = self.param_groups[0]
        alike: dict[tuple[int, ...], list[Tensor]] = {}
        for p in group["params"]:
            if p.grad is not None:
                alike.setdefault(tuple(p.shape), []).append(p)
        for matrices in alike.values():
            self.move(matrices, group["lr"], group["weight_decay"])
        self.rest.step()

    def move(self, matrices: Sequence[Tensor], lr: float, weight_decay: float) -> None:
        """A step of matrices of one shape, together."""
        for p in matrices:
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        grads, momenta = [cast(Tensor, p.grad) for p in matrices], [self.state[p]["momentum"] for p in matrices]
        torch._foreach_lerp_(momenta, grads, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(grads, momenta, MOMENTUM)                              # Nesterov's
        moves = orthogonal(torch.stack([m.flatten(1) for m in ahead]))                    # (n, out, in)
        size = 0.2 * math.sqrt(max(moves.shape[1:]))
        torch._foreach_mul_(list(matrices), 1 - lr * weight_decay)
        torch._foreach_add_(list(matrices), [m.view_as(p) for m, p in zip(moves, matrices, strict=True)], alpha=-lr * size)


def orthogonal(x: Tensor) -> Tensor:
    """Matrices (n, a, b) with their singular values brought to about 1 (0.7 to 1.2; zero stays zero), on a GPU in bfloat16."""
    wide = x.shape[1] <= x.shape[2]
    y = x if wide else x.mT
    y = y / (y.norm(dim=(1, 2), keepdim=True) + 1e-7)
    y = y.bfloat16() if y.is_cuda else y
    for _ in range(_STEPS):
        square = y @ y.mT                                                                 # (n, a, a), the smaller side
        y = torch.baddbmm(y, torch.baddbmm(square, square, square, beta=_B, alpha=_C), y, beta=_A)
    return (y if wide else y.mT).to(x.dtype)
