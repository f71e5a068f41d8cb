"""Clocks of the GPU, the memory and the processor, and whether they are pinned. Read only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgedit.device.sysfs import gpu_devfreq, read_number, read_text

_EMC = "sys/kernel/debug/bpmp/debug/clk/emc"
_EMC_CAPS = ("sys/kernel/nvpmodel_clk_cap/emc", "sys/kernel/nvpmodel_emc_cap/emc_iso_cap")


@dataclass(frozen=True)
class Range:
    """A clock's lowest, highest and present value, all in the unit of its file (Hz for GPU and memory, kHz for cores)."""

    low: float
    high: float
    now: float | None = None

    @property
    def pinned(self) -> bool:
        return self.low == self.high


def gpu_clock(root: Path = Path("/")) -> Range | None:
    """The GPU's devfreq range in Hz; None where there is none."""
    node = gpu_devfreq(root)
    return None if node is None else _range(node, "min_freq", "max_freq", "cur_freq")


def cpu_clocks(root: Path = Path("/")) -> dict[str, Range]:
    """cpufreq policy → range in kHz."""
    found = {}
    for policy in policies(root):
        clock = _range(policy, "scaling_min_freq", "scaling_max_freq", "scaling_cur_freq")
        if clock is not None:
            found[policy.name] = clock
    return found


def memory_clock_hz(root: Path = Path("/")) -> int | None:
    """The memory controller's (EMC) clock; readable by root only, else None."""
    value = read_number(root / _EMC / "rate")
    return None if value is None else int(value)


def memory_cap_hz(root: Path = Path("/")) -> int | None:
    """The cap that the power mode puts on the memory's clock; None where unreadable or without a cap (0)."""
    values = (read_number(root / name) for name in _EMC_CAPS)
    return next((int(value) for value in values if value), None)


def clocks_locked(root: Path = Path("/")) -> bool | None:
    """Whether clocks are pinned (minimum equals maximum) on the GPU and every CPU policy that tells; None if none tells."""
    known = [clock for clock in (gpu_clock(root), *cpu_clocks(root).values()) if clock is not None]
    return all(clock.pinned for clock in known) if known else None


def governors(root: Path = Path("/")) -> list[str]:
    """The governors of the CPU policies, each once."""
    return sorted({name for p in policies(root) if (name := read_text(p / "scaling_governor"))})


def policies(root: Path) -> list[Path]:
    """The cpufreq policies' folders."""
    return sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*"))


def _range(folder: Path, low: str, high: str, now: str) -> Range | None:
    a, b = read_number(folder / low), read_number(folder / high)
    return None if a is None or b is None else Range(a, b, read_number(folder / now))
