"""Rooms that can be called: `edgedit.design("5M")`, though Python binds the name `edgedit.design` to the module."""

from __future__ import annotations

import inspect
from importlib import import_module
from types import ModuleType
from typing import Any


class Room(ModuleType):
    """A module whose call and signature are those of one function in it, imported when it is asked for.

    A room says `class _Room(Room): where, function = "edgedit.design.stage", "design"` and makes that its module's class.
    """

    where: str
    function: str

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._found()(*arguments, **options)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._found())

    def _found(self) -> Any:
        return getattr(import_module(self.where), self.function)
