"""JetPack, its TensorRT and what that loads: found without importing it. `edgedit.device.trt.module` says the same on import."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgedit.device.finding import Finding
from edgedit.device.jetpack import Release, version_numbers
from edgedit.device.python_facts import PythonFacts
from edgedit.device.sysfs import board_model, container
from edgedit.device.trt.module import BEYOND, OLDEST

_LIBRARIES = "usr/lib/aarch64-linux-gnu"
_NO_DLA_COMPILER_FROM = 38
_DLA = "libnvdla_compiler.so"
CAPABLE = "JetPack 6.2 (TensorRT 10.3) or 7.2 (10.16)"


def jetpack_finding(root: Path, release: Release | None) -> Finding:
    """Which JetPack, and whether its TensorRT will do."""
    board = board_model(root) or "Jetson"
    if release is None:
        fix = "mount it: -v /etc/nv_tegra_release:/etc/nv_tegra_release:ro" if container(root) else "head -1 /etc/nv_tegra_release"
        return Finding("note", "jetpack-unknown", "the JetPack release cannot be told", board, fix)
    if release.major < 36 or release.jetpack == "6.0":
        return Finding("error", "jetpack-old", "this JetPack is not supported: its TensorRT has no strong typing and fuses no attention",
                       f"Jetson Linux {release.l4t}, TensorRT {release.tensorrt}, Python {release.python}",
                       f"flash {CAPABLE}; until then --runtime ort runs on the CPU")
    if release.jetpack is None:
        return Finding("note", "jetpack-unknown", "this Jetson Linux release is not in the table", f"{release.l4t} on {board}",
                       "nothing needs to be typed; figures will name the release by its number")
    return Finding("ok", "jetpack", "JetPack", f"{release.jetpack} (Jetson Linux {release.l4t}) on {board}")


def tensorrt_findings(root: Path, facts: PythonFacts, release: Release | None) -> Iterator[Finding]:
    """There, seen by this Python, of a version that is claimed, of this JetPack, and with all it loads."""
    if "tensorrt" not in facts.modules:
        yield _absent(root, facts)
        return
    version = facts.packages.get("tensorrt", "")
    problems = [*_version(version, release), *_dla(root, release)]
    yield from problems
    if not problems:
        yield Finding("ok", "tensorrt", "TensorRT", version or "found")
        yield Finding("ok", "attention", "attention", "fuses in FP16 with head sizes 16 to 256, multiples of 8; export sees to it, and "
                      "edgedit build proves it")
        yield Finding("ok", "precision", "precision", "FP16; INT8 is often slower on Orin: measure both before keeping it")


def _absent(root: Path, facts: PythonFacts) -> Finding:
    system = next(iter(sorted(root.glob("usr/lib/python3*/dist-packages/tensorrt"))), None)
    if system is None:
        return Finding("warning", "no-tensorrt", "TensorRT's Python package is not there", "no tensorrt",
                       "sudo apt install python3-libnvinfer python3-libnvinfer-dev")
    if facts.virtual and not facts.system_site:
        return Finding("warning", "tensorrt-hidden", "TensorRT is installed, but this virtual environment hides it",
                       str(system), "python3 -m venv --system-site-packages .venv")
    return Finding("warning", "tensorrt-other-python", "TensorRT is installed for another Python", str(system),
                   "use JetPack's own python3")


def _version(version: str, release: Release | None) -> Iterator[Finding]:
    numbers = version_numbers(version)
    if not numbers:
        return
    if numbers < OLDEST:
        yield Finding("error", "tensorrt-old", "this TensorRT is too old: edgedit needs 10.3 or newer", version, f"flash {CAPABLE}")
    elif numbers >= BEYOND:
        yield Finding("error", "tensorrt-new", "this TensorRT is newer than this edgedit knows (up to 11.x)", version,
                      "pip install --upgrade edgedit")
    elif release is not None and release.major >= _NO_DLA_COMPILER_FROM and numbers < (10, 13):
        yield Finding("error", "tensorrt-jp6-on-jp7", "this TensorRT is JetPack 6's and does not load on JetPack 7", version,
                      f"use JetPack's own {release.tensorrt or 'TensorRT'}; there are no -igpu containers for JetPack 7")
    elif release is not None and release.major == 36 and numbers >= (11,):
        yield Finding("error", "tensorrt-jp7-on-jp6", "TensorRT 11 does not support JetPack 6 on Orin", version,
                      f"use JetPack's own {release.tensorrt or 'TensorRT'}: sudo apt install python3-libnvinfer")


def _dla(root: Path, release: Release | None) -> Iterator[Finding]:
    if release is None or release.major != 36:
        return
    found = sorted({*root.glob(f"{_LIBRARIES}/{_DLA}*"), *root.glob(f"{_LIBRARIES}/*/{_DLA}*")})
    title = f"JetPack 6's TensorRT does not load without {_DLA}, even on boards that have no DLA"
    install = "sudo apt install nvidia-l4t-dla-compiler && sudo ldconfig"
    if not found:
        yield Finding("error", "no-libnvdla", title, f"not in /{_LIBRARIES}",
                      f"{install} (on the board itself, then restart the container)" if container(root) else install)
    elif all(_size(file) == 0 for file in found):
        yield Finding("error", "libnvdla-empty", title, f"{found[0]} is an empty placeholder: the board has none to mount",
                      f"on the board itself: {install}, then restart the container with --runtime nvidia")
    elif (cache := _cache(root)) is not None and _DLA.encode() not in cache:
        yield Finding("error", "libnvdla-not-cached", f"{_DLA} is there, but the loader does not know it", str(found[0]), "sudo ldconfig")


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _cache(root: Path) -> bytes | None:
    try:
        return (root / "etc/ld.so.cache").read_bytes()
    except OSError:
        return None
