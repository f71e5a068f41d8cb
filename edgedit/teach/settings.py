"""Settings of the stage "pairs"; apart from it, so that reading them does not load torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from edgedit.core.settings import Settings


class PairSettings(Settings):
    """Settings of the stage; all but `workers` decide the result."""

    teacher: Literal["ideal"] = "ideal"
    data: str = "digits"
    """ "digits", "cifar10", or a path (`edgedit.teach.data.load_data`)."""
    image: int | None = None
    """Side in pixels; default 16 for digits, 32 for the rest."""
    count: int = Field(default=4096, ge=1)
    seed: int = Field(default=0, ge=0, lt=1 << 64)
    start: int = Field(default=0, ge=0, lt=1 << 47)
    """Number of the first image: several machines can make parts of one seed's images."""
    shard_size: int = Field(default=2048, ge=1, le=1 << 20)
    batch: int = Field(default=256, ge=1)
    """Images sampled together. Sums are rounded differently in batches of another size, so it is part of the identity."""
    steps: int = Field(default=18, ge=2)
    sigma_min: float = Field(default=0.002, gt=0)
    sigma_max: float = Field(default=80.0, gt=0)
    rho: float = Field(default=7.0, gt=0)
    device: str = "cpu"
    """ "cpu" or a torch device such as "cuda"."""
    workers: int = Field(default=0, ge=0)
    """Processes; 0: one per core that this process may use (one on a GPU)."""

    def identity(self) -> dict[str, Any]:
        """What decides the result: everything but `workers`; a path as it was given."""
        return self.model_dump(exclude={"workers"})
