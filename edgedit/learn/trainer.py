"""A network being trained: weights, average, optimiser on a device; a step over all ranks, and all of it as named tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic

import torch
from torch import Tensor, nn

from edgedit.core.errors import MissingError, UsageError
from edgedit.core.say import Say, silent
from edgedit.learn.device import autocast
from edgedit.learn.ema import Ema, M
from edgedit.learn.learner import Stepped
from edgedit.learn.memory import Pieces, first_line, out_of_memory, part
from edgedit.learn.muon import Muon
from edgedit.learn.ranks import ALONE, Ranks
from edgedit.learn.settings import LearnSettings, OptimizerSettings
from edgedit.learn.state import fill, make_room, moments

_WHOLE = "a setup that trains a network of its own inside the step takes the batch whole"
_FIX = "a smaller model, --set precision=bf16, a smaller loss.lpips.resolution, or a device with more memory"


class Trainer(ABC, Generic[M]):
    """The state of a run that changes with every step. What is trained, and by which loss, is the subclass's.

    A batch that memory does not hold is taken in pieces (`learn.memory`) with the same gradients up to rounding; with dropout each
    piece draws masks of its own, so that a step differs. It must be a dataclass as `part` cuts it. A trainer
    with a state of its own changes that inside `loss` (the fake network of DMD learns there), so that a step cannot be tried again:
    it takes the batch whole or not at all.

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
        self.optimizer = self.make_optimizer(settings.optimizer)
        self.pieces = Pieces("a step of training", _FIX, settings.micro_batch)
        self.say: Say = silent
        self.divisible = not self.own_state()
        if settings.micro_batch is not None and not self.divisible:
            raise UsageError(f"micro_batch: {_WHOLE}", saw=settings.micro_batch, fix="--set micro_batch=none, and a smaller --batch")

    @property
    def micro_batch(self) -> int | None:
        """Rows of the last batch that were taken at a time, if it was taken in pieces."""
        return self.pieces.taken

    ends: tuple[str, ...] = ()
    """What names of the model's first and last layers contain: no matrices for Muon."""

    def make_optimizer(self, o: OptimizerSettings) -> torch.optim.Optimizer:
        """AdamW over all that is trained, or Muon with AdamW for `extra`, the ends, and what is no matrix."""
        if o.name == "adamw":
            return torch.optim.AdamW(self.trained.values(), o.lr, o.betas, weight_decay=o.weight_decay, fused=True)
        inside = {n for n, p in self.trained.items() if n.startswith("model.") and p.ndim > 1 and not any(end in n for end in self.ends)}
        matrices, others = ([p for n, p in self.trained.items() if (n in inside) is kind] for kind in (True, False))
        return Muon(matrices, others, o.lr, o.betas, o.weight_decay)

    @abstractmethod
    def loss(self, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Scalar to descend, the mean over the batch's rows (this rank's, or a piece of them), and scalars to log by name
        (detached), means as well."""

    def own_state(self) -> dict[str, Tensor]:
        """What resuming needs beyond weights, average and optimiser: what `loss` itself changes."""
        return {}

    def load_own_state(self, state: dict[str, Tensor]) -> None:
        """Inverse of `own_state`."""

    def step(self, batch: Any, step: int, lr: float, *, want_norm: bool = False, stop: bool = False, save: bool = False,
             spent: float = 0.0) -> Stepped:
        """One step of descent and of the average; see `learn.learner.Learner`. MissingError when memory does not hold it."""
        loss, logs = self.gradients(batch.to(self.device), step)
        if self.ranks.world > 1:
            self.ranks.average([*(p.grad for p in self.trained.values() if p.grad is not None), loss, *logs.values()])
            (stop, save), spent = self.ranks.agree(stop, save, number=spent)
        clip, norm = self._settings.optimizer.grad_clip, None
        if clip is not None or want_norm:
            norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), float("inf") if clip is None else clip)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.ema.update(step)
        return Stepped(loss, norm, logs, stop, save, spent)

    def gradients(self, batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Gradients of the batch (on the device) into the parameters; its loss, float32, and what to log, detached.

        Nothing else changes, so a try that memory does not hold leaves no trace.
        """
        rows = len(self.ranks.rows(self._settings.batch))

        def attempt(pieces: list[range]) -> tuple[Tensor, dict[str, Tensor]]:
            self.optimizer.zero_grad(set_to_none=True)
            if len(pieces) == 1:
                return self.backward(batch, step, 1.0)
            shares = [len(piece) / rows for piece in pieces]
            parts = [self.backward(part(batch, piece), step, share) for piece, share in zip(pieces, shares, strict=True)]
            loss = torch.stack([share * loss for share, (loss, _) in zip(shares, parts, strict=True)]).sum()
            return loss, {name: torch.stack([share * logs[name] for share, (_, logs) in zip(shares, parts, strict=True)]).sum()
                          for name in parts[0][1]}

        if self.divisible:
            return self.pieces.fit(rows, attempt, self.say, lambda: self.optimizer.zero_grad(set_to_none=True))
        try:
            return attempt([range(rows)])
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise MissingError(f"memory does not hold a step of {rows} images, and it cannot be taken in pieces: {_WHOLE}",
                               saw=first_line(error), fix="a smaller --batch with another --out, more processes under torchrun (each takes "
                               "its share), or --set precision=bf16") from error

    def backward(self, batch: Any, step: int, share: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Add `share` times the gradients of these rows' mean loss; the loss, float32, and what to log, detached."""
        with autocast(self._settings, self.device):
            loss, logs = self.loss(batch, step)
        (loss if share == 1.0 else share * loss).backward()
        return loss.detach().float(), logs

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
