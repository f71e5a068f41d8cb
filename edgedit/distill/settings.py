"""What a training run is told: the paper's setup by default (science.md §1.1), presets by name, everything selectable."""

from __future__ import annotations

import math
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from edgedit.core.errors import UsageError, did_you_mean
from edgedit.core.settings import Settings, tomllib
from edgedit.core.spec import DiTSpec


def _none(value: Any) -> Any:
    """TOML has no null: "none" (and "native", for a resolution) say it."""
    return None if isinstance(value, str) and value.lower() in ("none", "native", "off", "") else value


class ModelSettings(Settings):
    """Sizes of the student; image side, channels and classes come from the pairs."""

    depth: int = 5
    width: int = 64
    heads: int = 8
    patch: int = 2
    mlp_ratio: int = 4

    def spec(self, shape: tuple[int, int, int], classes: int) -> DiTSpec:
        """The design for pairs of `shape` (C, H, W) in `classes` classes."""
        return DiTSpec(self.depth, self.width, self.heads, self.patch, shape[1], shape[0], classes, self.mlp_ratio)


class LpipsSettings(Settings):
    """The perceptual loss (science.md §9)."""

    net: Literal["vgg", "alex", "squeeze"] = "vgg"
    resolution: Annotated[Annotated[int, Field(ge=16)] | None, BeforeValidator(_none)] = 224
    """Side that both images are resized to, bilinear; None ("native") takes them as they are. 64 costs a twelfth of 224."""
    weights: Annotated[Path | None, BeforeValidator(_none)] = None
    """ImageNet weights of the trunk (torchvision's state dict); None lets torchvision find or download them."""


class LossSettings(Settings):
    """How far the student's image is from the teacher's."""

    name: Literal["l1", "l2", "lpips"] = "lpips"
    lpips: LpipsSettings = LpipsSettings()


class OptimizerSettings(Settings):
    """AdamW; the paper keeps the rate constant."""

    lr: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    grad_clip: Annotated[PositiveFloat | None, BeforeValidator(_none)] = None

    def lr_at(self, step: int, steps: int) -> float:
        """Rate of step 0 … steps-1: a linear rise over `warmup_steps`, then constant, or down to 0 at `steps`."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, steps - self.warmup_steps)
        return self.lr * {"constant": 1.0, "cosine": 0.5 + 0.5 * math.cos(math.pi * done), "linear": 1 - done}[self.schedule]


class TrainSettings(Settings):
    """Everything that `edgedit train` can be told."""

    setup: Literal["get"] = "get"
    model: ModelSettings = ModelSettings()
    loss: LossSettings = LossSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    batch: int = Field(default=256, ge=1)
    epochs: float = Field(default=100, gt=0)
    steps: Annotated[PositiveInt | None, BeforeValidator(_none)] = None
    """Overrides `epochs`."""
    ema_decay: float = Field(default=0.9999, ge=0, lt=1)
    ema_warmup: bool = True
    """Start-up correction: update t uses min(ema_decay, (1 + t) / (10 + t))."""
    label_dropout: float = Field(default=0.1, ge=0, le=1)
    seed: int = Field(default=0, ge=0, lt=1 << 64)
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    compile: bool = False
    device: str = "auto"
    threads: Annotated[PositiveInt | None, BeforeValidator(_none)] = None
    """CPU threads of torch; None leaves torch's choice."""
    loaders: Annotated[PositiveInt | None, BeforeValidator(_none)] = None
    """Threads that make batches ahead; None: 1 on a CPU, 4 on a GPU. The batches are the same for any number."""
    keep_last: int = Field(default=3, ge=1)
    checkpoint_every: int = Field(default=1000, ge=1)
    """Steps between checkpoints; one is also written after five minutes without."""
    sample_every: int = Field(default=5000, ge=0)
    """Steps between sample grids; 0 for none."""
    sample_guidance: float = 1.5
    log_every: int = Field(default=50, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _loss_by_name(cls, values: Any) -> Any:
        """`loss = "l1"` is short for `loss.name = "l1"`."""
        if isinstance(values, dict) and isinstance(values.get("loss"), str):
            return {**values, "loss": {"name": values["loss"]}}
        return values

    def total_steps(self, pairs: int) -> int:
        """Steps of the run over a set of `pairs` pairs: `steps`, or as many as `epochs` passes take, rounded up."""
        return self.steps or math.ceil(self.epochs * pairs / self.batch)


FREE = ("steps", "epochs", "device", "threads", "loaders", "keep_last", "checkpoint_every", "sample_every", "sample_guidance",
        "log_every", "loss.lpips.weights")
"""Settings that may differ when a run goes on: they do not change what a step does. (LPIPS weights are held by their hash.)"""


def changes(old: TrainSettings, new: TrainSettings) -> list[str]:
    """"optimizer.lr: 0.0001 → 0.0002" for every setting that differs and is not in FREE."""
    before, after = _flat(old.model_dump(mode="json")), _flat(new.model_dump(mode="json"))
    return [f"{key}: {before[key]} → {after[key]}" for key in after if key not in FREE and before[key] != after[key]]


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out


def presets() -> dict[str, dict[str, Any]]:
    """All presets by name: nested settings for `core.settings.resolve(base=…)`, and a sentence under "about"."""
    return tomllib.loads(files("edgedit.distill").joinpath("presets.toml").read_text(encoding="utf-8"))


def preset(name: str) -> dict[str, Any]:
    """Settings of one preset, nested; UsageError with the nearest name when there is none."""
    known = presets()
    if name not in known:
        raise UsageError(f"there is no preset '{name}'", fix=did_you_mean(name, known))
    return {key: value for key, value in known[name].items() if key != "about"}
