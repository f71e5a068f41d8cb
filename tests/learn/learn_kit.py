"""The smallest thing that learns, in the real loop, on a clock that its own steps turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgedit.core.artifact import Manifest
from edgedit.core.say import Say, silent
from edgedit.learn.ahead import Ahead
from edgedit.learn.loop import Run
from edgedit.learn.order import generator
from edgedit.learn.ranks import ALONE, Ranks
from edgedit.learn.settings import LearnSettings
from edgedit.learn.state import Progress
from edgedit.learn.trainer import Trainer

CPU = torch.device("cpu")
BATCH, WIDTH = 10, 6


@dataclass(frozen=True)
class Rows:
    """A batch: the numbers of its rows, and values for each."""

    step: int
    rows: range
    x: Tensor

    def to(self, device: torch.device) -> Rows:
        return replace(self, x=self.x.to(device))


@dataclass
class Ticking:
    """Stands for `time` in the clock: it moves when told."""

    now: float = 100.0

    def monotonic(self) -> float:
        return self.now


class Toy(Trainer[nn.Module]):
    """Two linear layers that learn to return their input; a step takes `step_s` on the clock."""

    kind, weights = "toy", "toy.bin"

    def __init__(self, settings: LearnSettings, *, ranks: Ranks = ALONE, clock: Ticking | None = None, step_s: float = 6.0,
                 most: int | None = None) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH)), settings, CPU, ranks)
        self.clock, self.step_s, self.most = clock, step_s, most
        self.rates: list[float] = []
        self.seen: list[int] = []

    def batches(self, start: int, stop: int) -> AbstractContextManager[Iterable[Rows]]:
        return Ahead(self.make, start, stop)

    def make(self, step: int) -> Rows:
        rows = self.ranks.rows(self._settings.batch)
        x = torch.randn(self._settings.batch, WIDTH, generator=generator(1, step, CPU))
        return Rows(step, rows, x[rows.start : rows.stop])

    def loss(self, batch: Rows, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        self.seen.append(len(batch.x))
        error = (self.model(batch.x) - batch.x).square().mean(1)
        if self.most is not None and len(batch.x) > self.most:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {len(batch.x)} GiB.\nand a page more")
        return error.mean(), {"first row": batch.x.new_tensor(float(batch.rows.start)), "twice": 2 * error.mean().detach()}

    def step(self, batch: Any, step: int, lr: float, **wishes: Any) -> Any:
        self.rates.append(lr)
        stepped = super().step(batch, step, lr, **wishes)
        if self.clock is not None:
            self.clock.now += self.step_s
        return stepped

    def write(self, file: Path, progress: Progress) -> None:
        file.write_bytes(b"".join(t.numpy().tobytes() for t in self.ema.model.state_dict().values()))

    def info(self, progress: Progress) -> dict[str, Any]:
        return {}

    def loss_facts(self) -> dict[str, Any]:
        return {"name": "square"}

    def spec(self) -> dict[str, int] | None:
        return None

    def sample(self, out: Path, step: int) -> None:
        pass


def toy_settings(**options: Any) -> LearnSettings:
    usual: dict[str, Any] = {"batch": BATCH, "steps": 1000, "device": "cpu", "threads": 1, "sample_every": 0, "log_every": 1,
                             "optimizer": {"lr": 1.0, "schedule": "cosine"}}
    return LearnSettings.model_validate(usual | options)


def learn(out: Path, settings: LearnSettings, *, say: Say = silent, ranks: Ranks = ALONE,
          make: Callable[[], Toy] | None = None) -> Manifest:
    """A run of the toy, from whatever `out` holds."""
    return Run(out, settings, settings.total_steps(1), (), Toy.kind, ranks, say).learn(make or (lambda: Toy(settings, ranks=ranks)))
