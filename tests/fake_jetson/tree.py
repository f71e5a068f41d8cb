"""Writes the files of a fake board."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from tests.fake_jetson.boards import BOARDS, NO_CAP, RELEASES, Board, Mode, Release, conf_text

BUS_MV = 5000
HWMON = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
KNOBS = "fake.json"
CALLS = "fake_calls.jsonl"


def write(root: Path, name: str, text: str) -> Path:
    """One file of the tree, parents made."""
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.is_symlink() and Path(os.readlink(file)).is_absolute():
        file.unlink()  # else it would be written outside the tree
    file.write_text(text)
    return file


def build_board(root: Path, board: str = "orin-nano-8gb-super", jetpack: str = "6.2", *, mode: int | None = None,
                locked: bool = False, power_mw: float = 6000.0) -> Path:
    """A board of `BOARDS` with a JetPack of `RELEASES` under `root`, in `mode` (its default), with its programs; returns `root`."""
    what, release = BOARDS[board], RELEASES[jetpack]
    live = next(m for m in what.modes if m.id == (what.default if mode is None else mode))
    _identity(root, what, release)
    _modes(root, what, release, live)
    _clocks(root, what, release, live, locked)
    _sensors(root, release)
    _memory(root, what)
    _devices(root)
    set_power(root, power_mw, what)
    install_programs(root)
    return root


def set_power(root: Path, total_mw: float, board: Board | None = None) -> None:
    """Write the currents in place, padded to one width, so that a reader never sees a half-written number."""
    what = board or BOARDS["orin-nano-8gb-super"]
    for index, (chip, labels) in enumerate(what.rails):
        for n, label in enumerate(labels, start=1):
            if not label:
                continue
            text = f"{round(total_mw * what.shares[label] * 1000 / BUS_MV)}".ljust(11) + "\n"
            descriptor = os.open(root / _hwmon(chip, index) / f"curr{n}_input", os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                os.pwrite(descriptor, text.encode(), 0)
            finally:
                os.close(descriptor)


def knobs(root: Path, **values: Any) -> None:
    """How the board's programs misbehave from now on; see the text at the top of each."""
    write(root, KNOBS, json.dumps(values))


def calls(root: Path) -> list[list[str]]:
    """Command lines of the board's programs so far, without the questions that change nothing (-q, --show)."""
    file = root / CALLS
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [line for line in lines if line[1:2] not in (["-q"], ["--show"])]


def install_programs(root: Path, names: tuple[str, ...] = ("usr/sbin/nvpmodel", "usr/bin/jetson_clocks")) -> None:
    """The executables, run by this Python."""
    for name in names:
        install(root, name)


def install(root: Path, name: str) -> Path:
    """One executable of this folder at `name` of the tree."""
    source = Path(__file__).resolve().parent / Path(name).name
    target = write(root, name, source.read_text().replace("#!/usr/bin/env python3", f"#!{sys.executable} -ISs", 1))
    target.chmod(0o755)
    return target


def install_tegrastats(root: Path) -> Path:
    """The executable double as `usr/bin/tegrastats` of the tree, run by this Python."""
    here = Path(__file__).resolve().parent
    target = install(root, "usr/bin/tegrastats")
    for name in ("curve.py", "lines.py"):
        shutil.copy(here / name, target.parent / name)
    return target


def install_dmesg(root: Path, text: str) -> None:
    """A `dmesg` that prints `text`."""
    write(root, "var/log/fake_dmesg", text)
    write(root, "usr/bin/dmesg", f"#!/bin/sh\ncat '{root}/var/log/fake_dmesg'\n").chmod(0o755)


# --- parts ------------------------------------------------------------------------------------------------------------------


def _hwmon(chip: str, index: int) -> str:
    return f"sys/bus/i2c/drivers/ina3221/{chip}/hwmon/hwmon{3 + index}"


def _identity(root: Path, board: Board, release: Release) -> None:
    suffix = "-super" if board.tnspec.endswith("-super") else ""
    carrier = "p3768-0000" if board.module == "p3767" else "p3737-0000"
    write(root, "proc/device-tree/model", board.model + "\0")
    write(root, "proc/device-tree/compatible", f"nvidia,{carrier}+{board.module}-{board.sku}{suffix}\0"
                                               f"nvidia,{board.module}-{board.sku}\0nvidia,tegra234\0")
    write(root, "proc/cpuinfo", "processor\t: 0\nmodel name\t: ARMv8 Processor rev 1 (v8l)\nCPU part\t: 0xd42\n")
    write(root, "proc/sys/kernel/osrelease", release.kernel + "\n")
    write(root, "proc/sys/kernel/random/boot_id", "11111111-2222-3333-4444-555555555555\n")
    write(root, "proc/1/cgroup", "0::/init.scope\n")
    write(root, "proc/1/comm", "systemd\n")
    write(root, "etc/nv_tegra_release", release.line + "\n# KERNEL_VARIANT: oot\n")
    write(root, "etc/os-release", f'PRETTY_NAME="Ubuntu {release.ubuntu} LTS"\n')
    write(root, "etc/group", "root:x:0:\nvideo:x:44:\nrender:x:104:\ni2c:x:116:\nusers:x:1000:\n")
    write(root, "etc/nv_boot_control.conf", f"TNSPEC {board.module[1:]}-300-{board.sku}-M.1-1-1-{board.tnspec}-\n"
                                            f"COMPATIBLE_SPEC {board.module[1:]}--{board.sku}--1--{board.tnspec}-\nTEGRA_CHIPID 0x23\n")


def _modes(root: Path, board: Board, release: Release, live: Mode) -> None:
    write(root, f"etc/nvpmodel/{board.conf}", conf_text(board, release))
    link = root / "etc/nvpmodel.conf"
    link.unlink(missing_ok=True)
    link.symlink_to(f"/etc/nvpmodel/{board.conf}")  # absolute, as on a board
    write(root, "var/lib/nvpmodel/status", f"pmode:{live.id:04d} fmode:quiet\n")


def _clocks(root: Path, board: Board, release: Release, live: Mode, locked: bool) -> None:
    top_hz = round((board.gpu_mhz if live.gpu_mhz == NO_CAP else live.gpu_mhz) * 1e6)
    gpu = f"{release.gpu_path}/devfreq/{release.gpu_node}"
    write(root, f"{gpu}/available_frequencies", " ".join(str(hz) for hz in (306000000, 408000000, 612000000, round(board.gpu_mhz * 1e6))))
    for name, hz in (("cur_freq", top_hz if locked else 306000000), ("max_freq", top_hz), ("min_freq", top_hz if locked else 306000000)):
        write(root, f"{gpu}/{name}", f"{hz}\n")
    _link(root, f"{release.gpu_path}/devfreq_dev", f"devfreq/{release.gpu_node}")
    _link(root, f"sys/class/devfreq/{release.gpu_node}", os.path.relpath(root / gpu, root / "sys/class/devfreq"))
    write(root, f"{release.gpu_platform}/tpc_pg_mask", f"{live.tpc_mask}\n")
    write(root, f"{release.gpu_platform}/load", "0\n")
    top_khz = board.cpu_khz if live.cpu_khz == NO_CAP else live.cpu_khz
    for n in range(board.cores):
        write(root, f"sys/devices/system/cpu/cpu{n}/online", f"{int(n < live.cores)}\n")
    for n in range(0, board.cores, 4):
        policy = f"sys/devices/system/cpu/cpufreq/policy{n}"
        for name, text in (("scaling_governor", "schedutil"), ("cpuinfo_max_freq", board.cpu_khz), ("scaling_max_freq", top_khz),
                           ("scaling_min_freq", top_khz if locked else 729600)):
            write(root, f"{policy}/{name}", f"{text}\n")
        _link(root, f"sys/devices/system/cpu/cpu{n}/cpufreq", f"../cpufreq/policy{n}")
    for name, hz in (("rate", 2133000000), ("max_rate", live.emc_mhz * 1_000_000), ("min_rate", 204000000)):
        write(root, f"sys/kernel/debug/bpmp/debug/clk/emc/{name}", f"{hz}\n")
    write(root, "sys/kernel/nvpmodel_clk_cap/emc", f"{live.emc_mhz * 1_000_000}\n")


def _sensors(root: Path, release: Release) -> None:
    names = ("CPU-therm", "GPU-therm", "CV0-therm", "tj-therm") if release.style == "jp5" else (
        "cpu-thermal", "gpu-thermal", "cv0-thermal", "tj-thermal")
    for n, (zone, temperature) in enumerate(zip(names, (48500, 49250, -256000, 49500), strict=True)):
        write(root, f"sys/class/thermal/thermal_zone{n}/type", zone + "\n")
        write(root, f"sys/class/thermal/thermal_zone{n}/temp", f"{temperature}\n")
        write(root, f"sys/class/thermal/thermal_zone{n}/trip_point_0_type", "passive\n")
        write(root, f"sys/class/thermal/thermal_zone{n}/trip_point_0_temp", "99000\n")
    for n in (1, 2, 3):
        write(root, f"sys/class/hwmon/hwmon1/oc{n}_event_cnt", "0\n")
        write(root, f"sys/class/hwmon/hwmon1/oc{n}_throt_en", "1\n")
    write(root, "sys/class/hwmon/hwmon1/name", "soctherm_oc\n")


def _memory(root: Path, board: Board) -> None:
    free, available = (3902112, 5012480) if board.memory_kb > 7_000_000 else (1700000, 1800000)
    free, available = (3902112, 5012480) if board.memory_kb > 7_000_000 else (1700000, 1800000)
    write(root, "proc/meminfo", f"MemTotal:        {board.memory_kb} kB\nMemFree:         {free} kB\nMemAvailable:    {available} kB\n"
                                "SwapTotal:       3901048 kB\nSwapFree:        3900000 kB\n")
    write(root, "proc/swaps", "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n/swapfile file\t3901048\t1048\t-2\n")
    write(root, "proc/buddyinfo", "Node 0, zone      DMA    120     90     60     30     20     12      9      7      5      3    210\n"
                                  "Node 0, zone   Normal    900    700    500    300    200    100     80     60     40     20    640\n")
    for index, (chip, labels) in enumerate(board.rails):
        folder = _hwmon(chip, index)
        write(root, f"{folder}/name", "ina3221\n")
        for n, label in enumerate(labels, start=1):
            write(root, f"{folder}/in{n}_label", (label or "NC") + "\n")
            write(root, f"{folder}/in{n}_input", f"{BUS_MV}\n")
        write(root, f"{folder}/in7_label", "sum of shunt voltages\n")
        write(root, f"{folder}/in7_input", "123\n")
    write(root, f"{HWMON}/curr4_input", "999\n")


def _devices(root: Path) -> None:
    for name in ("nvmap", "nvhost-gpu", "nvhost-ctrl-gpu", "dri/renderD128"):
        write(root, f"dev/{name}", "").chmod(0o666)
    libraries = "usr/lib/aarch64-linux-gnu/nvidia"
    write(root, f"{libraries}/libcuda.so.1.1", "ELF")
    write(root, "usr/local/cuda/bin/nvcc", "#!/bin/sh\n").chmod(0o755)


def _link(root: Path, name: str, target: str) -> None:
    link = root / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(target)
