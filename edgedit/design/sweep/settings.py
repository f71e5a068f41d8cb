"""What a sweep is told beside its table: how far budgets are cut, which stages run, what all rows are set to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, PositiveFloat, PositiveInt

from edgedit.core.errors import UsageError
from edgedit.core.settings import Settings

STAGES = ("train", "evaluate", "export", "profile")
"""Every stage of a row. Export and evaluation follow training, the profile follows the export."""


class Budget(Settings):
    """Cuts of what the table asks for; None leaves it. Every row of the result says what was cut."""

    steps: PositiveInt | None = None
    """Optimiser steps of each training."""
    epochs: PositiveFloat | None = None
    """Passes over the pairs."""
    images_seen: PositiveInt | None = None
    """Images of each training, over all steps; rounded up to whole batches."""
    minutes: PositiveFloat | None = None
    """Of each training, over all its starts (`edgedit train --minutes`): a falling rate ends with them."""
    pairs_limit: PositiveInt | None = None
    """Train on the first so many pairs."""
    profile_images: PositiveInt | None = None
    evaluate_images: int | None = Field(default=None, ge=2)

    def check(self) -> None:
        """Raise UsageError where two cuts say how long a training is."""
        given = [f"--{name.replace('_', '-')} {value:g}" for name in ("steps", "epochs", "images_seen") if (value := getattr(self, name))]
        if len(given) > 1:
            raise UsageError("steps, epochs and images seen are three ways to say how long to train", saw=", ".join(given),
                             fix="give one of them; --minutes may come on top")


class ClusterSettings(Settings):
    """What jobs ask a Ray cluster for; None is found out: a whole GPU, or where there is none a whole node's processors."""

    cpus: PositiveFloat | None = None
    gpus: float | None = Field(default=None, ge=0)
    retries: int = Field(default=5, ge=0)
    """How often a job is begun again because its node went away."""


class SweepSettings(Settings):
    """Everything that `edgedit sweep` can be told beside the table, the pairs and the folder."""

    budget: Budget = Budget()
    stages: tuple[str, ...] = STAGES
    rows: tuple[str, ...] = ()
    """Names of the rows to run; empty: all."""
    teacher: Path | None = None
    """Teacher of the rows that need one (setup dmd)."""
    device: str | None = None
    """What latency is predicted for: a known device or a device file; None: the known device that the records are of."""
    train: dict[str, Any] = Field(default={})
    """Settings of every row's training, as `edgedit train --set` names them; they win over the table's."""
    evaluate: dict[str, Any] = Field(default={})
    export: dict[str, Any] = Field(default={})
    profile: dict[str, Any] = Field(default={})
    cluster: ClusterSettings = ClusterSettings()
