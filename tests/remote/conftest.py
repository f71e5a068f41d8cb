"""One board a module: starting sshd and making keys takes a moment."""

from __future__ import annotations

import pytest

from tests.remote.fake_board import FakeBoard, need_ssh


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    need_ssh()
    board = FakeBoard(tmp_path_factory.mktemp("board"))
    yield board
    board.stop()
