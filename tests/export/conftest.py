"""Students with random weights everywhere: the zero-initialised ones of a fresh DiT would make every test pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from edgedit.core.artifact import create
from edgedit.core.pairset import image_file, label_file, noise_file
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


@pytest.fixture(scope="session")
def make_pairs() -> Callable[..., Path]:
    """make_pairs(folder, spec, count=64, labels=None, noise=None, seed=0) → `folder`, an artifact of kind "pairs" with grey images.

    Labels go in turn unless given; noise is by seed unless given.
    """

    def make(folder: Path, spec: DiTSpec, count: int = 64, labels: np.ndarray | None = None, noise: np.ndarray | None = None,
             seed: int = 0) -> Path:
        with create(folder, "pairs") as draft:
            np.save(draft.path / image_file(0), np.full((count, spec.image, spec.image, spec.channels), 128, np.uint8))
            np.save(draft.path / label_file(0), (np.arange(count) % spec.classes if labels is None else labels).astype(np.uint8))
            if noise is not None:
                np.save(draft.path / noise_file(0), noise)
            draft.info = {"count": count, "shard_size": count, "image": spec.image, "channels": spec.channels, "classes": spec.classes,
                          "class_names": [f"class {i}" for i in range(spec.classes)], "noise": "seed" if noise is None else "stored",
                          "seed": seed, "start": 0, "label": "test pairs", "teacher": {}, "sampler": {}}
        return folder

    return make
