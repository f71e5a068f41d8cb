"""Setup GET: offline distillation on stored pairs (Geng et al. 2024; science.md §3.3, §5). L = metric(teacher, student)."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from edgedit.distill.data import Batch
from edgedit.distill.losses import make_loss
from edgedit.distill.setup import BaseSetup, Context, SetupSettings, Student


class Options(SetupSettings):
    """Nothing to choose: the loss is `loss`."""

    name: Literal["get"] = "get"


class Setup(BaseSetup):
    """The student's image of (noise, class) is pulled to the teacher's image of the same pair."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.metric = make_loss(context.settings.loss, context.spec, context.device, compiled=context.settings.compile, say=context.say)

    def loss(self, student: Student, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean distance over the batch; the terms of a sum to log."""
        return self.metric.terms(student(batch.noise, batch.labels), self.metric.features(batch.images, batch.indices))

    def facts(self) -> dict[str, Any]:
        """What the loss is: name, and for LPIPS its variant with the hashes of its weights."""
        return self.metric.facts()
