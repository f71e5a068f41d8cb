"""Memory as CUDA on a Jetson sees it, swap, the desktop, the kernel's complaints, disk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from edgedit.device.board import largest_free_block, memory_mb
from edgedit.device.finding import Finding
from edgedit.device.jetpack import Release
from edgedit.device.mode_tools import find_program, run
from edgedit.device.sysfs import processes, read_text

MIN_DISK_GB, MIN_MEMORY_MB = 2.0, 1500
_MIN_BLOCKS_MB = 64
DROP_CACHES = "sync; echo 3 | sudo tee /proc/sys/vm/drop_caches"
SWAP = ("sudo fallocate -l 8G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && sudo swapon /swapfile "
        "(on NVMe rather than a card)")
_DESKTOPS = {"gnome-shell", "Xorg", "gdm3", "Xwayland", "lightdm", "xfce4-session", "kwin_x11", "kwin_wayland"}
_NVMAP = re.compile(r"NvMap\w*.{0,60}error 12|nvmap\w*.{0,80}(?:fail|error|no memory)", re.IGNORECASE)


def memory_findings(root: Path, jetson: bool, release: Release | None) -> Iterator[Finding]:
    """Free memory, page cache, fragmentation, swap, desktop, and failed NvMap allocations in the kernel's log."""
    memory = memory_mb(root)
    available, total, free = (memory.get(f"memory_{name}_mb") for name in ("available", "total", "free"))
    if available is not None and available < MIN_MEMORY_MB:
        yield Finding("warning", "low-memory", "little memory is free" + ("; a TensorRT build may be killed" if jetson else ""),
                      f"{available} of {total} MB",
                      "sudo systemctl isolate multi-user.target (closes the desktop)" if jetson else "close other programs")
    elif available is not None:
        yield Finding("ok", "memory", "memory", f"{available} of {total} MB free")
        if jetson and free is not None and free < MIN_MEMORY_MB:
            yield Finding("note", "page-cache", "most free memory holds cached files, which CUDA on a Jetson counts as used",
                          f"{free} of {available} MB are really empty", DROP_CACHES)
    if not jetson:
        return
    yield from _blocks(root, available)
    yield from _swap(memory)
    if desktop := sorted(processes(root) & _DESKTOPS):
        yield Finding("note", "desktop", "a desktop runs: it takes memory and shares the GPU", ", ".join(desktop),
                      "sudo systemctl isolate multi-user.target (back: sudo systemctl isolate graphical.target)")
    yield from _nvmap(root, release)


def disk_finding(folder: Path, free_gb: float) -> Finding:
    """Room for engines, records and images."""
    if free_gb < MIN_DISK_GB:
        return Finding("warning", "low-disk", "little space is free", f"{free_gb:.1f} GB in {folder}",
                       "du -xh --max-depth=2 / 2>/dev/null | sort -h | tail shows what takes it; sudo apt clean frees some")
    return Finding("ok", "disk", "disk", f"{free_gb:.0f} GB free in {folder}")


def _blocks(root: Path, available: int | None) -> Iterator[Finding]:
    block = largest_free_block(root)
    if block is not None and available is not None and available >= MIN_MEMORY_MB and block[0] * block[1] < _MIN_BLOCKS_MB:
        yield Finding("note", "memory-fragmented", "free memory is in small pieces: large GPU allocations may fail with NvMap error 12",
                      f"largest free blocks: {block[0]} × {block[1]:g} MB",
                      f"{DROP_CACHES}; echo 1 | sudo tee /proc/sys/vm/compact_memory; else reboot")


def _swap(memory: dict[str, int]) -> Iterator[Finding]:
    total, zram = memory.get("swap_total_mb"), memory.get("zram_total_mb", 0)
    if total == 0:
        yield Finding("note", "no-swap", "there is no swap; a TensorRT build may be killed", "SwapTotal 0", SWAP)
    elif total is not None and zram and total - zram < 64:
        yield Finding("note", "only-zram", "all swap is zram, which is compressed memory: a TensorRT build has no room beyond the memory",
                      f"{zram} MB zram", SWAP)


def _nvmap(root: Path, release: Release | None) -> Iterator[Finding]:
    text = _kernel_log(root)
    lines = [line for line in (text or "").splitlines() if _NVMAP.search(line)]
    if lines:
        known = release is not None and release.l4t == "36.4.7"
        yield Finding("warning", "nvmap-errors", "the kernel refused GPU memory since it was started (fragmentation, or too large a piece)"
                      + ("; Jetson Linux 36.4.7 drew many such reports" if known else ""),
                      f"{len(lines)} lines, the last: {lines[-1].strip()[:120]}",
                      "sudo reboot; " + ("if it comes back: update to JetPack 6.2.2 (Jetson Linux 36.5)" if known else
                                         f"before building: {DROP_CACHES}, and edgedit build --workspace-mb 512"))


def _kernel_log(root: Path) -> str | None:
    """The kernel's messages of this boot, as far as this user may read them."""
    program = find_program("dmesg", root)
    if program is not None:
        status, text = run([str(program)], timeout_s=5.0)
        if status == 0:
            return text
    return read_text(root / "var/log/kern.log")
