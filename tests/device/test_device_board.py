"""Board knowledge, read from fake trees of two releases and from a host's, and the judgement of steadiness."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedit.device.board import clocks_locked, overcurrent_counts, package_versions, read_environment, temperatures
from edgedit.device.jetpack import parse_release, read_power_modes, version_numbers
from edgedit.device.sysfs import container, is_jetson
from edgedit.device.throttle import Throttle, snapshot, throttle_verdicts
from tests.fake_jetson import build_tree, write


@pytest.mark.parametrize(("release", "jetpack", "l4t", "kernel"), [
    ("jp6", "6.2", "36.4.3", "5.15"), ("jp7", "7.2", "39.2.0", "6.8")])
def test_environment_of_an_orin_nano(tmp_path: Path, release: str, jetpack: str, l4t: str, kernel: str) -> None:
    e = read_environment(build_tree(tmp_path, release))
    assert (e.jetpack, e.l4t, e.gpu, e.cpu) == (jetpack, l4t, "Orin (sm_87)", "Cortex-A78AE")
    assert e.board == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super" and kernel in e.os
    assert (e.power_mode, e.power_mode_id, e.clocks_locked, e.gpu_clock_hz) == ("MAXN_SUPER", 2, True, 1_020_000_000)
    assert e.temperature_c == {"cpu-thermal": 48.5, "gpu-thermal": 49.25, "tj-thermal": 49.5}  # cv0 is off
    assert e.cpu_governor == "schedutil" and e.extra["swap_used_mb"] == 1 and e.extra["memory_total_mb"] == 7619
    assert e.extra["overcurrent_counts"] == {"oc1": 0, "oc2": 0, "oc3": 0} and e.sm_count is None


def test_environment_of_an_empty_tree_is_unknown_not_zero(tmp_path: Path) -> None:
    e = read_environment(tmp_path)
    unknown = (e.board, e.jetpack, e.l4t, e.gpu, e.power_mode, e.power_mode_id, e.clocks_locked, e.gpu_clock_hz, e.cpu_governor)
    assert unknown == (None,) * 9 and e.temperature_c == {} and e.extra == {} and e.cpu and e.cpu_count >= 1


def test_environment_of_a_host_with_an_nvidia_gpu(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", "processor\t: 0\nmodel name\t: Fast CPU 9000\n")
    write(tmp_path, "proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ: 5\n")
    e = read_environment(tmp_path)
    assert e.cpu == "Fast CPU 9000" and e.gpu == "NVIDIA H100 80GB HBM3" and e.board is None


def test_real_machine_is_readable() -> None:
    e = read_environment()
    assert e.packages["numpy"] and e.machine and e.os


def test_packages_are_told_without_import() -> None:
    assert set(package_versions(("numpy", "no-such-package"))) == {"numpy"}


@pytest.mark.parametrize(("text", "l4t", "jetpack"), [
    ("# R36 (release), REVISION: 4.3, GCID: 1", "36.4.3", "6.2"), ("# R36 (release), REVISION: 5.0", "36.5.0", "6.2.2"),
    ("# R39 (release), REVISION: 2.1", "39.2.1", "7.2.1"), ("# R38 (release), REVISION: 4.0", "38.4.0", "7.1"),
    ("# R35 (release), REVISION: 4.1", "35.4.1", "5.1.2"), ("# R99 (release), REVISION: 1.2", "99.1.2", None)])
def test_releases(text: str, l4t: str, jetpack: str | None) -> None:
    release = parse_release(text)
    assert release is not None and (release.l4t, release.jetpack) == (l4t, jetpack) and release.major == int(l4t[:2])


@given(st.text())
def test_no_text_breaks_the_release_parser(text: str) -> None:
    release = parse_release(text)
    assert release is None or release.l4t
    assert isinstance(version_numbers(text), tuple)


def test_power_mode_names_come_from_the_board_not_from_the_id(tmp_path: Path) -> None:
    write(tmp_path, "etc/nvpmodel.conf", "< POWER_MODEL ID=0 NAME=15W >\n<POWER_MODEL ID=1 NAME=7W>\n# < POWER_MODEL\n")
    write(tmp_path, "var/lib/nvpmodel/status", "pmode:0001 fmode:fanNull\n")
    modes = read_power_modes(tmp_path)
    assert modes.names == {0: "15W", 1: "7W"} and modes.live == "7W"
    write(tmp_path, "var/lib/nvpmodel/status", "pmode:0002\n")
    assert read_power_modes(tmp_path).live is None and read_power_modes(tmp_path).live_id == 2


def test_clocks(tmp_path: Path) -> None:
    assert clocks_locked(build_tree(tmp_path / "pinned")) is True
    assert clocks_locked(build_tree(tmp_path / "free", locked=False)) is False
    assert clocks_locked(tmp_path) is None


def test_a_zone_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    build_tree(tmp_path)
    write(tmp_path, "sys/class/thermal/thermal_zone0/temp", "")
    assert "cpu-thermal" not in temperatures(tmp_path)


@pytest.mark.parametrize(("file", "text", "kind"), [(".dockerenv", "", "docker"), ("run/.containerenv", "", "podman"), (
    "proc/1/cgroup", "0::/kubepods/pod1", "kubernetes"), ("proc/1/cgroup", "0::/init.scope", None)])
def test_containers(tmp_path: Path, file: str, text: str, kind: str | None) -> None:
    write(tmp_path, file, text)
    assert container(tmp_path) == kind


def test_a_board_is_a_jetson_with_or_without_its_release_file(tmp_path: Path) -> None:
    root = build_tree(tmp_path)
    (root / "etc/nv_tegra_release").unlink()
    assert is_jetson(root) and not is_jetson(tmp_path / "nowhere")
    write(tmp_path, "pi/proc/device-tree/model", "Raspberry Pi 5\0")
    assert not is_jetson(tmp_path / "pi")


# --- steadiness ---------------------------------------------------------------------------------------------------------------


def codes(before: Throttle, after: Throttle) -> list[str]:
    return [v.code for v in throttle_verdicts(before, after)]


def test_steady_run_has_no_verdict(tmp_path: Path) -> None:
    state = snapshot(build_tree(tmp_path))
    assert state.limit_c["tj-thermal"] == 99 and state.jetson and codes(state, state) == []


def test_over_current_between_two_snapshots(tmp_path: Path) -> None:
    before = snapshot(build_tree(tmp_path))
    write(tmp_path, "sys/class/hwmon/hwmon1/oc2_event_cnt", "7\n")
    assert overcurrent_counts(tmp_path)["oc2"] == 7
    (verdict,) = throttle_verdicts(before, snapshot(tmp_path))
    assert verdict.code == "throttled" and "oc2 +7" in verdict.text and verdict.fix


def test_thermal_throttling_of_a_host(tmp_path: Path) -> None:
    count = "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count"
    write(tmp_path, count, "3\n")
    before = snapshot(tmp_path)
    write(tmp_path, count, "5\n")
    assert "cpu package +2" in throttle_verdicts(before, snapshot(tmp_path))[0].text


def test_heat_mode_and_clocks(tmp_path: Path) -> None:
    state = snapshot(build_tree(tmp_path))
    assert codes(state, replace(state, temperature_c={"tj-thermal": 98.5})) == ["hot", "not-warm"]
    assert codes(state, replace(state, temperature_c={"tj-thermal": 55.0})) == []
    assert codes(state, replace(state, power_mode_id=0)) == ["mode-changed"]
    assert codes(state, replace(state, locked=False)) == ["clocks-free"]
    assert codes(replace(state, jetson=False), replace(state, locked=False)) == []
