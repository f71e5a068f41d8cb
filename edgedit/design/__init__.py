"""The design space: the paper's principles, what a design costs, how long it will take, and which one to take.

The room is called like the function that most people want of it, so it can be called: `edgedit.design("5M")` is
`edgedit.design.stage.design("5M")`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgedit.design.stage import Designs


class _Room(ModuleType):
    """A module that can be called; Python binds `edgedit.design` to the module as soon as anything inside is imported."""

    def __call__(self, *arguments: Any, **options: Any) -> Designs:
        from edgedit.design.stage import design

        return design(*arguments, **options)


sys.modules[__name__].__class__ = _Room
