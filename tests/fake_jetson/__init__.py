"""A Jetson Orin Nano made of files, and a `tegrastats` to run, for tests on any machine.

It is a double built from the documented interface (NVIDIA's guides and kernel drivers), not a copy of a board. What it cannot
show: how real nodes fail or block while the I2C bus is busy, how long a real reading takes, the averaging inside the INA3221,
how real tegrastats buffers its output, and any field or spelling that the documentation leaves out. A test that passes here
says that edgedit is right about the interface; it does not say that a board behaves as documented.

`build_tree` writes the files, `install_tegrastats` puts the executable into the tree, `Updater` moves the INA3221 nodes along a
`Curve` whose integral is known exactly.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.fake_jetson.curve import Curve
from tests.fake_jetson.lines import SHARES, STYLES, line, rail_field, rail_names

__all__ = ["SHARES", "STYLES", "Curve", "Ticking", "Updater", "build_tree", "install_tegrastats", "line", "rail_field", "rail_names",
           "tegrastats_environment", "write"]

BUS_MV = 5000
HWMON = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"

_SUPER_MODES = ((0, "15W"), (1, "25W"), (2, "MAXN_SUPER"), (3, "7W"))
_RELEASES = {
    "jp6": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025",
    "jp7": "# R39 (release), REVISION: 2.0, GCID: 41234567, BOARD: generic, EABI: aarch64, DATE: Tue Jun  2 10:00:00 UTC 2026",
}


def write(root: Path, name: str, text: str) -> Path:
    """One file of the tree, parents made."""
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def build_tree(root: Path, release: str = "jp6", *, mode: int = 2, locked: bool = True, power_mw: float = 6000.0) -> Path:
    """An Orin Nano developer kit with JetPack 6.2 ("jp6") or 7.2 ("jp7") under `root`; returns `root`."""
    write(root, "proc/device-tree/model", "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0")
    write(root, "proc/device-tree/compatible", "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0")
    write(root, "proc/cpuinfo", "processor\t: 0\nmodel name\t: ARMv8 Processor rev 1 (v8l)\nCPU part\t: 0xd42\n")
    write(root, "proc/meminfo", "MemTotal:        7802112 kB\nMemAvailable:    5012480 kB\nSwapTotal:       3901048 kB\n"
                                "SwapFree:        3900000 kB\n")
    write(root, "proc/sys/kernel/osrelease", "5.15.148-tegra\n" if release == "jp6" else "6.8.12-tegra\n")
    write(root, "proc/1/cgroup", "0::/init.scope\n")
    write(root, "etc/nv_tegra_release", _RELEASES[release] + "\n")
    write(root, "etc/os-release", f'PRETTY_NAME="Ubuntu {"22.04.5" if release == "jp6" else "24.04.2"} LTS"\n')
    write(root, "etc/nv_boot_control.conf", "TNSPEC 3767-300-0005-M.1-1-1-jetson-orin-nano-devkit-super-\n")
    modes = "".join(f"< POWER_MODEL ID={i} NAME={name} >\nCPU_ONLINE CORE_0 1\nGPU MIN_FREQ 0\n\n" for i, name in _SUPER_MODES)
    write(root, "etc/nvpmodel.conf", f"# comment\n{modes}< PM_CONFIG DEFAULT=1 >\n")
    write(root, "var/lib/nvpmodel/status", f"pmode:{mode:04d}\n")

    gpu = "sys/class/devfreq/17000000.gpu"
    for name, hz in (("cur_freq", 1020000000), ("max_freq", 1020000000), ("min_freq", 1020000000 if locked else 306000000)):
        write(root, f"{gpu}/{name}", f"{hz}\n")
    for policy in ("policy0", "policy4"):
        cpu = f"sys/devices/system/cpu/cpufreq/{policy}"
        write(root, f"{cpu}/scaling_governor", "schedutil\n")
        write(root, f"{cpu}/scaling_max_freq", "1728000\n")
        write(root, f"{cpu}/scaling_min_freq", "1728000\n" if locked else "115200\n")
    zones = {"cpu-thermal": 48500, "gpu-thermal": 49250, "cv0-thermal": -256000, "tj-thermal": 49500}
    for n, (zone, temperature) in enumerate(zones.items()):
        write(root, f"sys/class/thermal/thermal_zone{n}/type", zone + "\n")
        write(root, f"sys/class/thermal/thermal_zone{n}/temp", f"{temperature}\n")
        write(root, f"sys/class/thermal/thermal_zone{n}/trip_point_0_type", "passive\n")
        write(root, f"sys/class/thermal/thermal_zone{n}/trip_point_0_temp", "99000\n")
    for n in (1, 2, 3):
        write(root, f"sys/class/hwmon/hwmon1/oc{n}_event_cnt", "0\n")
        write(root, f"sys/class/hwmon/hwmon1/oc{n}_throt_en", "1\n")
    write(root, "sys/class/hwmon/hwmon1/name", "soctherm_oc\n")

    write(root, f"{HWMON}/name", "ina3221\n")
    for n, name in enumerate(rail_names(release), start=1):
        write(root, f"{HWMON}/in{n}_label", name + "\n")
        write(root, f"{HWMON}/in{n}_input", f"{BUS_MV}\n")
    write(root, f"{HWMON}/in7_label", "sum of shunt voltages\n")
    write(root, f"{HWMON}/in7_input", "123\n")
    write(root, f"{HWMON}/curr4_input", "999\n")
    set_power(root, power_mw)
    return root


def set_power(root: Path, total_mw: float) -> None:
    """Write the three currents in place, padded to one width, so that a reader never sees a half-written number."""
    for n, share in enumerate(SHARES, start=1):
        text = f"{round(total_mw * share * 1000 / BUS_MV)}".ljust(11) + "\n"
        descriptor = os.open(root / HWMON / f"curr{n}_input", os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(descriptor, text.encode(), 0)
        finally:
            os.close(descriptor)


def install_tegrastats(root: Path) -> Path:
    """The executable double as `usr/bin/tegrastats` of the tree, run by this Python."""
    here = Path(__file__).resolve().parent
    target = root / "usr/bin/tegrastats"
    target.parent.mkdir(parents=True, exist_ok=True)
    source = (here / "tegrastats").read_text()
    target.write_text(source.replace("#!/usr/bin/env python3", f"#!{sys.executable} -ISs", 1))
    target.chmod(0o755)
    for name in ("curve.py", "lines.py"):
        shutil.copy(here / name, target.parent / name)
    return target


def tegrastats_environment(curve: Curve, style: str = "jp6", mode: str = "normal") -> dict[str, str]:
    """What the double reads from its environment."""
    return {"FAKE_CURVE": curve.dumps(), "FAKE_STYLE": style, "FAKE_MODE": mode}


class Ticking:
    """Calls `tick` 200 times a second on a thread, for the length of a `with` block."""

    def __init__(self, tick: Callable[[], object]) -> None:
        self._tick, self._stop = tick, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Ticking:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.005):
            self._tick()


class Updater(Ticking):
    """Writes the INA3221 nodes of a tree along a curve."""

    def __init__(self, root: Path, curve: Curve) -> None:
        super().__init__(lambda: set_power(root, curve.power_mw(time.monotonic_ns())))
