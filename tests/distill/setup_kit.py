"""A setup with its student, without a run around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from edgedit.core.pairset import PairSet
from edgedit.distill.data import Batch
from edgedit.distill.settings import TrainSettings
from edgedit.distill.student import StudentTrainer
from edgedit.learn.state import FOLDER


def tiny_trainer(pairs: Path, settings: TrainSettings, *, lively: bool = True) -> tuple[Any, Batch]:
    """A student on its setup, and its first batch. `lively` moves every weight off adaLN-Zero's zeros, which block gradients."""
    data = PairSet.open(pairs)
    trainer = StudentTrainer(data, settings.model.spec(data.shape, data.classes), settings, torch.device("cpu"))
    if lively:
        chance = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in trainer.trained.values():
                p.add_(torch.randn(p.shape, generator=chance), alpha=0.1)
    with trainer.batches(0, 1) as batches:
        return trainer, next(iter(batches))


def gradients(trainer: Any, term: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a term does to everything trained, by name."""
    found = torch.autograd.grad(term, list(trainer.trained.values()), retain_graph=True, allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(trainer.trained.items(), found, strict=True)}


def newest(out: Path) -> dict[str, torch.Tensor]:
    """Everything of the newest checkpoint."""
    last = sorted((out / FOLDER).glob("step-*"))[-1]
    return load_file(last / "state.safetensors")


def same_runs(a: Path, b: Path) -> bool:
    """Whether two runs ended with equal bits."""
    x, y = newest(a), newest(b)
    return x.keys() == y.keys() and all(torch.equal(x[n], y[n]) for n in x)
