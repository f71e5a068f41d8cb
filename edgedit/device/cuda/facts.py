"""What a GPU is, as far as an engine and a measurement depend on it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GpuFacts:
    """One CUDA device.

    Attributes:
        name: as the driver gives it ("Orin").
        compute_capability: (8, 7) is sm_87.
        sm_count: streaming multiprocessors switched on now; the 7 W modes of an Orin Nano switch some off.
        memory_mb, free_mb: MiB that CUDA sees, and what is free; on a Jetson the page cache counts as used.
        integrated: shares its memory with the CPU.
        driver: CUDA version of the driver, "12.6".
    """

    name: str
    compute_capability: tuple[int, int]
    sm_count: int
    memory_mb: int
    free_mb: int
    integrated: bool
    driver: str

    @property
    def architecture(self) -> str:
        """`sm_87` for (8, 7)."""
        return "sm_{}{}".format(*self.compute_capability)
