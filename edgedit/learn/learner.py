"""What `learn.loop` trains: whatever can take a step, tell its tensors and write its weights."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from edgedit.core.say import Say
from edgedit.learn.state import Progress


class Stepped(NamedTuple):
    """What a step gave, the same on every rank; tensors are detached and on the device: reading them waits for it."""

    loss: Tensor
    norm: Tensor | None
    logs: dict[str, Tensor]
    stop: bool
    """Some rank was asked to stop."""
    save: bool
    """Some rank finds a checkpoint due."""
    spent: float = 0.0
    """Share of the run's minutes that rank 0 found used before the step: ranks' clocks differ, and so would their rates."""


class Learner(Protocol):
    """What learns: the state that changes with every step, on a device."""

    kind: str
    """Kind of the artifact that the run is."""
    weights: str
    """Name of its weights' file."""
    device: torch.device
    say: Say
    """Hears what a user should know of a step; the run sets it."""

    @property
    def micro_batch(self) -> int | None:
        """Rows of the last batch that were taken at a time, if it was taken in pieces on this rank."""

    def batches(self, start: int, stop: int) -> AbstractContextManager[Iterable[Any]]:
        """The batches of steps start … stop-1, this rank's rows, on the CPU."""

    def step(self, batch: Any, step: int, lr: float, *, want_norm: bool, stop: bool, save: bool, spent: float) -> Stepped:
        """One step of descent and of the average, with the gradients and the wishes of all ranks, and rank 0's `spent`."""

    def tensors(self) -> dict[str, Tensor]:
        """Everything that going on needs, by name."""

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `tensors`; ArtifactError when names or shapes do not fit."""

    def write(self, file: Path, progress: Progress) -> None:
        """Write the averaged weights."""

    def info(self, progress: Progress) -> dict[str, Any]:
        """Facts for the manifest; "step", "steps", "complete", "ended_by", "wall_s", "final_loss" and, where
        batches were taken in pieces, "micro_batch" are added."""

    def loss_facts(self) -> dict[str, Any]:
        """What the loss is: JSON that must not change when a run goes on."""

    def spec(self) -> dict[str, int] | None:
        """Sizes for the manifest, if the artifact is a DiT."""

    def sample(self, out: Path, step: int) -> None:
        """Draw a grid into `out/samples`."""
