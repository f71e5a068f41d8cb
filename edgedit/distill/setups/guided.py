"""Setup "guided": classifier-free guidance distilled into one pass (after Meng et al. 2023; not in the paper).

Guided inference runs the student twice, with the class and without. Here a student learns to give in one pass what a trained
one gives in two: L = metric(source.guided(z, class, scale), student(z, class)). Begin with the source's weights (`--init`);
afterwards ask without guidance (`--guidance 1.0`), at half the cost. Inputs need no teacher, so fresh noise is free and there
is nothing to overfit. Rows without a class keep the source's unconditional image, so that guidance still has its two ends.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from edgedit.core.artifact import Parent, open_artifact
from edgedit.core.errors import UsageError
from edgedit.core.pairset import PairSet
from edgedit.distill.data import Batch
from edgedit.distill.losses import make_loss
from edgedit.distill.setup import BaseSetup, Context, SetupSettings, Student
from edgedit.model.checkpoint import KIND, load_student


class Options(SetupSettings):
    """What is distilled."""

    name: Literal["guided"] = "guided"
    student: Path | None = None
    """Folder of a run with label dropout: the source. Needed."""
    scale: float = Field(default=1.5, ge=0)
    """Guidance to distil."""
    fresh: bool = True
    """Fresh noise at every step; otherwise the pairs'. Their images serve in neither case."""


class Setup(BaseSetup):
    """The student's one pass is pulled to the two passes of the source's averaged weights."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.options = cast(Options, context.settings.setup)
        source, _, facts = load_student(_folder(self.options))
        for name in ("image", "channels", "classes"):
            theirs, ours = getattr(source.spec, name), getattr(context.spec, name)
            if theirs != ours:
                raise UsageError(f"setup.student does not fit the pairs: {name}", saw=f"student {theirs}, pairs {ours}",
                                 fix="choose a student of pairs like these")
        if not facts.get("label_dropout"):
            raise UsageError(f"{self.options.student} cannot be guided: it was trained without label dropout",
                             fix="choose a student trained with label_dropout above 0 (the paper: 0.1)")
        self.source = source.to(context.device)
        self.metric = make_loss(context.settings.loss, context.spec, context.device, compiled=context.settings.compile, say=context.say)

    @classmethod
    def parents(cls, options: Options, data: PairSet) -> tuple[Parent, ...]:
        """The source."""
        return (open_artifact(_folder(options), KIND, fix="edgedit train --pairs PAIRS --out FOLDER makes one").as_parent("source"),)

    def loss(self, student: Student, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean distance between one pass of the student and two of the source, clipped as images are."""
        noise = batch.normal() if self.options.fresh else batch.noise                     # (B, C, S, S)
        with torch.no_grad():
            target = self.source.guided(noise, batch.labels, self.options.scale).float().clamp(-1, 1)
        return self.metric(student(noise, batch.labels), target), {}

    def facts(self) -> dict[str, Any]:
        """The metric, and the guidance that is inside the weights now."""
        return {**self.metric.facts(), "distilled_guidance": self.options.scale}


def _folder(options: Options) -> Path:
    if options.student is None:
        raise UsageError("setup 'guided' needs a trained student", fix="--set setup.student=FOLDER, usually also as --init FOLDER")
    return options.student
