"""Lay the fake Jetson over the root of this file system, and its tegrastats. Run by run.sh inside the chroot, nowhere else."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, "/edgedit")
from tests.fake_jetson import build_tree, install_tegrastats, write

ROOT = Path("/")
CORE = """processor\t: {number}
BogoMIPS\t: 62.50
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd42
CPU revision\t: 1

"""
"""What a kernel prints of a Cortex-A78AE; ONNX Runtime chooses its code by it and by the features that the emulator grants."""

if __name__ == "__main__":
    if not Path("/.proc/self").exists():
        sys.exit("make_board.py overwrites /etc, /proc and /sys: it runs in the chroot that run.sh makes")
    build_tree(ROOT, sys.argv[1])
    install_tegrastats(ROOT)
    cores = len(os.sched_getaffinity(0))
    write(ROOT, "proc/cpuinfo", "".join(CORE.format(number=n) for n in range(cores)))
    for name in ("possible", "present", "online"):  # ONNX Runtime's pool asks the kernel for the cores
        write(ROOT, f"sys/devices/system/cpu/{name}", f"0-{cores - 1}\n")
