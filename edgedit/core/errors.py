"""Errors that say what happened, what was seen, and what to type next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EdgeditError(Exception):
    """Something the user can act on. The CLI prints it without a traceback and exits with `code`.

    Args:
        what: one sentence: what happened.
        saw: what was found instead of what was needed (a value, a path, a line).
        fix: what to type or change next.
    """

    code = 1
    echo = False
    """True where another process of the same run raised it and prints it."""

    def __init__(self, what: str, *, saw: object = None, fix: str | None = None) -> None:
        self.what, self.saw, self.fix = what, None if saw is None else str(saw), fix
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.what]
        if self.saw is not None:
            lines.append(f"  saw: {self.saw}")
        if self.fix is not None:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


class UsageError(EdgeditError):
    """A wrong option, setting or value: nothing was started."""

    code = 2


class ArtifactError(EdgeditError):
    """A folder or file is missing, truncated, altered or of the wrong kind."""

    code = 3


class MissingError(EdgeditError):
    """A package, runtime, device, weight file or data set is not there."""

    code = 4


class NumericsError(EdgeditError):
    """NaN, infinity or an impossible range where numbers should be finite."""

    code = 5


class OutputError(EdgeditError):
    """The output cannot be written: no permission, no space, something in the way."""

    code = 6


class Interrupted(EdgeditError):
    """Stopped on request (Ctrl-C, SIGTERM) after saving; the same command goes on."""

    code = 130


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`fix` text for an unknown name: the nearest known one, or the whole list."""
    known = [str(k) for k in known]
    close = difflib.get_close_matches(name.lower(), [k.lower() for k in known], n=1, cutoff=0.5)
    if close:
        nearest = next(k for k in known if k.lower() == close[0])
        return f"did you mean '{nearest}'? known: {', '.join(known)}"
    return f"known: {', '.join(known)}"
