"""Runs the child that builds: listens to it, watches its memory, stops it on request, and is sure that it is gone."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from edgedit.core.files import output_error
from edgedit.core.say import Event, Say
from edgedit.core.stop import StopRequest
from edgedit.device.trt.engine import LOG_FILE
from edgedit.device.trt.failures import Outcome
from edgedit.device.trt.memory import available_mb, oom_kills, peak_mb
from edgedit.device.trt.progress import Phases

CHILD = "edgedit.device.trt.child"
ASK_S, TERMINATE_S = 10.0, 5.0
"""Seconds to follow the request to stop, then to follow SIGTERM; then SIGKILL."""
_LISTEN_S = 0.2


def run_child(request: dict[str, Any], folder: Path, *, text: str, say: Say, stop: StopRequest) -> Outcome:
    """Build one engine in a process of its own.

    Args:
        request: see `edgedit.device.trt.child`.
        folder: where build.log goes.
        text: heading of the progress events.
        stop: looked at a few times a second; once asked, the child is told, then terminated, then killed.

    Returns:
        how it ended; never a half-dead child, not even when this raises.
    """
    return _Run(request, folder, text, say, stop).result()


class _Run:
    """One child from start to end."""

    def __init__(self, request: dict[str, Any], folder: Path, text: str, say: Say, stop: StopRequest) -> None:
        self._text, self._say, self._stop = text, say, stop
        self._phases, self._start = Phases(), time.monotonic()
        self._done: dict[str, Any] | None = None
        self._failed: dict[str, Any] | None = None
        self._peak: int | None = None
        self._lowest: int | None = None
        self._asked: float | None = None
        self._signals, self._measured = 0, 0.0
        self._kills = oom_kills()
        self._pipe, theirs = os.pipe()
        try:
            with (folder / LOG_FILE).open("ab") as log:
                # A session of its own: Ctrl-C reaches this process alone, which then stops the child in order.
                self._child = subprocess.Popen([sys.executable, "-m", CHILD, str(theirs)], stdin=subprocess.PIPE, stdout=log,
                                               stderr=log, pass_fds=(theirs,), start_new_session=True,
                                               env={**os.environ, "PYTHONFAULTHANDLER": "1"})
        except OSError as error:
            os.close(self._pipe)
            raise output_error(folder, error) from error
        finally:
            os.close(theirs)
        with contextlib.suppress(BrokenPipeError):  # it died at once; its exit status will tell
            self._leash.write(json.dumps(request).encode() + b"\n")
            self._leash.flush()

    @property
    def _leash(self) -> Any:
        return self._child.stdin

    def result(self) -> Outcome:
        try:
            self._listen()
            while self._child.poll() is None:
                self._press()
                time.sleep(0.02)
        finally:
            if self._child.poll() is None:
                self._child.kill()
                self._child.wait()
            with contextlib.suppress(OSError):
                self._leash.close()
            os.close(self._pipe)
        before, after = self._kills, oom_kills()
        rose = None if before is None or after is None else after > before
        return Outcome(self._child.returncode, self._done, self._failed, self._phases.last, time.monotonic() - self._start, self._peak,
                       self._lowest, rose, self._stop.reason if self._asked is not None else "")

    def _listen(self) -> None:
        """Messages until the child closes its end, which its death does too."""
        rest = b""
        while True:
            self._press()
            self._measure()
            if not select.select([self._pipe], [], [], _LISTEN_S)[0]:
                self._show()
                continue
            piece = os.read(self._pipe, 1 << 16)
            if not piece:
                return
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                self._hear(json.loads(line))
            self._show()

    def _hear(self, message: dict[str, Any]) -> None:
        kind = message.pop("say")
        if kind == "start":
            self._phases.start(message["name"], message["parent"], message["steps"])
        elif kind == "step":
            self._phases.step(message["name"], message["step"])
        elif kind == "finish":
            self._phases.finish(message["name"])
        elif kind == "done":
            self._done = message
        elif kind == "failed":
            self._failed = message

    def _show(self) -> None:
        seconds = round(time.monotonic() - self._start)
        values = {"phase": self._phases.last or None, "elapsed": f"{seconds} s"}
        percent = 100 if self._done else min(99, int(100 * self._phases.fraction))
        self._say(Event(self._text, percent, 100, 0, "%", values))

    def _measure(self) -> None:
        if (now := time.monotonic()) - self._measured < _LISTEN_S:
            return
        self._measured = now
        for name, value, better in (("_peak", peak_mb(self._child.pid), max), ("_lowest", available_mb(), min)):
            known = getattr(self, name)
            if value is not None:
                setattr(self, name, value if known is None else better(known, value))

    def _press(self) -> None:
        """Let the leash go when asked to stop; insist when that is not followed."""
        if not self._stop:
            return
        now = time.monotonic()
        if self._asked is None:
            self._asked = now
            with contextlib.suppress(OSError):
                self._leash.close()
        elif self._signals == 0 and now - self._asked > ASK_S:
            self._signals = 1
            self._child.terminate()
        elif self._signals == 1 and now - self._asked > ASK_S + TERMINATE_S:
            self._signals = 2
            self._child.kill()
