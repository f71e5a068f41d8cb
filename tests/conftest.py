"""Settings of the whole suite."""

from __future__ import annotations

import os

# Several test processes share the cores: one thread each, and none that spins while it waits.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
