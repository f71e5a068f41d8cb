"""Power mode and clocks: set by name, read back, and put back in every case: also when processes are killed for real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from bundle_kit import make_bundle

from edgedit.core.errors import EdgeditError, MissingError, OutputError, UsageError
from edgedit.core.record import load_record
from edgedit.core.say import Event
from edgedit.core.settings import resolve
from edgedit.device import mode_state as kept
from edgedit.device.board import clocks_locked
from edgedit.device.clocks import gpu_clock
from edgedit.device.measure import ProfileSettings
from edgedit.device.modes import leftover, power_mode
from edgedit.device.nvpmodel import read_live_id
from edgedit.device.profile import profile
from edgedit.device.runtime import RuntimeChoice
from tests.fake_jetson import build_board, calls, install, install_tegrastats, knobs, write

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEDIT_SETTLE_S", "0.7")


def board(tmp_path: Path, name: str = "orin-nano-8gb-super", jetpack: str = "6.2", **options: object) -> Path:
    return build_board(tmp_path / "board", name, jetpack, **options)  # type: ignore[arg-type]


def state(root: Path) -> tuple[object, ...]:
    """Everything that a power mode and jetson_clocks touch."""
    gpu = gpu_clock(root)
    if gpu is None:
        return ()  # just being written
    policy = root / "sys/devices/system/cpu/cpufreq/policy0"
    return (read_live_id(root), gpu.low, gpu.high, (policy / "scaling_min_freq").read_text().strip(),
            (policy / "scaling_max_freq").read_text().strip())


def until(true: Callable[[], object], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise AssertionError("it did not come about")
        time.sleep(0.02)


# --- set and put back ---------------------------------------------------------------------------------------------------------


def test_nothing_asked_nothing_touched(tmp_path: Path) -> None:
    root = board(tmp_path)
    with power_mode(root) as setting:
        assert setting.mode is None and not setting.locked
    assert calls(root) == [] and not (root / "var/lib/edgedit").exists()


def test_mode_and_clocks_are_set_and_put_back(tmp_path: Path) -> None:
    root = board(tmp_path, mode=1)
    before, heard = state(root), list[Event]()
    with power_mode(root, "maxn_super", lock_clocks=True, say=heard.append) as setting:
        assert (setting.mode, setting.mode_id, setting.before, setting.locked) == ("MAXN_SUPER", 2, "25W", True)
        assert setting.gpu_range_hz == (1_020_000_000, 1_020_000_000)
        assert state(root) == (2, 1.02e9, 1.02e9, "1728000", "1728000") and clocks_locked(root)
        assert leftover(root) is not None and leftover(root)[2]  # type: ignore[index]
    assert state(root) == before and kept.load_state(root / "var/lib/edgedit") is None and leftover(root) is None
    assert calls(root) == [["jetson_clocks", "--store", "clocks-before.conf"], ["nvpmodel", "-m", "2"],
                           ["jetson_clocks", "--store", "clocks-within.conf"], ["jetson_clocks"],
                           ["jetson_clocks", "--restore", "clocks-within.conf"], ["nvpmodel", "-m", "1"],
                           ["jetson_clocks", "--restore", "clocks-before.conf"]]
    assert [e.text for e in heard] == ["power mode MAXN_SUPER (id 2, before 25W), clocks pinned", "the board is as it was: power mode 25W"]


def test_the_live_mode_is_not_set_again(tmp_path: Path) -> None:
    """nvpmodel may ask for a reboot even for the mode that is live already."""
    root = board(tmp_path, mode=1)
    knobs(root, nvpmodel="reboot")
    with power_mode(root, "25W") as setting:
        assert setting.mode_id == 1 and setting.before == "25W"
    assert calls(root) == []


def test_clocks_alone(tmp_path: Path) -> None:
    root = board(tmp_path, mode=0)
    before = state(root)
    with power_mode(root, lock_clocks=True) as setting:
        assert setting.mode == "15W" and state(root)[1:3] == (612e6, 612e6)
    assert state(root) == before and not any(call[0] == "nvpmodel" for call in calls(root))


def test_clocks_that_were_pinned_stay_pinned(tmp_path: Path) -> None:
    root = board(tmp_path, mode=2, locked=True)
    before = state(root)
    with power_mode(root, "15w"):
        assert state(root)[:3] == (0, 306e6, 612e6)
    assert state(root) == before and clocks_locked(root)


def test_an_exception_and_ctrl_c_put_the_board_back(tmp_path: Path) -> None:
    root = board(tmp_path, mode=1)
    before = state(root)
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), power_mode(root, "15W", lock_clocks=True):
            assert state(root)[0] == 0
            raise error
        assert state(root) == before


@pytest.mark.parametrize(("name", "jetpack", "mode", "wanted"), [
    ("orin-nano-8gb-super", "7.2.1", 1, "maxn"), ("orin-nano-4gb", "6.2", 0, "7w-ai"), ("orin-nx", "6.0", 3, "maxn"),
    ("agx-orin", "5.1.2", 0, "50w")])
def test_other_boards(tmp_path: Path, name: str, jetpack: str, mode: int, wanted: str) -> None:
    root = board(tmp_path, name, jetpack, mode=mode)
    before = state(root)
    with power_mode(root, wanted, lock_clocks=True) as setting:
        assert setting.mode_id != mode and clocks_locked(root)
    assert state(root) == before


def test_a_mode_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    root = board(tmp_path, mode=1)
    knobs(root, nvpmodel="late")
    with power_mode(root, "15W"):
        assert state(root)[0] == 0
    assert state(root)[0] == 1


# --- refused ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["30W", "2", "", "W"])
def test_unknown_names_list_the_boards_own(tmp_path: Path, name: str) -> None:
    root = board(tmp_path)
    with pytest.raises(UsageError) as raised, power_mode(root, name):
        pass
    assert "15W, 25W, MAXN_SUPER, 7W" in str(raised.value) and calls(root) == []


@pytest.mark.parametrize(("knob", "what", "saw"), [
    ("refuse", "nvpmodel refused power mode 15W", "failed to set power mode!"), ("silent", "nvpmodel refused", "fbp_pg_mask: 19"),
    ("reboot", "have to reboot for power mode 15W", "Reboot required"), ("stuck", "the live mode is not 15W", "id 1")])
def test_a_refused_mode_is_an_error_with_nvpmodels_words(tmp_path: Path, knob: str, what: str, saw: str) -> None:
    root = board(tmp_path, mode=1)
    before = state(root)
    knobs(root, nvpmodel=knob)
    with pytest.raises(EdgeditError) as raised, power_mode(root, "15W", lock_clocks=True):
        raise AssertionError("the block must not run")
    assert what in raised.value.what and saw in str(raised.value.saw) and "nvpmodel" in str(raised.value.fix)
    assert state(root) == before and leftover(root) is None and not (root / "fake_rebooted").exists()


def test_a_mode_that_could_not_be_left_without_a_reboot_is_refused_beforehand(tmp_path: Path) -> None:
    root = board(tmp_path, mode=1)
    with pytest.raises(EdgeditError, match="changing back needs a reboot") as raised, power_mode(root, "7W"):
        pass
    assert "TPC_POWER_GATING 240" in str(raised.value.saw) and "sudo nvpmodel -m 3, reboot" in str(raised.value.fix)
    assert calls(root) == []


def test_clocks_that_do_not_pin_are_an_error(tmp_path: Path) -> None:
    root = board(tmp_path, mode=1)
    before = state(root)
    knobs(root, jetson_clocks="stuck")
    with pytest.raises(EdgeditError, match="not pinned"), power_mode(root, "15W", lock_clocks=True):
        pass
    assert state(root) == before


def test_a_board_that_cannot_be_put_back_says_what_to_type(tmp_path: Path) -> None:
    root = board(tmp_path, mode=1)
    with pytest.raises(EdgeditError) as raised, power_mode(root, "15W"):
        knobs(root, nvpmodel="refuse")
    assert "not put back" in raised.value.what and "sudo nvpmodel -m 1 && sudo jetson_clocks --restore" in str(raised.value.fix)
    found = leftover(root)
    assert found is not None and found[0].before_name == "25W" and found[1] == raised.value.fix and not found[2]
    knobs(root)
    with power_mode(root, "15W"):  # the next run goes back to where the first one came from
        pass
    assert state(root)[0] == 1 and leftover(root) is None


def test_clocks_of_the_mode_that_do_not_go_back_do_not_keep_the_mode(tmp_path: Path) -> None:
    root = board(tmp_path, mode=1)
    before = state(root)
    with power_mode(root, "15W", lock_clocks=True):
        (root / "var/lib/edgedit/clocks-within.conf").write_text(f"{tmp_path}/no/such/file:1\n")
    assert state(root) == before and leftover(root) is None


def test_without_nvpmodel(tmp_path: Path) -> None:
    root = board(tmp_path)
    (root / "usr/sbin/nvpmodel").unlink()
    with pytest.raises(MissingError, match="no nvpmodel"), power_mode(root, "15W"):
        pass
    write(root, ".dockerenv", "")
    with pytest.raises(MissingError, match="outside the container"), power_mode(root, "15W"):
        pass
    with pytest.raises(MissingError, match="not known"), power_mode(tmp_path / "host", "15W"):
        pass


def test_two_at_once(tmp_path: Path) -> None:
    root = board(tmp_path, mode=1)
    with power_mode(root, "15W"):
        with pytest.raises(OutputError, match="another edgedit"), power_mode(root, "MAXN_SUPER"):
            pass
        assert state(root)[0] == 0
    assert state(root)[0] == 1


# --- rights -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sudo", [None, "no"])
def test_without_rights_the_error_says_what_to_type_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sudo: str | None) -> None:
    root = board(tmp_path, mode=1)
    monkeypatch.setenv("FAKE_UID", "1000")
    if sudo:
        install(root, "usr/bin/sudo")
    with pytest.raises(MissingError) as raised, power_mode(root, "15W", euid=1000):
        pass
    assert "sudo -v" in str(raised.value.fix) and "/etc/sudoers.d/edgedit" in str(raised.value.fix) and calls(root) == []


@pytest.mark.parametrize("sudo", ["rule", "given"])
def test_sudo_with_a_rule_or_a_password_given_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sudo: str) -> None:
    root = board(tmp_path, mode=1)
    before = state(root)
    monkeypatch.setenv("FAKE_UID", "1000")
    install(root, "usr/bin/sudo")
    knobs(root, sudo=sudo)
    with power_mode(root, "15W", lock_clocks=True, euid=1000):
        assert state(root)[0] == 0 and clocks_locked(root)
        if sudo == "given":
            knobs(root, sudo="forgotten")  # sudo forgets a password after some minutes
    assert state(root) == before


# --- killed -------------------------------------------------------------------------------------------------------------------

SCRIPT = """
import subprocess, sys, time
from pathlib import Path
from edgedit.device.modes import power_mode
with power_mode(Path(sys.argv[1]), "15W", lock_clocks=True):
    child = subprocess.Popen(["sleep", "30"])  # outlives a killed parent; must not keep the keeper's pipe open
    print(child.pid, flush=True)
    time.sleep(60)
"""


def start(root: Path) -> tuple[subprocess.Popen[str], int]:
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(root)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                               cwd=ROOT, start_new_session=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


@pytest.mark.parametrize(("number", "group"), [(signal.SIGKILL, False), (signal.SIGKILL, True), (signal.SIGTERM, False),
                                               (signal.SIGINT, True)])
def test_a_killed_process_leaves_the_board_as_it_was(tmp_path: Path, number: signal.Signals, group: bool) -> None:
    root = board(tmp_path, mode=1)
    before = state(root)
    process, child = start(root)
    assert state(root)[0] == 0 and clocks_locked(root)
    (os.killpg if group else os.kill)(process.pid, number)  # a terminal signals the group; the keeper has a session of its own
    process.wait(20)
    until(lambda: state(root) == before and leftover(root) is None)
    if not group:
        os.kill(child, signal.SIGKILL)
    assert calls(root)[-1] == ["jetson_clocks", "--restore", "clocks-before.conf"]


def test_a_process_killed_while_the_mode_is_being_set(tmp_path: Path) -> None:
    root = board(tmp_path, mode=1)
    before = state(root)
    knobs(root, nvpmodel="slow")
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(root)], cwd=ROOT, stdout=subprocess.DEVNULL)
    until(lambda: ["nvpmodel", "-m", "0"] in calls(root))
    process.kill()
    process.wait(20)
    until(lambda: ["nvpmodel", "-m", "1"] in calls(root) and state(root) == before and leftover(root) is None)


def test_a_killed_keeper_is_replaced_at_the_end(tmp_path: Path) -> None:
    root = board(tmp_path, mode=1)
    before = state(root)
    with power_mode(root, "15W", lock_clocks=True):
        keepers = [int(f.parent.name) for f in Path("/proc").glob("[0-9]*/cmdline") if str(os.getpid()) == _parent(f.parent)
                   and b"mode_keeper" in f.read_bytes()]
        assert len(keepers) == 1
        os.kill(keepers[0], signal.SIGKILL)
    assert state(root) == before and leftover(root) is None


def _parent(process: Path) -> str:
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[1]
    except OSError:
        return ""


def test_after_a_power_cut_the_state_says_what_to_type(tmp_path: Path) -> None:
    """A board keeps its power mode over a reboot, and loses pinned clocks."""
    root = board(tmp_path, mode=0)
    folder = root / "var/lib/edgedit"
    folder.mkdir(parents=True)
    kept.save_state(folder, kept.BoardState("an older boot", 1, "25W", 0, "15W", True, str(folder / "clocks-before.conf")))
    found = leftover(root)
    assert found is not None and found[1] == f"sudo nvpmodel -m 1 && sudo rm {folder / 'board.json'}"
    write(root, "var/lib/nvpmodel/status", "pmode:0001\n")
    assert leftover(root) is None
    (folder / "board.json").write_text(json.dumps({"format": 9}))
    assert leftover(root) is None


# --- profile ------------------------------------------------------------------------------------------------------------------


def options(**values: object) -> ProfileSettings:
    return resolve(ProfileSettings, options={"images": 8, "power": "none", "idle_s": 0.0, "warmup_batches": 0, "power_mode": "15w",
                                             "lock_clocks": True, **values})


def test_profile_measures_in_the_mode_that_was_asked_for(tmp_path: Path) -> None:
    root, bundle = board(tmp_path, mode=2), make_bundle(tmp_path / "b")
    before = state(root)
    install_tegrastats(root)
    record = profile(bundle, RuntimeChoice(threads=1), tmp_path / "r", options(power="ina3221", power_interval_s=0.001, min_seconds=0.5),
                     root=root)
    assert (record.environment.power_mode, record.environment.power_mode_id, record.environment.clocks_locked) == ("15W", 0, True)
    assert record.protocol.options["gpu_mhz_mean"] == 612 and "mode-changed" not in {v.code for v in record.verdicts}
    assert state(root) == before


def test_profile_refuses_before_it_measures(tmp_path: Path) -> None:
    root, bundle = board(tmp_path, mode=2), make_bundle(tmp_path / "b")
    with pytest.raises(UsageError, match="no power mode '50W'"):
        profile(bundle, RuntimeChoice(threads=1), tmp_path / "r", options(power_mode="50W"), root=root)
    assert not (tmp_path / "r").exists()


def test_profile_puts_the_board_back_when_it_is_stopped(tmp_path: Path) -> None:
    root, bundle = board(tmp_path, mode=2), make_bundle(tmp_path / "b")
    before = state(root)
    code = ("import sys; from pathlib import Path; from edgedit.device.measure import ProfileSettings; from edgedit.device.profile import "
            "profile\nsettings = ProfileSettings(images=50, power='none', idle_s=0, min_seconds=60, power_mode='15W', lock_clocks=True)\n"
            "profile(sys.argv[1], 'ort', sys.argv[2], settings, root=sys.argv[3], say=lambda e: print(e.text, e.done, flush=True))")
    process = subprocess.Popen([sys.executable, "-c", code, str(bundle), str(tmp_path / "r"), str(root)], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE)
    assert process.stdout is not None
    for text in process.stdout:
        if text.startswith("profile ") and text.split()[1] not in ("0", "None"):
            break  # some batches are done: there is something to keep
    process.terminate()
    process.wait(30)
    assert state(root) == before and leftover(root) is None and not load_record(tmp_path / "r").complete
