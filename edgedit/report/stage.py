"""Stage "report": folders in, a page out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgedit.core.say import Say, silent
from edgedit.report.page import ReportResult, ReportSettings, write_report


def report(sources: str | Path | Sequence[str | Path], out: str | Path, settings: ReportSettings | None = None, *,
           say: Say = silent) -> ReportResult:
    """Make a report of one folder or several: sweeps, records, parity ladders, students. See `write_report`."""
    folders = [sources] if isinstance(sources, str | Path) else list(sources)
    return write_report([Path(folder) for folder in folders], Path(out), settings, say=say)
