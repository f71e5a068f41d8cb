"""A student being trained by a setup."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from edgedit.core.pairset import PairSet, to_uint8
from edgedit.core.say import Say, silent
from edgedit.core.spec import DiTSpec
from edgedit.distill.data import Batch, Batches
from edgedit.distill.lpips_weights import load_trunk
from edgedit.distill.settings import TrainSettings
from edgedit.distill.setup import BaseSetup, Context, Student, setup_class
from edgedit.learn.logs import sample_inputs, save_grid
from edgedit.learn.ranks import ALONE, Ranks
from edgedit.learn.state import Progress
from edgedit.learn.trainer import Trainer
from edgedit.model.checkpoint import KIND, WEIGHTS, save_weights, usual_guidance
from edgedit.model.dit import DiT


class StudentTrainer(Trainer[DiT]):
    """Student, setup and everything that changes with a step; a `learn.learner.Learner`."""

    kind, weights = KIND, WEIGHTS
    ends = ("patch.", "timestep.", "label.", "final.linear.")

    def __init__(self, data: PairSet, spec: DiTSpec, settings: TrainSettings, device: torch.device, ranks: Ranks = ALONE,
                 init: dict[str, Tensor] | None = None, say: Say = silent) -> None:
        model = DiT(spec, seed=settings.seed % (1 << 63)).to(device)
        if init is not None:
            model.load_state_dict(init)
        self.data, self.settings = data, settings
        if "lpips" in settings.loss.terms and ranks.world > 1:  # where it has to be downloaded, one process does that
            ranks.lead(lambda: load_trunk(settings.loss.lpips.net, settings.loss.lpips.weights)[1])
        context = Context(settings, data, spec, model, device, ranks, say if ranks.main else silent)
        self.setup: BaseSetup = setup_class(settings.setup.name)(context)
        self.student = cast(Student, torch.compile(model)) if settings.compile else model
        super().__init__(model, settings, device, ranks, self.setup.extra_parameters())

    def batches(self, start: int, stop: int) -> AbstractContextManager[Iterable[Batch]]:
        """This rank's batches of steps start … stop-1."""
        s, cuda = self.settings, self.device.type == "cuda"
        batches = Batches(self.data, s.batch, s.seed, s.label_dropout, self.ranks, pin=cuda, flips=s.flips)
        return batches.ahead(start, stop, s.loaders or (4 if cuda else 1))

    def loss(self, batch: Batch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The setup's."""
        return self.setup.loss(self.student, batch)

    def own_state(self) -> dict[str, Tensor]:
        """The setup's."""
        return self.setup.state_dict()

    def load_own_state(self, state: dict[str, Tensor]) -> None:
        """The setup's."""
        self.setup.load_state_dict(state)

    def write(self, file: Path, progress: Progress) -> None:
        """The averaged weights."""
        save_weights(file, self.model.spec, self.ema.model.state_dict(), self.info(progress))

    def spec(self) -> dict[str, int]:
        """Sizes of the student."""
        return self.model.spec.to_dict()

    def loss_facts(self) -> dict[str, Any]:
        """The setup's."""
        return self.setup.facts()

    def info(self, progress: Progress) -> dict[str, Any]:
        """Facts of the data, the setup and the student."""
        spec, facts = self.model.spec, self.data.info
        return {"label": spec.label, "class_names": self.data.class_names,
                "data": {k: facts[k] for k in ("label", "teacher", "sampler", "count", "noise", "seed", "start") if k in facts},
                "setup": self.settings.setup.name, "loss": self.loss_facts(), "label_dropout": self.settings.label_dropout,
                "flips": self.settings.flips, "step": progress.step, "ema_decay": self.settings.ema_decay,
                "parameters": spec.parameters, "deployed_parameters": spec.deployed_parameters}

    @torch.no_grad()
    def sample(self, out: Path, step: int) -> None:
        """A row for each class, with the averaged weights and `sample_guidance`."""
        spec = self.model.spec
        noise, labels = (torch.from_numpy(a).to(self.device) for a in sample_inputs((spec.channels, spec.image, spec.image), spec.classes))
        scale = self.settings.sample_guidance
        scale = usual_guidance({"loss": self.loss_facts(), "data": self.data.info}) if scale is None else scale
        pictures = to_uint8(self.ema.model.guided(noise, labels, scale).float().cpu().numpy())
        save_grid(out, step, pictures, self.data.class_names[: int(labels.max()) + 1])
