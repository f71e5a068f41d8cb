"""Two students with random weights from a fixed seed: the quickstart's design and the paper's smallest. Run by run.sh."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from edgedit.core.artifact import create
from edgedit.core.spec import DiTSpec
from edgedit.model.checkpoint import KIND, WEIGHTS, save_weights
from edgedit.model.dit import DiT

DESIGNS = {"digits": DiTSpec(depth=4, width=128, heads=8, patch=4, image=16, channels=1), "cifar": DiTSpec(depth=5, width=64, heads=8)}


def make(folder: Path, spec: DiTSpec, seed: int) -> None:
    """Write a student whose every weight is random, of sizes that keep images within a few units of [-1, 1]."""
    model, chance = DiT(spec), torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if name != "position":
            size = 0.3 if weight.ndim < 2 else weight.shape[-1] ** -0.5
            weight.data = size * torch.randn(weight.shape, generator=chance)
    model.final.linear.weight.data *= 0.3
    info = {"label": spec.label, "class_names": [str(k) for k in range(spec.classes)]}
    with create(folder, KIND) as draft:
        save_weights(draft.path / WEIGHTS, spec, model.state_dict(), info)
        draft.spec, draft.info = spec.to_dict(), info


if __name__ == "__main__":
    for name, spec in DESIGNS.items():
        if not (Path(sys.argv[1]) / name).exists():
            make(Path(sys.argv[1]) / name, spec, seed=0)
