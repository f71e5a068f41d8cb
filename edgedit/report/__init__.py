"""Records, sweeps, parity ladders and training runs as one self-contained HTML page, with Markdown, CSV and JSON beside it.

The room can be called: `edgedit.report(["sweep"], "report.html")` is `edgedit.report.stage.report(…)`.
"""

from __future__ import annotations

import sys

from edgedit.core.room import Room


class _Room(Room):
    where, function = "edgedit.report.stage", "report"


sys.modules[__name__].__class__ = _Room
