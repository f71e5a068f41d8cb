"""Settings of `edgedit build`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgedit.core.settings import Settings


class BuildSettings(Settings):
    """How to build an engine."""

    workspace_mb: int | None = Field(default=None, ge=16)
    """Limit of the builder's scratch memory; None takes what is free less a reserve, at most 1,024 MB on boards up to 8 GB."""
    attention: Literal["auto", "pattern", "iattention"] = "auto"
    """pattern: as the bundle holds it. iattention: TensorRT's own attention layer instead (≥ 10.14). auto: pattern, and iattention
    too where blocks that should have fused did not; the one with more fused blocks is kept."""
    optimization_level: int | None = Field(default=None, ge=0, le=5)
    """0 … 5; None leaves TensorRT's own, 3, on every board: fused attention is among the kernels that lower levels search less for.
    Where memory does not suffice, 2."""
    batch: int | None = Field(default=None, ge=1, le=4096)
    """Images a run: the largest and the one to tune for of a dynamic bundle; of a fixed one it can only be its own."""
