"""The checks that only a Jetson needs: release, TensorRT and what it loads, power modes, clocks, power monitor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgedit.core.errors import MissingError
from edgedit.device.board import clocks_locked
from edgedit.device.finding import Finding
from edgedit.device.ina3221 import Ina3221Source
from edgedit.device.jetpack import Release, read_power_modes, version_numbers
from edgedit.device.python_facts import PythonFacts
from edgedit.device.sysfs import board_model, container, read_text
from edgedit.device.tegrastats_log import find_tegrastats

_FIRST_SUPER = (36, 4, 3)
_NO_DLA_COMPILER_FROM = 38
_LIBRARIES = "usr/lib/aarch64-linux-gnu"


def jetson_findings(root: Path, facts: PythonFacts, release: Release | None) -> list[Finding]:
    """All checks of this module, for a tree that is a Jetson's."""
    return [_jetpack(root, release), *_tensorrt(root, facts, release), *_modes(root, release), _clocks(root), _monitor(root),
            _tegrastats(root, facts)]


def _jetpack(root: Path, release: Release | None) -> Finding:
    board = board_model(root) or "Jetson"
    if release is None:
        fix = "mount it: -v /etc/nv_tegra_release:/etc/nv_tegra_release:ro" if container(root) else ""
        return Finding("note", "jetpack-unknown", "the JetPack release cannot be told", board, fix)
    if release.major < 36 or release.jetpack == "6.0":
        return Finding("error", "jetpack-old", "this JetPack is not supported",
                       f"Jetson Linux {release.l4t}, TensorRT {release.tensorrt}, Python {release.python}",
                       "install JetPack 6.1 or newer")
    if release.jetpack is None:
        return Finding("note", "jetpack-unknown", "this Jetson Linux release is not in the table", f"{release.l4t} on {board}")
    return Finding("ok", "jetpack", "JetPack", f"{release.jetpack} (Jetson Linux {release.l4t}) on {board}")


def _tensorrt(root: Path, facts: PythonFacts, release: Release | None) -> Iterator[Finding]:
    if "tensorrt" in facts.modules:
        yield from _tensorrt_parts(root, facts, release)
        return
    system = next(iter(sorted(root.glob("usr/lib/python3*/dist-packages/tensorrt"))), None)
    if system is None:
        yield Finding("warning", "no-tensorrt", "TensorRT's Python package is not there", "no tensorrt",
                      "sudo apt install python3-libnvinfer python3-libnvinfer-dev")
    elif facts.virtual and not facts.system_site:
        yield Finding("warning", "tensorrt-hidden", "TensorRT is installed, but this virtual environment hides it",
                      str(system), "python3 -m venv --system-site-packages .venv")
    else:
        yield Finding("warning", "tensorrt-other-python", "TensorRT is installed for another Python", str(system),
                      "use JetPack's own python3")


def _tensorrt_parts(root: Path, facts: PythonFacts, release: Release | None) -> Iterator[Finding]:
    version, sound = facts.packages.get("tensorrt", ""), True
    if release is not None and release.major == 36 and not _dla_compiler(root):
        sound = False
        yield Finding("error", "no-libnvdla",
                      "JetPack 6's TensorRT does not load without libnvdla_compiler.so, even on boards that have no DLA",
                      f"not in /{_LIBRARIES}", "sudo apt install nvidia-l4t-dla-compiler")
    if release is not None and release.major >= _NO_DLA_COMPILER_FROM and version and version_numbers(version) < (10, 13):
        sound = False
        yield Finding("error", "tensorrt-jp6-on-jp7", "this TensorRT is JetPack 6's and does not load on JetPack 7", version,
                      f"use JetPack's own {release.tensorrt or 'TensorRT'}; there are no -igpu containers for JetPack 7")
    if not {"pycuda", "cuda"} & facts.modules.keys():
        sound = False
        yield Finding("warning", "no-cuda-binding", "TensorRT needs pycuda or cuda-python for memory and streams", "neither",
                      "PATH=/usr/local/cuda/bin:$PATH pip install 'edgedit[jetson]'")
    if sound:
        yield Finding("ok", "tensorrt", "TensorRT", version or "found")


def _dla_compiler(root: Path) -> bool:
    names = (f"{_LIBRARIES}/libnvdla_compiler.so*", f"{_LIBRARIES}/*/libnvdla_compiler.so*")
    return any(True for name in names for _ in root.glob(name))


def _modes(root: Path, release: Release | None) -> Iterator[Finding]:
    modes = read_power_modes(root)
    if modes.live is None:
        yield Finding("note", "power-mode-unknown", "the power mode cannot be told",
                      "/etc/nvpmodel.conf or /var/lib/nvpmodel/status is missing or names no mode",
                      "mount both read-only" if container(root) else "sudo nvpmodel -q")
    else:
        yield Finding("ok", "power-mode", "power mode", f"{modes.live} (id {modes.live_id})")
    has_super = any("SUPER" in name for name in modes.names.values())
    knows_super = release is not None and version_numbers(release.l4t) >= _FIRST_SUPER
    if "orin nano" in (board_model(root) or "").lower() and knows_super and modes.names and not has_super:
        spec = (read_text(root / "etc/nv_boot_control.conf") or "").splitlines()
        yield Finding("note", "no-super-mode", "the board runs without its Super modes (GPU up to 635 MHz of 1020)",
                      next((line for line in spec if line.startswith("TNSPEC")), ", ".join(modes.names.values())),
                      "flash the board configuration that ends in -super; if JetPack 7.2 came from its ISO, install 7.2.1")


def _clocks(root: Path) -> Finding:
    locked = clocks_locked(root)
    if locked is None:
        return Finding("note", "clocks-unknown", "it cannot be told whether clocks are pinned", "no devfreq or cpufreq files")
    if locked:
        return Finding("ok", "clocks", "clocks", "pinned")
    return Finding("note", "clocks-free", "clocks follow the load: latency is not comparable across runs",
                   "lowest clock below highest",
                   "sudo jetson_clocks --store && sudo jetson_clocks (undo: sudo jetson_clocks --restore)")


def _monitor(root: Path) -> Finding:
    try:
        source = Ina3221Source(root)
    except MissingError as error:
        return Finding("warning", "no-power-monitor", error.what, error.saw or "", error.fix or "")
    source.stop()
    total = source.total([c.label for c in source.channels])
    return Finding("ok", "power", "power monitor", f"INA3221, total from {total.name if total else 'no rail'}")


def _tegrastats(root: Path, facts: PythonFacts) -> Finding:
    found, inside = find_tegrastats(root=root, environ=facts.environ), container(root)
    if found is not None:
        return Finding("ok", "tegrastats", "tegrastats", str(found))
    if inside:
        return Finding("warning", "no-tegrastats", "tegrastats is not in containers unless mounted", inside,
                       "add -v /usr/bin/tegrastats:/usr/bin/tegrastats:ro")
    return Finding("warning", "no-tegrastats", "tegrastats is not there", "not on PATH", "sudo apt install nvidia-l4t-tools")
