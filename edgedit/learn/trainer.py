"""A network being trained: weights, average, optimiser on a device; a step over all ranks, and all of it as named tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic

import torch
from torch import Tensor, nn

from edgedit.learn.device import autocast
from edgedit.learn.ema import Ema, M
from edgedit.learn.loop import Stepped
from edgedit.learn.ranks import ALONE, Ranks
from edgedit.learn.settings import LearnSettings
from edgedit.learn.state import fill, make_room, moments


class Trainer(ABC, Generic[M]):
    """The state of a run that changes with every step. What is trained, and by which loss, is the subclass's.

    Args:
        model: on its device.
        extra: parameters trained beside the model's, by name: kept in checkpoints, left out of the average and the result.
    """

    def __init__(self, model: M, settings: LearnSettings, device: torch.device, ranks: Ranks = ALONE,
                 extra: dict[str, nn.Parameter] | None = None) -> None:
        self.model, self.device, self.ranks, self._settings = model, device, ranks, settings
        self.ema: Ema[M] = Ema(model, settings.ema_decay, settings.ema_warmup)
        self.trained = {f"model.{n}": p for n, p in model.named_parameters() if p.requires_grad}
        self.trained |= {f"extra.{n}": p for n, p in (extra or {}).items()}
        o = settings.optimizer
        self.optimizer = torch.optim.AdamW(self.trained.values(), o.lr, o.betas, weight_decay=o.weight_decay, fused=True)

    @abstractmethod
    def loss(self, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar to descend, the mean over this rank's rows, and scalars to log by name (detached)."""

    def own_state(self) -> dict[str, Tensor]:
        """What resuming needs beyond weights, average and optimiser."""
        return {}

    def load_own_state(self, state: dict[str, Tensor]) -> None:
        """Inverse of `own_state`."""

    def step(self, batch: Any, step: int, lr: float, *, want_norm: bool = False, stop: bool = False, save: bool = False) -> Stepped:
        """One step of descent and of the average; see `learn.loop.Learner`."""
        with autocast(self._settings, self.device):
            loss, logs = self.loss(batch.to(self.device), step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        loss = loss.detach().float()
        if self.ranks.world > 1:
            self.ranks.average([*(p.grad for p in self.trained.values() if p.grad is not None), loss, *logs.values()])
            stop, save = self.ranks.agree(stop, save)
        clip, norm = self._settings.optimizer.grad_clip, None
        if clip is not None or want_norm:
            norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), float("inf") if clip is None else clip)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.ema.update(step)
        return Stepped(loss, norm, logs, stop, save)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that going on needs, by name: "model.…", "ema.…", "extra.…", "optimizer.…", "own.…"."""
        out = {f"model.{n}": t for n, t in self.model.state_dict().items()}
        out |= {f"ema.{n}": t for n, t in self.ema.model.state_dict().items()}
        out |= {n: p.detach() for n, p in self.trained.items() if n.startswith("extra.")}
        out |= {f"own.{n}": t for n, t in self.own_state().items()}
        return out | {f"optimizer.{n}": t for n, t in moments(self.optimizer, self.trained).items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `tensors`; ArtifactError when names or shapes do not fit."""
        make_room(self.optimizer, self.trained, {n.removeprefix("optimizer."): t for n, t in tensors.items() if n.startswith("optimizer.")})
        mine, saved = ({n: t for n, t in some.items() if not n.startswith("own.")} for some in (self.tensors(), tensors))
        fill(mine, saved, "this run")
        self.load_own_state({n.removeprefix("own."): t for n, t in tensors.items() if n.startswith("own.")})
