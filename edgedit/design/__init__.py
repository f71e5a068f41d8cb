"""The design space: the paper's principles, what a design costs, how long it will take, and which one to take.

The room is called like the function that most people want of it, so it can be called: `edgedit.design("5M")` is
`edgedit.design.stage.design("5M")`.
"""

from __future__ import annotations

import sys

from edgedit.core.room import Room


class _Room(Room):
    where, function = "edgedit.design.stage", "design"


sys.modules[__name__].__class__ = _Room
