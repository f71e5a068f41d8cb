"""What the training of a U-Net teacher is told; its defaults follow EDM's CIFAR-10 runs (science.md §6), scaled down."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from edgedit.core.settings import Settings, find_preset, read_presets
from edgedit.learn.settings import LearnSettings, OptimizerSettings


class UNetSettings(Settings):
    """Sizes of the network (`edgedit.model.unet.UNetSpec`); image side, channels and classes come from the data."""

    width: int = 64
    multipliers: tuple[int, ...] = (1, 2)
    blocks: int = 2
    attention: tuple[int, ...] = (8,)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    patch: int = 2


class TeacherSettings(LearnSettings):
    """Everything that `edgedit teacher train` can be told."""

    free: ClassVar[tuple[str, ...]] = (*LearnSettings.free, "sample_guidance", "data", "compile")
    """Beside the free ones of any run. (Data are held by their hash; compiled or not, a step differs by rounding alone.)"""

    data: str = "cifar10"
    image: int | None = None
    unet: UNetSettings = UNetSettings()
    optimizer: OptimizerSettings = OptimizerSettings(lr=1e-3, weight_decay=0.0, betas=(0.9, 0.99), warmup_steps=500, grad_clip=1.0)
    ema_decay: float = Field(default=0.9993, ge=0, lt=1)
    batch: int = Field(default=128, ge=1)
    flips: bool = True
    """Mirror every second image, left to right. Digits and letters should not be."""
    label_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of images taught without their class, so that pairs can be made with guidance."""
    log_sigma_mean: float = -1.2
    log_sigma_std: float = Field(default=1.2, gt=0)
    """ln σ of training noise is Gaussian with these (EDM table 1: P_mean, P_std)."""
    sample_guidance: float = 1.0


def unet_presets() -> dict[str, dict[str, Any]]:
    """All presets by name, as `core.settings.read_presets`."""
    return read_presets("edgedit.teach", "unets.toml")


def unet_preset(name: str) -> dict[str, Any]:
    """Settings of one preset, nested; UsageError with the nearest name when there is none."""
    return find_preset(unet_presets(), name)
