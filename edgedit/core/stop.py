"""Ctrl-C and SIGTERM as a wish to stop, so that what was measured, made or learnt so far is kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from edgedit.core.errors import Interrupted


@dataclass
class StopRequest:
    """Whether to stop.

    Attributes:
        reason: "Ctrl-C" or "SIGTERM" once asked, else "".
        deferred: while True a first signal is only noted, for code that looks at `reason` between steps and must not be
            cut in the middle; while False it raises KeyboardInterrupt at once. A second signal always raises.
    """

    reason: str = ""
    deferred: bool = False

    def __bool__(self) -> bool:
        return bool(self.reason)


@contextmanager
def stop_on_signals(*, deferred: bool = False) -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a `StopRequest` for the length of the block; the handlers before are put back.

    Python lets only the main thread set handlers: elsewhere the request stays unasked.
    """
    stop = StopRequest(deferred=deferred)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        again = bool(stop.reason)
        stop.reason = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        if again or not stop.deferred:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interruptible(stage: str, kept: str) -> Iterator[None]:
    """Raise `Interrupted` where Ctrl-C or SIGTERM strikes in the block.

    Args:
        stage: whose message it is: "pairs", "evaluate".
        kept: what is not lost: "finished shards are in runs/pairs.partial".
    """
    with stop_on_signals() as stop:
        try:
            yield
        except KeyboardInterrupt:
            raise Interrupted(f"{stage}: stopped by {stop.reason or 'Ctrl-C'}", saw=kept,
                              fix="run the same command again to go on") from None
