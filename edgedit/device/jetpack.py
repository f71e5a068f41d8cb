"""Which JetPack a Jetson runs, what comes with it, and its power modes. No guesses for releases outside the table."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from edgedit.device.mode_tools import ask_live_id
from edgedit.device.nvpmodel import read_table
from edgedit.device.sysfs import read_text

_RELEASE = re.compile(r"#\s*R([0-9]{1,4})\s*\(release\),\s*REVISION:\s*([0-9]{1,4}(?:\.[0-9]{1,4})*)")


@dataclass(frozen=True)
class Release:
    """A Jetson Linux release: `l4t` "36.4.3"; the rest None where the table does not know it."""

    l4t: str
    jetpack: str | None = None
    python: str | None = None
    cuda: str | None = None
    tensorrt: str | None = None

    @property
    def major(self) -> int:
        return int(self.l4t.split(".")[0])


# Jetson Linux (a prefix stands for the whole line) → JetPack, Python of its Ubuntu, CUDA, TensorRT of its apt repository.
_TABLE = (
    ("35.3.1", "5.1.1", "3.8", "11.4", "8.5.2"), ("35.4.1", "5.1.2", "3.8", "11.4", "8.5.2"),
    ("35.5.0", "5.1.3", "3.8", "11.4", "8.5.2"), ("35.6.0", "5.1.4", "3.8", "11.4", "8.5.2"),
    ("35.6.1", "5.1.5", "3.8", "11.4", "8.5.2"), ("35.6.2", "5.1.5", "3.8", "11.4", "8.5.2"),
    ("35.6.3", "5.1.5", "3.8", "11.4", "8.5.2"), ("35.6.4", "5.1.6", "3.8", "11.4", "8.5.2"),
    ("36.3.0", "6.0", "3.10", "12.2", "8.6.2"), ("36.4.0", "6.1", "3.10", "12.6", "10.3.0"),
    ("36.4.2", "6.1", "3.10", "12.6", "10.3.0"), ("36.4.3", "6.2", "3.10", "12.6", "10.3.0"),
    ("36.4.4", "6.2.1", "3.10", "12.6", "10.3.0"), ("36.4.7", "6.2.1", "3.10", "12.6", "10.3.0"),
    ("36.5.0", "6.2.2", "3.10", "12.6", "10.3.0"), ("38.2", "7.0", "3.12", "13.0", "10.13.3"),
    ("38.4", "7.1", "3.12", "13.0", "10.13.3"), ("39.2.0", "7.2", "3.12", "13.2", "10.16.2"),
    ("39.2.1", "7.2.1", "3.12", "13.2", "10.16.2"),
)


def parse_release(text: str) -> Release | None:
    """The release named in the first line of `/etc/nv_tegra_release`; None when it is not such a line.

    "# R36 (release), REVISION: 4.3" is Jetson Linux 36.4.3, JetPack 6.2.
    """
    match = _RELEASE.search(text)
    if match is None:
        return None
    l4t = f"{match[1]}.{match[2]}"
    for known, *rest in _TABLE:
        if l4t == known or l4t.startswith(known + "."):
            return Release(l4t, *rest)
    return Release(l4t)


def read_release(root: Path = Path("/")) -> Release | None:
    """The release of the tree; None where there is no readable `/etc/nv_tegra_release` (no Jetson, or a bare container)."""
    return parse_release(read_text(root / "etc/nv_tegra_release") or "")


def version_numbers(version: str) -> tuple[int, ...]:
    """Leading numbers of a version: "10.3.0+jp6" → (10, 3, 0)."""
    leading = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in leading[0].split(".")) if leading else ()


@dataclass(frozen=True)
class PowerModes:
    """The power modes of `/etc/nvpmodel.conf` (id → name) and the live one; ids mean different modes on different boards."""

    names: dict[int, str]
    live_id: int | None

    @property
    def live(self) -> str | None:
        return None if self.live_id is None else self.names.get(self.live_id)


def read_power_modes(root: Path = Path("/")) -> PowerModes:
    """The modes of the board's configuration and the live one's id; empty and None where they are missing."""
    return PowerModes(read_table(root).names, ask_live_id(root))
