"""What needs no board: words of ssh and rsync, quoting, facts, lines of progress, the wheel."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgedit
from edgedit.core.errors import MissingError, OutputError, UsageError
from edgedit.remote import onboard, steps
from edgedit.remote.facts import BoardFacts, check, check_compiler
from edgedit.remote.failures import disk_full, rsync_failure, ssh_failure
from edgedit.remote.job import event_of
from edgedit.remote.rsync import shell_argument
from edgedit.remote.ssh import Target
from edgedit.remote.wheel import own_wheel

ORIN = BoardFacts("/home/jetson/edgedit", True, 20_000, "aarch64", "3.10.12", True, True, "/usr/bin/rsync", "36.4.3",
                  "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super")

SAID = {
    "name": "ssh: Could not resolve hostname orin: Name or service not known",
    "refused": "ssh: connect to host orin port 22: Connection refused",
    "timeout": "ssh: connect to host orin port 22: Connection timed out",
    "route": "ssh: connect to host orin port 22: No route to host",
    "denied": "jetson@orin: Permission denied (publickey,password).",
    "host-key-unknown": "No ED25519 host key is known for orin and you have requested strict checking.\r\nHost key verification failed.",
    "host-key-changed": "@@@@@@@@@\n@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\n@@@@@@@@@\nHost key verification failed.",
    "key-file": "@@@@\n@         WARNING: UNPROTECTED PRIVATE KEY FILE!          @\n@@@@\njetson@orin: Permission denied (publickey).",
    "closed": "kex_exchange_identification: read: Connection reset by peer",
    "options": "command-line: line 0: Bad configuration option: foo",
    "other": "something never seen",
}


@pytest.mark.parametrize("kind", SAID)
def test_ssh_errors_are_told_apart(kind):
    error = ssh_failure(SAID[kind], host="orin", board="jetson@orin", ssh="-p 2222 jetson@orin", known="[orin]:2222")
    assert error.kind == kind
    assert error.fix and "{" not in error.fix + error.what
    assert error.again == (kind in ("refused", "timeout", "route", "closed"))


def test_a_changed_host_key_names_the_entry_to_remove():
    error = ssh_failure(SAID["host-key-changed"], host="orin", board="orin", ssh="orin", known="[orin]:2222")
    assert "ssh-keygen -R '[orin]:2222'" in (error.fix or "")


@pytest.mark.parametrize("text", ["-oProxyCommand=touch x", "a b", "user@", "@host", "host;id", "", "user@-x", "us er@host", "host\n",
                                  "$(id)"])
def test_what_ssh_could_take_for_an_option_or_a_shell_for_a_command_is_no_board(text):
    with pytest.raises(UsageError):
        Target.parse(text)


def test_targets():
    assert Target.parse("jetson@orin.local").path("/x y") == "jetson@orin.local:/x y"
    assert Target.parse("jetson@fe80::1%eth0").path("/x") == "jetson@[fe80::1%eth0]:/x"
    assert str(Target.parse("10.0.0.5")) == "10.0.0.5"
    with pytest.raises(UsageError, match="Name=value"):
        Target.parse("orin", options=("-v",))
    with pytest.raises(UsageError, match="key file"):
        Target.parse("orin", identity=Path("/nowhere/key"))


ECHO = "import sys, json; json.dump(sys.argv[1:], open(sys.argv[1], 'w'))"


@settings(max_examples=15, deadline=None)
@given(words=st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12), max_size=4))
def test_rsync_splits_the_remote_shell_as_it_was_meant(words, tmp_path_factory):
    import json
    import shutil

    if shutil.which("rsync") is None:
        pytest.skip("rsync is not installed")
    seen = tmp_path_factory.mktemp("rsh") / "it's seen"
    command = [sys.executable, "-c", ECHO, str(seen), *words]
    subprocess.run(["rsync", "-e", shell_argument(command), "host:x", "y"], capture_output=True, check=False)
    assert json.loads(seen.read_text())[: 1 + len(words)] == [str(seen), *words]


def test_rsync_errors():
    full = rsync_failure(11, 'rsync: [receiver] write failed on "/x/y": No space left on device (28)\nrsync error: (code 11)', where="/x")
    assert isinstance(full, OutputError) and "No space left" in str(full.saw)
    assert "disk is full" in rsync_failure(11, "", where="/x").what
    assert isinstance(rsync_failure(12, "bash: line 1: rsync: command not found\nrsync error: code 12", where="/x"), MissingError)
    assert "shell" in rsync_failure(2, "protocol version mismatch -- is your shell clean?", where="/x").what
    assert isinstance(rsync_failure(23, "rsync: mkdir failed: Permission denied (13)", where="/x"), OutputError)
    assert rsync_failure(12, "rsync: connection unexpectedly closed (0 bytes received so far)", where="/x") is None
    assert rsync_failure(-9, "", where="/x") is None
    assert disk_full("all is well", "/x") is None


@pytest.mark.parametrize(("change", "error", "words"), [
    ({"rsync": None}, MissingError, "sudo apt install rsync"),
    ({"ensurepip": False}, MissingError, "sudo apt install python3-venv"),
    ({"python": "3.8.10"}, MissingError, "3.8.10"),
    ({"l4t": "35.6.1"}, MissingError, "JetPack 6.1 or newer"),
    ({"l4t": "36.3.0"}, MissingError, "JetPack 6.1 or newer"),
    ({"free_mb": 900}, OutputError, "wanted 1,000 MB"),
    ({"writable": False}, OutputError, "--dir"),
])
def test_boards_that_cannot_do_are_refused_with_the_fix(change, error, words):
    check(ORIN, 1000)
    with pytest.raises(error) as caught:
        check(replace(ORIN, **change), 1000)
    assert words in str(caught.value)


def test_a_board_that_cannot_compile_pycuda_is_told_so_before_pip_tries():
    check_compiler(replace(ORIN, nvcc="/usr/local/cuda/bin/nvcc"))
    check_compiler(replace(ORIN, pycuda=True))
    with pytest.raises(MissingError, match="nvidia-jetpack"):
        check_compiler(ORIN)


@pytest.mark.parametrize(("line", "l4t", "jetpack"), [
    ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic", "36.4.3", "6"), ("# R36 (release), REVISION: 4.0", "36.4.0", "6"),
    ("# R36 (release), REVISION: 3.0", "36.3.0", None), ("# R39 (release), REVISION: 2.1", "39.2.1", "7"), (None, None, None)])
def test_releases(line, l4t, jetpack):
    answer = {**vars(ORIN), "release": line}
    del answer["l4t"]
    facts = BoardFacts.from_answer(answer)
    assert (facts.l4t, facts.jetpack_major) == (l4t, jetpack)


def test_the_runtime_follows_the_board():
    assert ORIN.runtime("auto") == "trt" and replace(ORIN, tensorrt=False).runtime("auto") == "ort"
    with pytest.raises(MissingError, match="libnvinfer"):
        replace(ORIN, tensorrt=False).runtime("trt")


def test_what_pip_installs_fits_board_and_runtime(tmp_path):
    places = steps.Places("/home/jetson/edgedit", "0" * 64)

    def text(runtime, offline=None, **changes):
        return "\n".join(" ".join(c) for c in steps.Wheels(tmp_path / "edgedit-1-py3-none-any.whl", offline, runtime)
                         .commands(places, replace(ORIN, **changes)))

    assert "edgedit-1-py3-none-any.whl[jetson]" in text("trt") and "onnxruntime" not in text("trt")
    assert "jp6/cu126/+simple/ onnxruntime-gpu" in text("ort") and "[cpu]" not in text("ort")
    assert "sbsa/cu132/+simple/ onnxruntime-gpu" in text("ort", l4t="39.2.0")
    assert "[cpu]" in text("ort", l4t=None)
    assert text("trt", offline=tmp_path).count("--no-index") == 2 and "/wheels/offline" in text("trt", offline=tmp_path)


def test_lines_of_the_boards_console_become_events_again():
    first: dict[str, int] = {}
    event = event_of("profile         45% 22,500/50,000 images  256.1 images/s  ETA 1 min 47 s  power_mw 8100", first)
    assert (event.text, event.done, event.total, event.started, event.unit) == ("board: profile", 22500, 50000, 22500, "images")
    assert event_of("profile         50% 25,000/50,000 images", first).started == 22500
    assert event_of("warning: unstable: CoV 77 %", {}).level == "warning"
    assert event_of("anything else", {}).done is None


@given(st.text(max_size=60))
def test_no_line_breaks_the_reading_of_progress(line):
    assert event_of(line, {}).text.startswith("board: ")


def test_the_wheel_is_this_package_and_the_same_twice(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = own_wheel(tmp_path / "a"), own_wheel(tmp_path / "b")
    names = zipfile.ZipFile(first).namelist()
    assert first.name == f"edgedit-{edgedit.__version__}-py3-none-any.whl"
    assert {"edgedit/cli/__init__.py", "edgedit/remote/onboard.py", "edgedit/distill/presets.toml"} <= set(names)
    assert not [name for name in names if "__pycache__" in name]
    if names == zipfile.ZipFile(second).namelist():  # the checkout may be edited meanwhile
        assert first.stat().st_size == second.stat().st_size
    metadata = zipfile.ZipFile(first).read(f"edgedit-{edgedit.__version__}.dist-info/METADATA").decode()
    assert "Requires-Dist: numpy" in metadata and "Provides-Extra: jetson" in metadata


def test_the_program_for_the_board_is_plain_enough_for_its_python():
    """Python 3.8 of JetPack 5 must parse it, so that it can be told that it is too old."""
    import ast

    source = Path(onboard.__file__).read_text()
    ast.parse(source, feature_version=(3, 8))
    assert "import edgedit" not in source and "from edgedit" not in source
