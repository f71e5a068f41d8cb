"""Which processor this is."""

from __future__ import annotations

import platform
import re
from pathlib import Path

_ARM_PARTS = {"0xd03": "Cortex-A53", "0xd07": "Cortex-A57", "0xd08": "Cortex-A72", "0xd0b": "Cortex-A76",
              "0xd0c": "Neoverse-N1", "0xd40": "Neoverse-V1", "0xd42": "Cortex-A78AE", "0xd49": "Neoverse-N2",
              "0xd4f": "Neoverse-V2", "0xd83": "Neoverse-V3AE"}


def processor(root: Path = Path("/")) -> str:
    """The processor's name by the kernel; Arm's cores, which give a number alone, by Arm's own names.

    Args:
        root: root of the file system.
    """
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    part = re.search(r"^CPU part\s*:\s*(\S+)", text, re.MULTILINE)
    if part is not None:
        return _ARM_PARTS.get(part[1].lower(), f"Arm part {part[1]}")
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return model[1].strip() if model else platform.processor() or platform.machine()
