"""Settings of any training run: length, optimiser, precision, devices, how often to save and to tell."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt

from edgedit.core.settings import Settings

S = TypeVar("S", bound="LearnSettings")


def none_word(value: Any) -> Any:
    """TOML has no null: "none" (and "native", for a resolution) say it."""
    return None if isinstance(value, str) and value.lower() in ("none", "native", "off", "") else value


Optional = BeforeValidator(none_word)


class OptimizerSettings(Settings):
    """The paper's is AdamW, its rate constant."""

    name: Literal["adamw", "muon"] = "adamw"
    """muon: the matrices inside the network by `learn.muon`, everything else by AdamW; it bears rates several times higher."""
    lr: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    grad_clip: Annotated[PositiveFloat | None, Optional] = None

    def lr_at(self, step: int, steps: int, spent: float = 0.0) -> float:
        """Rate of step 0 … steps-1: a linear rise over `warmup_steps`, then constant, or down to 0 at the end.

        Args:
            step: steps taken before.
            steps: of the whole run.
            spent: share of the run's minutes that is used, 0 … 1. The end is that of whichever budget is nearer to it, so the
                rate falls to 0 with the minutes too.
        """
        done = max((step - self.warmup_steps) / max(1, steps - self.warmup_steps), min(spent, 1.0))
        shape = {"constant": 1.0, "cosine": 0.5 + 0.5 * math.cos(math.pi * done), "linear": 1 - done}[self.schedule]
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps * shape
        return self.lr * shape


class LearnSettings(Settings):
    """What all training runs can be told."""

    free: ClassVar[tuple[str, ...]] = ("steps", "epochs", "minutes", "micro_batch", "device", "threads", "loaders", "keep_last",
                                       "checkpoint_every", "sample_every", "log_every")
    """Settings that may differ when a run goes on: they do not change what a step does (`micro_batch` by rounding alone, and with
    dropout by other masks)."""

    optimizer: OptimizerSettings = OptimizerSettings()
    batch: int = Field(default=256, ge=1)
    """Images a step, over all processes."""
    epochs: float = Field(default=100, gt=0)
    steps: Annotated[PositiveInt | None, Optional] = None
    """Overrides `epochs`."""
    minutes: Annotated[PositiveFloat | None, Optional] = None
    """Time to train, over all starts, compiling, sampling and saving included; the run is finished when it is used up or the steps
    are taken, whichever is first. A falling rate follows whichever is further (`OptimizerSettings.lr_at`), so it ends at 0 either
    way. With more minutes a finished run goes on, at the rate that the new budget has at that point: at half the minutes, a
    cosine's half. Where the clock decides, two runs are not equal to the bit."""
    micro_batch: Annotated[PositiveInt | None, Optional] = None
    """Images that a process takes at a time, gradients adding up over its rows of the batch; None: all at once, until memory does
    not hold them, then half as many, and so on."""
    ema_decay: float = Field(default=0.9999, ge=0, lt=1)
    ema_warmup: bool = True
    """Start-up correction: update t uses min(ema_decay, (1 + t) / (10 + t))."""
    seed: int = Field(default=0, ge=0, lt=1 << 64)
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    compile: bool = False
    device: str = "auto"
    threads: Annotated[PositiveInt | None, Optional] = None
    """CPU threads of torch; None leaves torch's choice."""
    loaders: Annotated[PositiveInt | None, Optional] = None
    """Threads that make batches ahead; None: 1 on a CPU, 4 on a GPU. The batches are the same for any number."""
    keep_last: int = Field(default=3, ge=1)
    checkpoint_every: int = Field(default=1000, ge=1)
    """Steps between checkpoints; one is also written after five minutes without."""
    sample_every: int = Field(default=5000, ge=0)
    """Steps between sample grids; 0 for none."""
    log_every: int = Field(default=50, ge=1)

    def total_steps(self, count: int) -> int:
        """Steps of the run over a set of `count` examples: `steps`, or as many as `epochs` passes take, rounded up."""
        return self.steps or math.ceil(self.epochs * count / self.batch)


def changes(old: S, new: S) -> list[str]:
    """"optimizer.lr: 0.0001 → 0.0002" for every setting that differs and is not free to."""
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    keys = [*before, *(k for k in after if k not in before)]
    return [f"{key}: {before.get(key)} → {after.get(key)}" for key in keys if key not in new.free and before.get(key) != after.get(key)]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out
