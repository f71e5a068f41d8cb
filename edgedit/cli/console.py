"""What the user sees: progress on stderr, one result line and the next command on stdout, or JSON for scripts."""

from __future__ import annotations

import json
import os
import sys
import time
from types import TracebackType
from typing import Any

from edgedit.core.say import Event

_PLAIN_EVERY_S = 10.0


class Console:
    """Renders a stage's events and its result; of the processes that torchrun starts, the first one speaks.

    Args:
        as_json: print one JSON object on stdout instead of the result line; progress stays on stderr.
    """

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self._mute = os.environ.get("RANK", "0") != "0"
        self._live = sys.stderr.isatty()
        self._clock: dict[str, tuple[float, float]] = {}  # text → (first seen, last printed)
        self._line = ""
        self._finished = ""  # text of the bar that ended last: it is not shown twice

    def __enter__(self) -> Console:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end_line()

    def __call__(self, event: Event, /) -> None:
        if event.total is None or event.done is None:
            self.note(("warning: " if event.level == "warning" else "") + event.text)
            return
        if event.done >= event.total and event.text == self._finished:
            return
        self._finished = ""
        now = time.monotonic()
        first, printed = self._clock.get(event.text, (now, float("-inf")))
        finished = event.done >= event.total
        if finished or now - printed >= (0.1 if self._live else _PLAIN_EVERY_S):
            self._show(_progress_line(event, now - first), finished)
            printed = now
        self._clock[event.text] = (first, printed)
        if finished:
            self._clock.pop(event.text)
            self._finished = event.text

    def note(self, text: str) -> None:
        """A sentence on stderr."""
        if self._mute:
            return
        self._end_line()
        print(text, file=sys.stderr, flush=True)

    def done(self, text: str, *, following: str | None = None, data: dict[str, Any] | None = None) -> None:
        """The one-line result, then the command that usually follows; with --json the data alone."""
        if self._mute:
            return
        self._end_line()
        if self.as_json:
            print(json.dumps(data or {}, indent=1, ensure_ascii=False, default=str))
            return
        print(text)
        if following:
            print(f"next: {following}")

    def _show(self, line: str, finished: bool) -> None:
        if self._mute:
            return
        if not self._live:
            print(line, file=sys.stderr, flush=True)
            return
        sys.stderr.write("\r" + line.ljust(len(self._line)))
        sys.stderr.write("\n" if finished else "")
        sys.stderr.flush()
        self._line = "" if finished else line

    def _end_line(self) -> None:
        if self._line:
            sys.stderr.write("\n")
            self._line = ""


def _progress_line(event: Event, seconds: float) -> str:
    done, total = event.done or 0, event.total or 0
    share = done / total if total else 1.0
    rate = (done - event.started) / seconds if seconds > 0.2 else 0.0
    counted = event.unit != "%"
    parts = [f"{event.text:<14} {share:4.0%}" + (f" {done:,}/{total:,} {event.unit}" if counted else "")]
    if rate > 0:
        parts += [f"{rate:,.1f} {event.unit}/s"] if counted else []
        parts.append(f"ETA {duration((total - done) / rate)}" if done < total else f"in {duration(seconds)}")
    parts += [f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in event.values.items()
              if v is not None and k != "images_per_s"]  # the rate stands there already
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 2 h 5 min."""
    s = round(seconds)
    if s < 60:
        return f"{s} s"
    return f"{s // 60} min {s % 60} s" if s < 3600 else f"{s // 3600} h {s % 3600 // 60} min"


def dotted(tree: dict[str, Any], prefix: str = "") -> list[str]:
    """Lines "optimizer.lr = 0.002" of a nested mapping: the names that --set takes."""
    lines = []
    for key, value in tree.items():
        name = f"{prefix}{key}"
        lines += dotted(value, f"{name}.") if isinstance(value, dict) else [f"{name} = {value}"]
    return lines
