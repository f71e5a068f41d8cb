"""Setup GET: offline distillation on stored pairs (Geng et al. 2024; science.md §3.3, §5). L = metric(teacher, student)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from edgedit.core.spec import DiTSpec
from edgedit.distill.data import Batch
from edgedit.distill.losses import make_loss
from edgedit.distill.settings import TrainSettings
from edgedit.distill.setup import Student
from edgedit.model.dit import DiT


class Get:
    """The student's image of (noise, class) is pulled to the teacher's image of the same pair."""

    def __init__(self, settings: TrainSettings, spec: DiTSpec, student: DiT, device: torch.device) -> None:
        self.metric = make_loss(settings.loss, spec, device)

    def loss(self, student: Student, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean distance over the batch; nothing further to log."""
        return self.metric(student(batch.noise, batch.labels), batch.images), {}

    def extra_parameters(self) -> dict[str, nn.Parameter]:
        """None: GET trains the student alone."""
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        """Empty."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Nothing to restore."""

    def facts(self) -> dict[str, Any]:
        """What the loss is: name, and for LPIPS its variant with the hashes of its weights."""
        return self.metric.facts()
