"""Times of a training run."""

from __future__ import annotations

import time

from edgedit.learn.state import Progress

_SAY_S = 0.5


class Clock:
    """Monotonic times of a run."""

    def __init__(self, progress: Progress) -> None:
        now = time.monotonic()
        self._start = self._save = self._said = self._tick = now
        self._before, self._step = progress.wall_s, progress.step

    def wall_s(self) -> float:
        """Time spent over all starts."""
        return self._before + time.monotonic() - self._start

    def since_start(self) -> float:
        """Seconds since this start, above 0."""
        return max(time.monotonic() - self._start, 1e-9)

    def rate(self, step: int, batch: int) -> float:
        """Images per second since the last call."""
        now = time.monotonic()
        rate = (step - self._step) * batch / max(now - self._tick, 1e-9)
        self._tick, self._step = now, step
        return rate

    def since_save(self) -> float:
        """Seconds since the last checkpoint."""
        return time.monotonic() - self._save

    def saved(self) -> None:
        """A checkpoint was written."""
        self._save = time.monotonic()

    def time_to_say(self) -> bool:
        """True about twice a second."""
        now = time.monotonic()
        if now - self._said < _SAY_S:
            return False
        self._said = now
        return True
