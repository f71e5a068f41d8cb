"""Settings of the stages that make pairs; apart from them, so that reading them does not load torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from edgedit.core.settings import Settings

IDEAL = "ideal"
"""The teacher that needs no weights."""


class PairSettings(Settings):
    """Settings of the stage; all but `workers` decide the result."""

    teacher: str = IDEAL
    """ "ideal", or the folder of a teacher (`edgedit teacher train`, `edgedit teacher convert`)."""
    data: str = "digits"
    """Of the ideal teacher: "digits", "cifar10", or a path (`edgedit.teach.data.load_data`)."""
    image: int | None = None
    """Of the ideal teacher: side in pixels; default 16 for digits, 32 for the rest."""
    guidance: float = Field(default=1.0, ge=0)
    """Of a network trained with label dropout: D without class + guidance·(D with class - D without); 1.0 is none, and half the work."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Of a network; the sampler's state is float64 always."""
    compile: bool = False
    """Of a network: torch.compile."""
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
    device: str = "auto"
    """ "auto": a GPU for networks where there is one, else the CPU; "cpu", "cuda", "cuda:1" …"""
    workers: int = Field(default=0, ge=0)
    """Processes, of each torchrun process where there are some; 0: one per core that it may use (one on a GPU)."""

    def identity(self) -> dict[str, Any]:
        """What decides the result: everything but `workers`, the GPU's number, and what this teacher knows nothing of; paths as
        they were given."""
        foreign = {"guidance", "precision", "compile"} if self.teacher == IDEAL else {"data", "image"}
        return {**self.model_dump(exclude={"workers", *foreign}), "device": self.device.partition(":")[0]}


class ImportSettings(Settings):
    """Settings of the import of GET's pair files; all decide the result."""

    noise_scale: float = Field(default=1.0, gt=0)
    """Standard deviation of the noise in the files: GET keeps unit Gaussians; 80 where it was multiplied by sigma_max."""
    shard_size: int = Field(default=2048, ge=1, le=1 << 20)
