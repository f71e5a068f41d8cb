"""Rooms that can be called."""

from __future__ import annotations

import inspect

import pytest

import edgedit
import edgedit.design
import edgedit.report


def test_rooms_are_modules_and_functions() -> None:
    from edgedit.design.stage import design
    from edgedit.report.stage import report

    for room, function in ((edgedit.design, design), (edgedit.report, report)):
        assert inspect.ismodule(room) and inspect.signature(room) == inspect.signature(function)
    assert edgedit.design("0.42M").to_dict() == design("0.42M").to_dict()


def test_all_that_is_named_is_there() -> None:
    assert all(callable(getattr(edgedit, name)) for name in edgedit.__all__)
    with pytest.raises(AttributeError, match="no attribute 'reprot'"):
        _ = edgedit.reprot
