"""jetson/bench.sh: one command from bundle to report, resumed in the folder it began in."""

from __future__ import annotations

import pytest

from tests.jetson.script_board import ScriptBoard, bundle


@pytest.fixture
def board(tmp_path):
    board = ScriptBoard(tmp_path, uid=0)
    edgedit = board.home / "edgedit/venv/bin/edgedit"
    edgedit.parent.mkdir(parents=True)
    edgedit.symlink_to(board.bin / "venv-edgedit")
    return board


def verbs(board):
    return [line.split()[1] for line in board.log if line.startswith("edgedit")]


def test_the_whole_protocol(board, tmp_path):
    made = bundle(tmp_path / "bundle")
    done = board.run("bench.sh", str(made), "--mode", "MAXN_SUPER", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert verbs(board) == ["doctor", "build", "profile", "report"]
    out = next((tmp_path / "runs").iterdir())
    assert out.name.startswith("bench-20") and out.name.endswith("-MAXN_SUPER")
    profile = next(line for line in board.log if "edgedit profile" in line)
    assert f"--runtime trt --images 50000 --batch 128 --power auto --out runs/{out.name}/record" in profile
    order = [line for line in board.log if line.startswith(("nvpmodel -m", "edgedit profile", "jetson_clocks --restore"))]
    assert order[0] == "nvpmodel -m 2" and order[1] == profile and order[-1] == "jetson_clocks --restore before"
    assert board.live == "25W" and board.clocks == "free"
    assert (board.root / "proc/sys/vm/drop_caches").read_text() == "3\n"
    assert (out / "done").exists() and (out / "doctor.txt").exists()


def test_a_cut_run_goes_on_in_its_folder_and_a_finished_one_is_not_touched(board, tmp_path):
    made = bundle(tmp_path / "bundle")
    board.mark("edgedit-profile", "130")
    assert board.run("bench.sh", str(made), cwd=tmp_path).returncode == 130
    assert board.clocks == "free" and "report" not in verbs(board)
    board.mark("edgedit-profile", "0")
    assert board.run("bench.sh", str(made), cwd=tmp_path).returncode == 0
    assert len(list((tmp_path / "runs").iterdir())) == 1
    assert board.run("bench.sh", str(made), cwd=tmp_path).returncode == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_without_a_mode_the_live_one_is_named(board, tmp_path):
    board.run("bench.sh", str(bundle(tmp_path / "bundle")), cwd=tmp_path)
    assert next((tmp_path / "runs").iterdir()).name.endswith("-25W")


@pytest.mark.parametrize(("verb", "after"), [("doctor", ["doctor"]), ("build", ["doctor", "build"])])
def test_what_fails_stops_it(verb, after, board, tmp_path):
    board.mark(f"edgedit-{verb}", "1")
    assert board.run("bench.sh", str(bundle(tmp_path / "bundle")), cwd=tmp_path).returncode != 0
    assert verbs(board) == after


def test_refusals(board, tmp_path):
    full = bundle(tmp_path / "full", "fp32")
    done = board.run("bench.sh", str(full), cwd=tmp_path)
    assert done.returncode == 2 and "--precision fp16" in done.stderr and verbs(board) == []
    assert board.run("bench.sh", str(full), "--any-precision", cwd=tmp_path).returncode == 0
    assert board.run("bench.sh", str(tmp_path / "nothing"), cwd=tmp_path).returncode == 3
    assert board.run("bench.sh", cwd=tmp_path).returncode == 2
    board.forget()
    wrong = board.run("bench.sh", str(full), "--any-precision", "--mode", "30W", cwd=tmp_path)
    assert wrong.returncode == 2 and "one of: 15W 25W MAXN_SUPER 7W" in wrong.stderr and verbs(board) == []
    half = bundle(tmp_path / "half")
    assert board.run("bench.sh", str(half), "--out", "here", cwd=tmp_path).returncode == 0
    other = board.run("bench.sh", str(half), "--out", "here", "--images", "10", cwd=tmp_path)
    assert other.returncode == 6 and "another measurement" in other.stderr
