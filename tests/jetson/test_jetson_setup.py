"""jetson/setup.sh: what it changes on JetPack 6 and 7, that it says so first, and that a second run changes nothing."""

from __future__ import annotations

import pytest

from tests.jetson.script_board import SCRIPTS, ScriptBoard


@pytest.mark.parametrize(("jetpack", "tensorrt", "cuda", "dla"), [("6", "10.3.*", "12-6", True), ("7", "10.16.*", "13-2", False)])
def test_a_bare_board_gets_everything_and_a_second_run_changes_nothing(jetpack, tensorrt, cuda, dla, tmp_path):
    board = ScriptBoard(tmp_path, jetpack)
    first = board.run("setup.sh", "--yes")
    assert first.returncode == 0, first.stderr
    install = next(line for line in board.log if line.startswith("apt-get install"))
    assert f"python3-libnvinfer={tensorrt}" in install and f"cuda-nvcc-{cuda}" in install and "python3-venv" in install
    assert ("nvidia-l4t-dla-compiler" in install) == dla
    assert f"python3 -m venv --system-site-packages {board.home}/edgedit/venv" in board.log
    pip = [line for line in board.log if line.startswith("pip ")]
    assert f"{SCRIPTS.parent}[jetson] CUDA_ROOT={board.root}/usr/local/cuda" in pip[0] and "--force-reinstall --no-deps" in pip[1]
    assert board.log[-1] == "edgedit doctor"
    for line in board.as_root:
        assert f"+ sudo {line}" in first.stdout, "every change is printed"
    assert all(line.startswith("apt-get") for line in board.as_root)

    board.forget()
    second = board.run("setup.sh")
    assert second.returncode == 0 and "none: everything is there" in second.stdout
    assert board.log == ["edgedit doctor"] and board.as_root == []


def test_a_dry_run_prints_and_makes_no_change(tmp_path):
    board = ScriptBoard(tmp_path)
    done = board.run("setup.sh", "--dry-run", "--swap", "8", "--ort")
    assert done.returncode == 0 and "+ sudo apt-get install" in done.stdout and "+ sudo swapon" in done.stdout
    assert board.log == [] and not (board.home / "edgedit").exists()


def test_nobody_to_ask_means_no_change(tmp_path):
    board = ScriptBoard(tmp_path)
    done = board.run("setup.sh")
    assert done.returncode == 2 and "--yes" in done.stderr and board.log == []


@pytest.mark.parametrize("jetpack", ["5", "6.0", "7.1"])
def test_systems_that_cannot_are_refused(jetpack, tmp_path):
    board = ScriptBoard(tmp_path, jetpack)
    done = board.run("setup.sh", "--yes")
    assert done.returncode == 4 and "install JetPack 6.2 or 7.2" in done.stderr and board.log == []


def test_no_jetson_and_unknown_releases_are_refused(tmp_path):
    board = ScriptBoard(tmp_path)
    release = board.root / "etc/nv_tegra_release"
    release.write_text("something else\n")
    assert "not known" in board.run("setup.sh", "--yes").stderr
    release.unlink()
    assert "no Jetson" in board.run("setup.sh", "--yes").stderr


def test_the_module_is_asked_for_in_the_version_of_the_library(tmp_path):
    """Other repositories on JetPack 7 offer TensorRT 11 under the same names."""
    board = ScriptBoard(tmp_path, "7")
    board.mark("packages", "libnvinfer10")
    board.mark("version-libnvinfer10", "10.16.2.10-1+cuda13.2")
    board.run("setup.sh", "--yes")
    assert any("python3-libnvinfer=10.16.2.10-1+cuda13.2" in line for line in board.log)


def test_a_cut_run_goes_on_where_it_was(tmp_path):
    board = ScriptBoard(tmp_path)
    fails = board.mark("pip-fails")
    first = board.run("setup.sh", "--yes")
    assert first.returncode == 1 and "run this again" in first.stderr and "edgedit doctor" not in board.log
    fails.unlink()
    board.forget()
    assert board.run("setup.sh", "--yes").returncode == 0
    assert not any(line.startswith(("apt-get", "python3 -m venv")) for line in board.log)
    assert sum(line.startswith("pip ") for line in board.log) == 2


def test_apt_that_fails_stops_it(tmp_path):
    board = ScriptBoard(tmp_path)
    board.mark("apt-fails")
    done = board.run("setup.sh", "--yes")
    assert done.returncode == 100 and "failed" in done.stderr and not any(line.startswith("pip") for line in board.log)


def test_an_environment_that_hides_the_system_is_opened(tmp_path):
    board = ScriptBoard(tmp_path)
    board.run("setup.sh", "--yes")
    config = board.home / "edgedit/venv/pyvenv.cfg"
    config.write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    done = board.run("setup.sh", "--yes")
    assert "include-system-site-packages = true" in config.read_text() and "+ sed" in done.stdout


def test_another_source_is_installed_anew(tmp_path):
    board = ScriptBoard(tmp_path)
    board.run("setup.sh", "--yes")
    board.forget()
    wheel = tmp_path / "edgedit-9-py3-none-any.whl"
    wheel.write_bytes(b"x")
    board.run("setup.sh", "--yes", "--source", str(wheel))
    assert sum("edgedit-9-py3-none-any.whl" in line for line in board.log) == 2


@pytest.mark.parametrize(("jetpack", "index"), [("6", "jp6/cu126"), ("7", "sbsa/cu132")])
def test_onnxruntime_comes_from_the_index_for_orin(jetpack, index, tmp_path):
    board = ScriptBoard(tmp_path, jetpack)
    board.run("setup.sh", "--yes", "--ort")
    assert any(f"--index-url https://pypi.jetson-ai-lab.io/{index}/+simple/ onnxruntime-gpu" in line for line in board.log)
    board.forget()
    assert "none" in board.run("setup.sh", "--ort").stdout


def test_a_swap_file_is_made_once(tmp_path):
    board = ScriptBoard(tmp_path)
    board.run("setup.sh", "--yes", "--swap", "8")
    file = board.root / "swapfile-edgedit"
    assert [line.split()[0] for line in board.log if "swapfile" in line] == ["fallocate", "mkswap", "swapon"]
    assert oct(file.stat().st_mode)[-3:] == "600"
    assert (board.root / "etc/fstab").read_text().splitlines()[-1] == f"{file} none swap sw 0 0"
    board.forget()
    assert "none: everything" in board.run("setup.sh", "--swap", "8").stdout
    assert len((board.root / "etc/fstab").read_text().splitlines()) == 3


def test_other_swap_on_a_disk_is_left_alone_and_no_file_is_promised_to_fstab(tmp_path):
    board = ScriptBoard(tmp_path)
    (board.root / "proc/swaps").write_text("Filename Type Size\n/dev/nvme0n1p3 partition 1\n")
    done = board.run("setup.sh", "--dry-run", "--swap", "8")
    assert done.returncode == 0 and "mkswap" not in done.stdout and "fstab" not in done.stdout


def test_as_root_no_sudo_is_needed(tmp_path):
    board = ScriptBoard(tmp_path, uid=0)
    done = board.run("setup.sh", "--yes")
    assert done.returncode == 0 and board.as_root == [] and any(line.startswith("apt-get install") for line in board.log)


def test_the_doctors_word_is_the_exit_status(tmp_path):
    board = ScriptBoard(tmp_path)
    board.mark("edgedit-doctor", "1")
    assert board.run("setup.sh", "--yes").returncode == 1


@pytest.mark.parametrize("arguments", [("--swap", "much"), ("--venv",), ("--nonsense",)])
def test_wrong_arguments(arguments, tmp_path):
    done = ScriptBoard(tmp_path).run("setup.sh", *arguments)
    assert done.returncode == 2 and "error:" in done.stderr
