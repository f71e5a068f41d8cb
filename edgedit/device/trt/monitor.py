"""TensorRT's progress monitor: says phases as they come and stops the build when asked. Import after `import_tensorrt`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import tensorrt as trt

_EVERY_S = 0.1


class Monitor(trt.IProgressMonitor):
    """Called from TensorRT's threads. It must outlive the builder configuration that holds it.

    Args:
        send: gets one plain dictionary a message, from one thread at a time.
        stop: once set, the next completed step ends the build, which then gives no engine.
    """

    def __init__(self, send: Callable[[dict[str, Any]], None], stop: threading.Event) -> None:
        trt.IProgressMonitor.__init__(self)
        self._send, self._stop, self._lock, self._said = send, stop, threading.Lock(), 0.0

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        """A phase begins."""
        with self._lock:
            self._send({"say": "start", "name": phase_name, "parent": parent_phase, "steps": int(num_steps)})

    def phase_finish(self, phase_name: str) -> None:
        """A phase ends."""
        with self._lock:
            self._send({"say": "finish", "name": phase_name})

    def step_complete(self, phase_name: str, step: int) -> bool:
        """A step is complete; False ends the build. Steps come fast: some are not said."""
        with self._lock:
            now = time.monotonic()
            if now - self._said >= _EVERY_S:
                self._said = now
                self._send({"say": "step", "name": phase_name, "step": int(step)})
        return not self._stop.is_set()
