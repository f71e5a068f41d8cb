"""A RAPL package whose counter rises at a known rate and wraps."""

from __future__ import annotations

import time
from pathlib import Path

from tests.fake_jetson import Ticking, write

RANGE_UJ = 3_000_000


class RaplDouble(Ticking):
    """A powercap tree with one package that draws `watts`; its counter moves every 5 ms and wraps after 3 J."""

    def __init__(self, root: Path, watts: float) -> None:
        self.root, self._watts = root, watts
        zone = "sys/class/powercap/intel-rapl:0"
        write(root, f"{zone}/name", "package-0\n")
        write(root, f"{zone}/max_energy_range_uj", f"{RANGE_UJ}\n")
        self._counter = write(root, f"{zone}/energy_uj", "0".ljust(11) + "\n")
        self._begin = time.monotonic()
        super().__init__(self._count)

    def _count(self) -> None:
        value = int((time.monotonic() - self._begin) * self._watts * 1e6) % RANGE_UJ
        with self._counter.open("r+b", buffering=0) as counter:
            counter.write((str(value).ljust(11) + "\n").encode())
