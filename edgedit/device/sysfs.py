"""Small read-only look-ups in /proc, /sys and /etc. Every function takes the root of the tree, and answers None for unknown."""

from __future__ import annotations

import os
from pathlib import Path

_GPU_FOLDERS = ("sys/class/devfreq", "sys/devices/platform/bus@0/17000000.gpu/devfreq", "sys/devices/platform/17000000.gpu/devfreq",
                "sys/devices/platform/17000000.ga10b/devfreq", "sys/devices/17000000.ga10b/devfreq")
_GPU_NODES = ("*.gpu", "*.ga10b", "*.gv11b", "*.gp10b", "*.gm20b", "gpu-gpc-*")


def read_text(file: Path) -> str | None:
    """Content without surrounding blanks and NULs (device-tree strings end in one); None when it cannot be read."""
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip(" \t\r\n\0")
    except OSError:
        return None


def read_number(file: Path) -> float | None:
    """The number in a sysfs file; None when it is missing, unreadable or not a number."""
    try:
        return float(file.read_text())
    except (OSError, ValueError):
        return None


class NumberFile:
    """A number in sysfs that is read again and again: opened once, read from its start each time.

    sysfs computes the content anew at every read from offset 0 (kernel documentation, filesystems/sysfs). One system call a
    reading matters less for its time than for the interpreter lock, which is given up at each and has to be won back from
    the threads that compute.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._descriptor: int | None = None

    def read(self) -> float | None:
        """The number now; None when the file is missing, unreadable or holds none (the next call tries again)."""
        try:
            if self._descriptor is None:
                self._descriptor = os.open(self._file, os.O_RDONLY | os.O_CLOEXEC)
            return float(os.pread(self._descriptor, 64, 0))
        except ValueError:
            return None
        except OSError:
            self.close()
            return None

    def close(self) -> None:
        """Let go of the file; a later `read` opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def gpu_devfreq(root: Path = Path("/")) -> Path | None:
    """The devfreq folder of a Jetson's GPU (`17000000.ga10b` on Orin with JetPack 5, `17000000.gpu` since), or None."""
    return next((p for folder in _GPU_FOLDERS for pattern in _GPU_NODES for p in sorted((root / folder).glob(pattern))), None)


def processes(root: Path = Path("/")) -> set[str]:
    """Names of the processes that show in /proc (up to 15 letters each)."""
    return {name for file in (root / "proc").glob("[0-9]*/comm") if (name := read_text(file))}


def board_model(root: Path = Path("/")) -> str | None:
    """The device tree's model, "NVIDIA Jetson Orin Nano Developer Kit"; None on machines without a device tree."""
    return read_text(root / "proc/device-tree/model") or read_text(root / "sys/firmware/devicetree/base/model") or None


def is_jetson(root: Path = Path("/")) -> bool:
    """Whether the tree is that of a Jetson, inside a container too (the device tree shows through)."""
    return "jetson" in (board_model(root) or "").lower() or (root / "etc/nv_tegra_release").is_file()


def container(root: Path = Path("/")) -> str | None:
    """The kind of container the process runs in ("docker", "podman", "kubernetes", "lxc"), or None."""
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run/.containerenv").exists():
        return "podman"
    groups = read_text(root / "proc/1/cgroup") or ""
    kinds = {"kubepods": "kubernetes", "docker": "docker", "containerd": "containerd", "lxc": "lxc"}
    return next((kind for mark, kind in kinds.items() if mark in groups), None)
