"""What machine this is, read and never changed: the `Environment` of a record."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

from edgedit.core.machine import processor
from edgedit.core.record import Environment
from edgedit.device.clocks import clocks_locked, cpu_clocks, governors, gpu_clock, memory_cap_hz, memory_clock_hz
from edgedit.device.jetpack import read_power_modes, read_release
from edgedit.device.nvpmodel import read_table
from edgedit.device.sysfs import board_model, container, is_jetson, read_number, read_text

__all__ = ["PACKAGES", "clocks_locked", "largest_free_block", "memory_mb", "overcurrent_counts", "package_versions",
           "read_environment", "temperatures"]

PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "tensorrt", "pycuda", "cuda-python", "cuda-bindings", "nvidia-ml-py",
            "torch", "pillow", "pydantic")
_CHIPS = {"tegra264": "Thor (sm_110)", "tegra234": "Orin (sm_87)", "tegra194": "Xavier (sm_72)", "tegra186": "TX2 (sm_62)",
          "tegra210": "Maxwell (sm_53)"}


def read_environment(root: Path = Path("/")) -> Environment:
    """Everything about the machine that a measurement depends on. Unknown is None or absent, never 0.

    `sm_count` is left to the runtime, which asks CUDA. `extra` holds memory and swap (MB), kind of container, all power modes,
    the CPU policies' clocks, JetPack's own TensorRT and CUDA, and the over-current counters.

    Args:
        root: root of the file system; Python, its packages and the instruction set are always those that run this.
    """
    release, modes, jetson, clock = read_release(root), read_power_modes(root), is_jetson(root), gpu_clock(root)
    return Environment(
        machine=platform.machine(), cpu=processor(root), cpu_count=os.cpu_count() or 1, os=_os(root),
        python=platform.python_version(), packages=package_versions(),
        board=board_model(root) if jetson else None, jetpack=release.jetpack if release else None,
        l4t=release.l4t if release else None, gpu=_gpu(root), power_mode=modes.live, power_mode_id=modes.live_id,
        clocks_locked=clocks_locked(root), gpu_clock_hz=None if clock is None or clock.now is None else int(clock.now),
        cpu_governor="/".join(governors(root)) or None,
        temperature_c=temperatures(root), extra=_extra(root))


def package_versions(names: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Installed versions by distribution name, from metadata: nothing is imported."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def temperatures(root: Path = Path("/")) -> dict[str, float]:
    """Thermal zones in °C by type ("cpu-thermal"); zones that are off or cannot be read are left out."""
    found: dict[str, float] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        name, value = read_text(zone / "type"), read_number(zone / "temp")
        if name and value is not None and value > -200_000:
            found[name if name not in found else zone.name] = value / 1000
    return found


def overcurrent_counts(root: Path = Path("/")) -> dict[str, int]:
    """Events since boot: over-current of a Jetson ("oc1"), thermal throttling of a host's processor ("cpu package")."""
    counts = {}
    for file in sorted((root / "sys/class/hwmon").glob("*/oc*_event_cnt")):
        value = read_number(file)
        if value is not None:
            counts[file.name.removesuffix("_event_cnt")] = int(value)
    cores = sorted((root / "sys/devices/system/cpu").glob("cpu*/thermal_throttle/package_throttle_count"))
    throttled = [value for file in cores if (value := read_number(file)) is not None]
    if throttled:
        counts["cpu package"] = int(max(throttled))
    return counts


def memory_mb(root: Path = Path("/")) -> dict[str, int]:
    """Memory and swap in MB, those that are there.

    `memory_total_mb`, `memory_available_mb` (what a program can get), `memory_free_mb` (what CUDA on a Jetson calls free: the
    page cache counts as used), `swap_total_mb`, `swap_used_mb`, and of these `zram_total_mb`, `zram_used_mb`: compressed
    memory, which gives no room beyond the memory itself.
    """
    text = read_text(root / "proc/meminfo") or ""
    kb = {key: int(value) for key, value in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    named = (("memory_total_mb", "MemTotal"), ("memory_available_mb", "MemAvailable"), ("memory_free_mb", "MemFree"),
             ("swap_total_mb", "SwapTotal"))
    found = {name: kb[key] // 1024 for name, key in named if key in kb}
    if "SwapTotal" in kb and "SwapFree" in kb:
        found["swap_used_mb"] = (kb["SwapTotal"] - kb["SwapFree"]) // 1024
    zram = re.findall(r"^/dev/zram\S*\s+\S+\s+(\d+)\s+(\d+)", read_text(root / "proc/swaps") or "", re.MULTILINE)
    if zram:
        found["zram_total_mb"] = sum(int(size) for size, _ in zram) // 1024
        found["zram_used_mb"] = sum(int(used) for _, used in zram) // 1024
    return found


def largest_free_block(root: Path = Path("/")) -> tuple[int, float] | None:
    """Number and size in MB of the largest free blocks of memory, as tegrastats' `lfb`; None where /proc/buddyinfo is missing.

    Kernel documentation, filesystems/proc: column n of a zone counts free blocks of 2ⁿ pages.
    """
    zones = [[int(n) for n in counts.split()] for counts in
             re.findall(r"^Node\s+\d+, zone\s+\S+((?:\s+\d+)+)\s*$", read_text(root / "proc/buddyinfo") or "", re.MULTILINE)]
    orders = max((len(zone) for zone in zones), default=0)
    for order in range(orders - 1, -1, -1):
        count = sum(zone[order] for zone in zones if order < len(zone))
        if count:
            return count, 2**order * os.sysconf("SC_PAGE_SIZE") / 2**20
    return None


# --- parts ------------------------------------------------------------------------------------------------------------------


def _os(root: Path) -> str:
    name = re.search(r'^PRETTY_NAME="?([^"\n]+)', read_text(root / "etc/os-release") or "", re.MULTILINE)
    kernel = read_text(root / "proc/sys/kernel/osrelease") or platform.release()
    return f"{name[1] if name else platform.system()}, kernel {kernel}"


def _gpu(root: Path) -> str | None:
    """A Jetson's chip by its device tree; on hosts the first NVIDIA GPU by its driver's own files."""
    compatible = read_text(root / "proc/device-tree/compatible") or ""
    for chip, name in _CHIPS.items():
        if chip in compatible:
            return name
    for file in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        model = re.search(r"^Model:\s*(.+)$", read_text(file) or "", re.MULTILINE)
        if model:
            return model[1].strip()
    return None


def _extra(root: Path) -> dict[str, Any]:
    release, table, extra = read_release(root), read_table(root), dict[str, Any](memory_mb(root))
    if (block := largest_free_block(root)) is not None:
        extra["largest_free_block_mb"], extra["largest_free_blocks"] = block[1], block[0]
    if (kind := container(root)) is not None:
        extra["container"] = kind
    if table.names:
        extra["power_modes"] = {str(number): name for number, name in table.names.items()}
    if release is not None and release.tensorrt is not None:
        extra["jetpack_tensorrt"], extra["jetpack_cuda"] = release.tensorrt, release.cuda
    if (gpu := gpu_clock(root)) is not None:
        extra["gpu_clock_range_hz"] = [int(gpu.low), int(gpu.high)]
    for name, value in (("emc_clock_hz", memory_clock_hz(root)), ("emc_cap_hz", memory_cap_hz(root))):
        if value is not None:
            extra[name] = value
    if cores := cpu_clocks(root):
        extra["cpu_clocks_khz"] = {name: [int(clock.low), int(clock.high)] for name, clock in cores.items()}
    if counts := overcurrent_counts(root):
        extra["overcurrent_counts"] = counts
    return extra
