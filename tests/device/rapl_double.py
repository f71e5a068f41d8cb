"""A RAPL package whose counter rises at a known rate and wraps."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from tests.fake_jetson import write

RANGE_UJ = 3_000_000


class RaplDouble:
    """A powercap tree with one package that draws `watts`; its counter moves every 5 ms and wraps after 3 J."""

    def __init__(self, root: Path, watts: float) -> None:
        self.root, self._watts, self._stop = root, watts, threading.Event()
        zone = "sys/class/powercap/intel-rapl:0"
        write(root, f"{zone}/name", "package-0\n")
        write(root, f"{zone}/max_energy_range_uj", f"{RANGE_UJ}\n")
        self._counter = write(root, f"{zone}/energy_uj", "0".ljust(11) + "\n")
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> RaplDouble:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        begin = time.monotonic()
        descriptor = os.open(self._counter, os.O_WRONLY)
        try:
            while not self._stop.wait(0.005):
                value = int((time.monotonic() - begin) * self._watts * 1e6) % RANGE_UJ
                os.pwrite(descriptor, (str(value).ljust(11) + "\n").encode(), 0)
        finally:
            os.close(descriptor)
