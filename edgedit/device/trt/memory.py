"""Memory before, during and after a build: how much workspace to allow, and whether the kernel killed something.

On a Jetson the CPU and the GPU share their memory and CUDA counts the page cache as used (jetson.md §5.7).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgedit.device.board import memory_mb
from edgedit.device.cuda.facts import GpuFacts
from edgedit.device.sysfs import read_text

SMALL_BOARD_MB = 8192
SMALL_WORKSPACE_MB = 1024
"""Upper end of the 512 MB … 1 GB that jetson.md §5.7 gives for 8 GB boards."""
RESERVE_MB = 512
"""Kept free for the builder's own host memory and the system."""
LEAST_MB = 64
MEMORY_WORDS = re.compile(r"out ?of ?memory|could not be allocated|insufficient memory|NvMapMem|cudaErrorMemoryAllocation|std::bad_alloc",
                          re.IGNORECASE)


@dataclass(frozen=True)
class Memory:
    """Megabytes at one moment; None where the machine does not tell. `oom_kills` counts the kernel's kills since boot."""

    gpu_free_mb: int
    available_mb: int | None
    swap_mb: int | None
    oom_kills: int | None

    def text(self) -> str:
        """For messages: what CUDA and what the system call free."""
        parts = [f"{self.gpu_free_mb:,} MB free for CUDA"]
        if self.available_mb is not None:
            parts.append(f"{self.available_mb:,} MB available to the system")
        if self.swap_mb is not None:
            parts.append(f"{self.swap_mb:,} MB swap" if self.swap_mb else "no swap")
        return ", ".join(parts)


def read_memory(gpu: GpuFacts, root: Path = Path("/")) -> Memory:
    """Memory now; `gpu` holds what CUDA said a moment ago."""
    found = memory_mb(root)
    return Memory(gpu.free_mb, found.get("memory_available_mb"), found.get("swap_total_mb"), oom_kills(root))


def available_mb(root: Path = Path("/")) -> int | None:
    """MemAvailable of /proc/meminfo."""
    return memory_mb(root).get("memory_available_mb")


def oom_kills(root: Path = Path("/")) -> int | None:
    """Processes that the kernel killed for want of memory: of the machine (/proc/vmstat) and of this control group (version 2)."""
    counts = []
    if (match := re.search(r"^oom_kill (\d+)", read_text(root / "proc/vmstat") or "", re.MULTILINE)) is not None:
        counts.append(int(match[1]))
    group = re.search(r"^0::/(.*)$", read_text(root / "proc/self/cgroup") or "", re.MULTILINE)
    events = read_text(root / "sys/fs/cgroup" / (group[1] if group else "") / "memory.events") or ""
    if (match := re.search(r"^oom_kill (\d+)", events, re.MULTILINE)) is not None:
        counts.append(int(match[1]))
    return sum(counts) if counts else None


def peak_mb(pid: int | str, root: Path = Path("/")) -> int | None:
    """Largest resident memory of a live process so far (VmHWM). Not `ru_maxrss`: across exec that keeps the parent's peak."""
    match = re.search(r"^VmHWM:\s+(\d+) kB", read_text(root / "proc" / str(pid) / "status") or "", re.MULTILINE)
    return int(match[1]) // 1024 if match else None


def choose_workspace(gpu: GpuFacts, asked: int | None) -> tuple[int, str]:
    """Workspace limit in MB, and where it comes from in words."""
    if asked is not None:
        return asked, "as asked"
    free = max(LEAST_MB, gpu.free_mb - RESERVE_MB)
    if gpu.memory_mb <= SMALL_BOARD_MB and free > SMALL_WORKSPACE_MB:
        return SMALL_WORKSPACE_MB, "the cap on boards up to 8 GB"
    return free, f"what is free less {RESERVE_MB} MB"
