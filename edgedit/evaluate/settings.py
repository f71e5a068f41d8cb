"""Settings of an evaluation, and which metrics there are."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from edgedit.core.settings import Settings
from edgedit.learn.settings import Optional

Metric = Literal["fid", "is", "kid", "pr", "accuracy", "spread", "nearest", "teacher"]
METRICS: tuple[Metric, ...] = ("fid", "is", "kid", "pr", "accuracy", "spread", "nearest", "teacher")
NETWORK: tuple[Metric, ...] = ("fid", "is", "kid", "pr")
"""Metrics on features of the Inception network."""
AGAINST: tuple[Metric, ...] = ("fid", "kid", "pr", "spread", "nearest")
"""Metrics that compare with a reference."""
RAW: tuple[Metric, ...] = ("kid", "pr", "spread", "nearest")
"""Metrics for which the reference's statistics are not enough: they need its images."""


class PerceptualSettings(Settings):
    """The LPIPS of metric `teacher`: which of the many. The record has it with the hashes of its weights."""

    net: Literal["auto", "squeeze", "alex", "vgg", "none"] = "auto"
    """auto: the net whose weights are here, given or cached; without any, LPIPS is left out, which is said."""
    resolution: Annotated[Annotated[int, Field(ge=16)] | None, Optional] = 64
    """Side that both images are resized to, bilinear; None ("native") takes them as they are."""
    weights: str | None = None
    """torchvision's state dict of the net."""


class EvaluateSettings(Settings):
    """What to measure, on how many images, with which networks."""

    free: ClassVar[tuple[str, ...]] = ("batch", "device", "extractor_weights", "classifier", "lpips")
    """Settings that may differ when an evaluation goes on: weights are compared by their hash instead."""

    metrics: tuple[Metric, ...] = Field(default=("fid", "is"), min_length=1)
    count: int | None = Field(default=None, ge=2)
    """Images of the source; None: all. Of a source that holds more, a random subset."""
    reference_count: int | None = Field(default=None, ge=2)
    """Images of the reference; None: all."""
    subset_seed: int = Field(default=0, ge=0, lt=1 << 32)
    """Of the random subsets."""
    tap: Literal["auto", "64", "192", "768", "2048"] = "auto"
    """Layer of the Inception network: 2048 is FID's; auto takes it, or 768 where the weights file ends there."""
    extractor_weights: str | None = None
    """The network's weights; None: torch-fidelity's published file, downloaded once."""
    classifier: str | None = None
    """Weights of a CIFAR ResNet, for `accuracy`."""
    lpips: PerceptualSettings = PerceptualSettings()
    """For `teacher`. (What came of it is compared by its own facts.)"""
    is_splits: int = Field(default=10, ge=1)
    kid_subsets: int = Field(default=100, ge=1)
    kid_subset_size: int = Field(default=1000, ge=2)
    neighbours: int = Field(default=3, ge=1)
    """k of precision and recall."""
    chunk: int = Field(default=250, ge=2)
    """Images between two saves of what was computed so far."""
    batch: int = Field(default=50, ge=1)
    """Images a pass of a network."""
    device: str = "auto"

    def identity(self) -> dict[str, Any]:
        """What decides the result: all settings but the free ones, metrics in their usual order."""
        values = {k: v for k, v in self.model_dump(mode="json").items() if k not in self.free}
        return {**values, "metrics": [m for m in METRICS if m in self.metrics]}

    def wants(self, *metrics: Metric) -> bool:
        """Whether any of these metrics is asked for."""
        return any(m in self.metrics for m in metrics)
