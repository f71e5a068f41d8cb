"""Students with random weights everywhere: the zero-initialised ones of a fresh DiT would make every test pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from edgedit.core.artifact import create
from edgedit.core.spec import DiTSpec
from edgedit.model.checkpoint import KIND, WEIGHTS, save_weights
from edgedit.model.dit import DiT


@pytest.fixture(scope="session")
def make_dit() -> Callable[..., DiT]:
    """make_dit(spec, seed=0) → a DiT whose every weight is random, of a size that keeps images within a few units."""

    def make(spec: DiTSpec, seed: int = 0) -> DiT:
        model, chance = DiT(spec), torch.Generator().manual_seed(seed)
        for name, weight in model.named_parameters():
            if name != "position":
                size = 0.3 if weight.ndim < 2 else weight.shape[-1] ** -0.5
                weight.data = size * torch.randn(weight.shape, generator=chance)
        model.final.linear.weight.data *= 0.3
        return model.eval().requires_grad_(False)

    return make


@pytest.fixture(scope="session")
def make_student(make_dit: Callable[..., DiT]) -> Callable[..., Path]:
    """make_student(folder, spec, seed=0, class_names=None) → `folder`, an artifact of kind "student"."""

    def make(folder: Path, spec: DiTSpec, seed: int = 0, class_names: list[str] | None = None) -> Path:
        with create(folder, KIND) as draft:
            info = {"label": spec.label, "class_names": class_names or [f"class {i}" for i in range(spec.classes)]}
            save_weights(draft.path / WEIGHTS, spec, make_dit(spec, seed).state_dict(), info)
            draft.spec, draft.info = spec.to_dict(), info
        return folder

    return make
