"""Reaching the board: every way in which it fails, through a real sshd; and the connection itself."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from edgedit.core.errors import EdgeditError, MissingError, OutputError
from edgedit.core.say import silent
from edgedit.remote import rsync
from edgedit.remote.board import Board
from edgedit.remote.failures import Unreachable
from edgedit.remote.ssh import Connection


def kind_of(target, timeout_s=5):
    with pytest.raises(Unreachable) as caught, Connection(target, timeout_s=timeout_s):
        pass
    return caught.value.kind


def test_ways_not_to_reach_a_board(fake):
    assert kind_of(fake.reach(key="other")) == "denied"
    assert kind_of(fake.reach(port=1)) == "refused"
    assert kind_of(fake.reach(host="no-such-board.invalid")) == "name"
    assert kind_of(fake.reach(options=("Foo=bar",))) == "options"


def test_a_board_that_accepts_and_says_nothing_times_out(fake):
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        assert kind_of(fake.reach(port=mute.getsockname()[1]), timeout_s=1) == "timeout"


def test_host_keys_unknown_and_changed(fake):
    try:
        fake.know_host(None)
        assert kind_of(fake.target) == "host-key-unknown"
        fake.know_host("other")
        assert kind_of(fake.target) == "host-key-changed"
    finally:
        fake.know_host("host")


def test_a_key_that_others_may_read_is_named(fake, tmp_path):
    key = tmp_path / "open"
    shutil.copy(fake.key, key)
    key.chmod(0o644)
    assert kind_of(fake.reach(key=str(key))) == "key-file"


@pytest.mark.parametrize("tool", ["ssh", "rsync"])
def test_this_host_without_the_tools(tool, fake, tmp_path, monkeypatch):
    for name in {"ssh", "rsync"} - {tool}:
        (tmp_path / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match=f"this host has no {tool}"), Connection(fake.target):
        pass


def test_one_login_serves_all_and_ends_with_the_connection(fake):
    with Connection(fake.target) as connection:
        board = Board(connection, patience_s=0, say=silent)
        for _ in range(3):
            board.ask("status", folder=str(fake.home), name="none")
        assert len(fake.connections()) == 1
        folder = connection._folder
    assert folder is not None and not folder.exists()


def test_names_with_every_odd_character_arrive_whole(fake):
    name = "it's a \"$(touch /tmp/x)\" `id` \\ ; & * ~ ü\n.txt"
    with Connection(fake.target) as connection:
        board = Board(connection, patience_s=0, say=silent)
        seen = board.run(["printf", "%s", name], cwd="/")
        assert seen == {"rc": 0, "out": name, "err": ""}
        board.ask("make", folders=[str(fake.home / name)])
        assert (fake.home / name).is_dir()
        source = fake.folder / "odd source's"
        source.mkdir()
        (source / "a b").write_text("1")
        rsync.push(connection, source, str(fake.home / name), say=silent)
        assert (fake.home / name / "a b").read_text() == "1"


def test_a_login_shell_that_prints_does_no_harm_to_questions(fake):
    (fake.home / ".bashrc").write_text("echo WELCOME; echo @edgedit not json at all > /dev/stderr\n")
    try:
        with Connection(fake.target) as connection:
            assert Board(connection, patience_s=0, say=silent).run(["echo", "hi"], cwd="/")["out"] == "hi\n"
    finally:
        (fake.home / ".bashrc").unlink()


def test_a_board_without_python_or_rsync(fake, tmp_path):
    python = fake.bin / "python3"
    kept = python.read_text()
    source = tmp_path / "file"
    source.write_text("x")
    try:
        with Connection(fake.target) as connection:
            fake.tool("python3", "#!/bin/sh\necho \"bash: line 1: python3: command not found\" >&2; exit 127\n")
            with pytest.raises(MissingError, match="no python3"):
                Board(connection, patience_s=0, say=silent).ask("facts", folder="~", root="/")
            fake.tool("rsync", "#!/bin/sh\necho \"bash: line 1: rsync: command not found\" >&2; exit 127\n")
            with pytest.raises(MissingError, match="no rsync"):
                rsync.push(connection, source, str(fake.home), say=silent)
    finally:
        fake.tool("python3", kept)
        (fake.bin / "rsync").unlink(missing_ok=True)


@contextlib.contextmanager
def small_disk(place: Path, size_kb: int):
    """A file system of this size at `place`; skips where mounting is not allowed."""
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_kb}k", "tmpfs", str(place)], capture_output=True, text=True,
                          check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_on_the_board(fake, tmp_path):
    source = tmp_path / "big"
    source.write_bytes(os.urandom(300_000))
    with small_disk(fake.home / "small", 64) as place, Connection(fake.target) as connection:
        board = Board(connection, patience_s=0, say=silent)
        with pytest.raises(OutputError, match="the disk is full"):
            board.push(source, str(place))
        for stray in place.glob("**/*"):
            if stray.is_file():
                stray.unlink()
        (place / "filler").write_bytes(b"x" * 8192 * 7)
        with contextlib.suppress(OSError), (place / "filler").open("ab") as rest:
            while True:
                rest.write(b"x" * 512)
                rest.flush()
        with pytest.raises(OutputError, match="No space left"):
            board.ask("remember", folder=str(place), step="x", value="y" * 9000)


def test_a_transfer_that_is_cut_goes_on(fake, tmp_path, monkeypatch):
    """The connection dies in the middle of rsync; what arrived is kept and the rest follows."""
    source = tmp_path / "folder"
    source.mkdir()
    (source / "model.bin").write_bytes(os.urandom(6_000_000))
    said, cut, kept = [], [], []
    with Connection(fake.target) as connection:
        def say(event):
            said.append(event)
            if event.level == "warning":  # the board's rsync puts aside what it has when its connection ends
                partial = target / rsync.PARTIAL / "model.bin"
                until = time.monotonic() + 10
                while time.monotonic() < until and not partial.is_file():
                    time.sleep(0.02)
                kept.append(partial.stat().st_size)
            if event.total and 0 < event.done < event.total and not cut:
                monkeypatch.setattr(rsync, "EXTRA", ())
                cut.append(fake.cut())
        board = Board(connection, patience_s=30, say=say)
        target = fake.home / "cut"
        board.ask("make", folders=[str(target)])
        monkeypatch.setattr(rsync, "EXTRA", ("--bwlimit=1500",))
        board.push(source, str(target))
    assert cut and cut[0] > 0 and kept and kept[0] > 0
    assert [e for e in said if e.level == "warning"]
    assert (target / "model.bin").read_bytes() == (source / "model.bin").read_bytes()


def test_an_error_of_the_boards_python_is_shown(fake):
    with Connection(fake.target) as connection, pytest.raises(EdgeditError, match="gave no answer"):
        Board(connection, patience_s=0, say=silent).ask("facts", nothing="of this kind")
