"""TensorRT's log: all of it into a stream, problems also kept for the error message. Import after `import_tensorrt`."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from typing import TextIO

import tensorrt as trt

_KEPT = 40


class Log(trt.ILogger):
    """A logger that TensorRT calls from several threads.

    Args:
        stream: gets every line from INFO up, flushed, since the process may be killed at any time; None keeps problems only.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        trt.ILogger.__init__(self)
        self._stream, self._start = stream, time.monotonic()
        self._problems: deque[str] = deque(maxlen=_KEPT)
        self._quiet = (trt.ILogger.VERBOSE,) if stream is not None else (trt.ILogger.VERBOSE, trt.ILogger.INFO)

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        """TensorRT's callback; must not raise."""
        if severity in self._quiet:
            return
        if severity != trt.ILogger.INFO:
            self._problems.append(f"{severity.name.lower()}: {msg.strip()}")
        if self._stream is not None:
            with contextlib.suppress(OSError, ValueError):  # a full disk is reported by whoever writes the engine
                self._stream.write(f"{time.monotonic() - self._start:9.3f} {severity.name:<7} {msg}\n")
                self._stream.flush()

    def problems(self, last: int = 6) -> list[str]:
        """The last warnings and errors; only the errors where there are any."""
        kept = list(self._problems)  # one step: other threads may add to it
        errors = [line for line in kept if not line.startswith("warning")]
        return (errors or kept)[-last:]
