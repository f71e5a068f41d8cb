"""Board knowledge, read from fake trees of two releases and from a host's, and the judgement of steadiness."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedit.core.errors import UsageError
from edgedit.device.board import (
    clocks_locked,
    largest_free_block,
    memory_mb,
    overcurrent_counts,
    package_versions,
    read_environment,
    temperatures,
)
from edgedit.device.clocks import gpu_clock, memory_clock_hz
from edgedit.device.ina3221 import Ina3221Source
from edgedit.device.jetpack import parse_release, read_power_modes, read_release, version_numbers
from edgedit.device.nvpmodel import conf_file, parse_conf, parse_query, read_live_id, read_table
from edgedit.device.sysfs import container, is_jetson
from edgedit.device.throttle import Throttle, snapshot, throttle_verdicts
from tests.fake_jetson import BOARDS, MATRIX, RELEASES, build_board, build_tree, conf_text, write


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


@pytest.mark.parametrize(("name", "jetpack"), MATRIX)
def test_every_board_with_every_jetpack(tmp_path: Path, name: str, jetpack: str) -> None:
    root, board, release = build_board(tmp_path, name, jetpack), BOARDS[name], RELEASES[jetpack]
    e = read_environment(root)
    assert (e.jetpack, e.l4t, e.board, e.gpu) == (jetpack, release.l4t, board.model, "Orin (sm_87)")
    mode = next(m for m in board.modes if m.id == board.default)
    assert (e.power_mode, e.power_mode_id, e.clocks_locked) == (mode.name, mode.id, False)
    assert e.extra["power_modes"] == {str(m.id): m.name for m in board.modes}
    assert e.gpu_clock_hz == 306_000_000 and e.extra["gpu_clock_range_hz"][1] == (mode.gpu_mhz if mode.gpu_mhz > 0 else board.gpu_mhz) * 1e6
    assert e.extra["emc_clock_hz"] == 2133000000 and e.extra["emc_cap_hz"] == mode.emc_mhz * 1_000_000
    assert len(e.extra["cpu_clocks_khz"]) == -(-board.cores // 4) and max(e.temperature_c.values()) == 49.5
    assert e.extra["largest_free_block_mb"] == 4 and e.extra["largest_free_blocks"] == 850
    held = read_release(root)
    assert held is not None and held.python == release.python


@pytest.mark.parametrize("name", ["orin-nano-8gb", "orin-nx", "agx-orin"])
def test_total_power_of_each_board(tmp_path: Path, name: str) -> None:
    source = Ina3221Source(build_board(tmp_path, name, power_mw=8000))
    sample, total = source.read(), source.total([c.label for c in source.channels])
    source.stop()
    assert sample is not None and total is not None and total.known and sample.gpu_mhz == 306
    assert total.parts == (tuple(BOARDS[name].shares) if name == "agx-orin" else ("VDD_IN",))
    assert sum(sample.rails_mw[part] for part in total.parts) == pytest.approx(8000, abs=20)


def test_the_gpu_without_its_class_folder(tmp_path: Path) -> None:
    """A container may hide /sys/class; the platform device's own folder says the same."""
    for jetpack in ("5.1.2", "6.2", "7.2"):
        root = build_board(tmp_path / jetpack, "orin-nano-8gb", jetpack)
        (root / f"sys/class/devfreq/{RELEASES[jetpack].gpu_node}").unlink()
        clock = gpu_clock(root)
        assert clock is not None and (clock.low, clock.high, clock.now, clock.pinned) == (306e6, 624.75e6, 306e6, False)


def test_memory_clock_is_roots(tmp_path: Path) -> None:
    root = build_board(tmp_path)
    (root / "sys/kernel/debug/bpmp/debug/clk/emc/rate").unlink()
    assert memory_clock_hz(root) is None and "emc_clock_hz" not in read_environment(root).extra


def test_zram_is_counted_apart(tmp_path: Path) -> None:
    root = build_board(tmp_path)
    assert "zram_total_mb" not in memory_mb(root)
    write(root, "proc/swaps", "Filename Type Size Used Priority\n/dev/zram0 partition 1024000 2048 5\n/swapfile file 2048000 0 -2\n")
    assert memory_mb(root)["zram_total_mb"] == 1000 and memory_mb(root)["zram_used_mb"] == 2
    assert largest_free_block(tmp_path / "nowhere") is None


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
    ("# R35 (release), REVISION: 4.1", "35.4.1", "5.1.2"), ("# R35 (release), REVISION: 3.1", "35.3.1", "5.1.1"),
    ("# R35 (release), REVISION: 5.0", "35.5.0", "5.1.3"), ("# R35 (release), REVISION: 6.0", "35.6.0", "5.1.4"),
    ("# R35 (release), REVISION: 6.3", "35.6.3", "5.1.5"), ("# R35 (release), REVISION: 6.4", "35.6.4", "5.1.6"),
    ("# R36 (release), REVISION: 3.0", "36.3.0", "6.0"), ("# R36 (release), REVISION: 4.0", "36.4.0", "6.1"),
    ("# R36 (release), REVISION: 4.2", "36.4.2", "6.1"), ("# R36 (release), REVISION: 4.4", "36.4.4", "6.2.1"),
    ("# R36 (release), REVISION: 4.7", "36.4.7", "6.2.1"), ("# R38 (release), REVISION: 2.1", "38.2.1", "7.0"),
    ("# R39 (release), REVISION: 2.0", "39.2.0", "7.2"),
    ("# R39 (release), REVISION: 2.2", "39.2.2", None), ("# R99 (release), REVISION: 1.2", "99.1.2", None)])
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


names = st.from_regex(r"[A-Z0-9_]{1,12}", fullmatch=True)


@given(st.dictionaries(st.integers(0, 40), names, max_size=6), st.integers(0, 40), st.integers(-1, 2_000_000_000), st.integers(0, 255))
def test_any_configuration_of_the_grammar_is_read(modes: dict[int, str], default: int, hz: int, mask: int) -> None:
    blocks = "".join(f"< POWER_MODEL ID={n} NAME={name} >\nCPU_ONLINE CORE_0 1\n# no\nTPC_POWER_GATING TPC_PG_MASK {mask}\n"
                     f"GPU MAX_FREQ {hz}\n\n" for n, name in modes.items())
    table = parse_conf(f"< PARAM TYPE=CLOCK NAME=GPU >\nMAX_FREQ /sys/x\n\n{blocks}< PM_CONFIG DEFAULT={default} >\n")
    assert table.names == modes and table.default_id == default
    for mode in table.modes.values():
        assert mode.gpu_max_hz == (hz if hz > 0 else None) and mode.gates == {"TPC_POWER_GATING": mask}


@given(st.text())
def test_no_text_breaks_the_parsers_of_modes(text: str) -> None:
    parse_conf(text)
    parse_conf(f"< POWER_MODEL ID=1 NAME=a >\n{text}\n< PM_CONFIG DEFAULT=1 >")
    assert parse_query(text) is None or "NV Power Mode" in text


@given(st.integers(30, 99), st.integers(0, 99), st.integers(0, 99))
def test_any_release_line_is_read(major: int, minor: int, patch: int) -> None:
    release = parse_release(f"# R{major} (release), REVISION: {minor}.{patch}, GCID: 1, BOARD: generic")
    assert release is not None and release.l4t == f"{major}.{minor}.{patch}" and release.major == major


@pytest.mark.parametrize(("asked", "found"), [
    ("25W", "25W"), ("25w", "25W"), (" maxn-super ", "MAXN_SUPER"), ("MAXN super", "MAXN_SUPER"), ("max", "MAXN_SUPER"), ("7", None),
    ("1", None), ("", None), ("50W", None)])
def test_modes_are_found_by_name(asked: str, found: str | None) -> None:
    table = parse_conf(conf_text(BOARDS["orin-nano-8gb-super"], RELEASES["6.2"]))
    if found is None:
        with pytest.raises(UsageError, match="15W, 25W, MAXN_SUPER, 7W"):
            table.find(asked)
    else:
        assert table.find(asked).name == found


def test_names_of_other_boards() -> None:
    agx = parse_conf(conf_text(BOARDS["agx-orin"], RELEASES["6.2"]))
    assert agx.find("50w").name == "MODE_50W" and agx.find("MODE_15W").id == 1 and agx.default_id == 2
    nano = parse_conf(conf_text(BOARDS["orin-nano-4gb"], RELEASES["6.2"]))
    with pytest.raises(UsageError, match="7W_AI, 7W_CPU"):
        nano.find("7W")
    assert nano.find("7w-cpu").id == 2 and nano.other_gpu(1, 2) and not nano.other_gpu(0, 1)


def test_without_the_status_file_nvpmodel_is_asked(tmp_path: Path) -> None:
    root = build_board(tmp_path, mode=2)
    (root / "var/lib/nvpmodel/status").unlink()
    assert (read_environment(root).power_mode, read_environment(root).power_mode_id) == ("25W", 1)
    (root / "usr/sbin/nvpmodel").unlink()
    assert read_environment(root).power_mode is None


def test_the_configuration_is_followed_inside_the_tree(tmp_path: Path) -> None:
    root = build_board(tmp_path)
    assert conf_file(root) == root / "etc/nvpmodel/nvpmodel_p3767_0003_super.conf" and len(read_table(root).modes) == 4
    (root / "etc/nvpmodel.conf").unlink()
    (root / "etc/nvpmodel.conf").symlink_to("nvpmodel/nvpmodel_p3767_0003_super.conf")
    assert len(read_table(root).modes) == 4
    (root / "etc/nvpmodel.conf").unlink()
    (root / "etc/nvpmodel.conf").symlink_to("nvpmodel.conf")  # a circle
    assert read_table(root).modes == {}


def test_answers_of_nvpmodel() -> None:
    assert parse_query("NVPM WARN: fan mode is not set!\nNV Power Mode: MAXN\n0\n") == ("MAXN", 0)
    assert parse_query("NV Fan Mode:quiet\nNV Power Mode: 25W\n1") == ("25W", 1) and parse_query("") is None
    assert read_live_id(Path("/nowhere")) is None


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
