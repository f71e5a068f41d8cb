"""The power modes of a board, from its own configuration: names, ids, caps and what a change would need. Pure reading.

Ids mean different modes on different boards (0 is 15 W on an Orin Nano Super and MAXN on an AGX Orin), so modes are asked for
by name. Grammar: the header of NVIDIA's own nvpmodel configuration files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgedit.core.errors import UsageError, did_you_mean
from edgedit.device.sysfs import read_text

CONF = "etc/nvpmodel.conf"
STATUS = "var/lib/nvpmodel/status"
_MODE = re.compile(r"<\s*POWER_MODEL\s+ID=(\d{1,9})\s+NAME=([^\s>]+)\s*>")
_DEFAULT = re.compile(r"<\s*PM_CONFIG\s+DEFAULT=(\d{1,9})\s*>")
_LIVE = re.compile(r"pmode:\s*(\d{1,9})")
_GATES = ("TPC_POWER_GATING", "FBP_POWER_GATING", "GPU_POWER_GATING")


@dataclass(frozen=True)
class PowerMode:
    """One mode.

    Attributes:
        id: its number on this board.
        name: "25W".
        values: (parameter, argument) → text, as ("GPU", "MAX_FREQ") → "918000000".
    """

    id: int
    name: str
    values: Mapping[tuple[str, str], str] = field(default_factory=dict)

    @property
    def gpu_max_hz(self) -> int | None:
        """Cap of the GPU clock; None where the mode leaves it to the chip (-1) or does not say."""
        text = self.values.get(("GPU", "MAX_FREQ"), "")
        return int(text) if text.isdigit() and int(text) > 0 else None

    @property
    def gates(self) -> dict[str, int]:
        """Masks of GPU parts that are switched off, by parameter; a higher count of bits is a smaller GPU."""
        found = {}
        for (parameter, _), text in self.values.items():
            if parameter in _GATES:
                try:
                    found[parameter] = int(text, 0)
                except ValueError:
                    continue
        return found


@dataclass(frozen=True)
class PowerTable:
    """All modes of a configuration by id, and the one it starts with."""

    modes: Mapping[int, PowerMode] = field(default_factory=dict)
    default_id: int | None = None

    @property
    def names(self) -> dict[int, str]:
        return {number: mode.name for number, mode in self.modes.items()}

    def find(self, name: str) -> PowerMode:
        """The mode called `name`: any case, "-" and " " as "_", with or without "MODE_", or a beginning that fits one mode only.

        Raises:
            UsageError: no such mode, several, or a bare number (ids are no names); the board's own names are listed.
        """
        asked = _plain(name)
        listed = ", ".join(mode.name for mode in self.modes.values()) or "none"
        if not asked or asked.isdigit():
            raise UsageError(f"power modes are asked for by name, not '{name}': numbers mean different modes on different boards",
                             saw=f"this board has {listed}", fix="give one of these names")
        plain = {mode.id: _plain(mode.name) for mode in self.modes.values()}
        for fits in ([n for n, p in plain.items() if p == asked], [n for n, p in plain.items() if p.startswith(asked)]):
            if len(fits) == 1:
                return self.modes[fits[0]]
            if fits:
                raise UsageError(f"'{name}' fits several power modes", saw=", ".join(self.modes[n].name for n in fits),
                                 fix="give the whole name")
        raise UsageError(f"this board has no power mode '{name}'", saw=f"its modes are {listed}",
                         fix=did_you_mean(name, [mode.name for mode in self.modes.values()]))

    def other_gpu(self, one: int, other: int) -> bool:
        """Whether two modes switch different parts of the GPU off: such a change needs a reboot once the GPU was used."""
        if one not in self.modes or other not in self.modes:
            return False
        return self.modes[one].gates != self.modes[other].gates


def parse_conf(text: str) -> PowerTable:
    """Read a configuration. Never raises; lines outside a mode (parameter definitions, comments) are skipped."""
    modes: dict[int, tuple[str, dict[tuple[str, str], str]]] = {}
    values: dict[tuple[str, str], str] | None = None
    default = None
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("<"):
            values = None
            if (mode := _MODE.match(line)) is not None:
                values = {}
                modes[int(mode[1])] = (mode[2], values)
            elif (found := _DEFAULT.match(line)) is not None:
                default = int(found[1])
        elif values is not None and not line.startswith("#") and len(words := line.split()) >= 3:
            values[words[0], words[1]] = words[2]
    return PowerTable({number: PowerMode(number, name, held) for number, (name, held) in modes.items()}, default)


def conf_file(root: Path = Path("/")) -> Path:
    """The configuration in force: `etc/nvpmodel.conf`, or what it links to inside `root`."""
    file = root / CONF
    for _ in range(4):
        try:
            target = Path(os.readlink(file))
        except OSError:
            break
        file = root / target.relative_to("/") if target.is_absolute() else file.parent / target
    return file


def read_table(root: Path = Path("/")) -> PowerTable:
    """The board's modes; empty where there is no configuration."""
    return parse_conf(read_text(conf_file(root)) or "")


def read_live_id(root: Path = Path("/")) -> int | None:
    """The live mode's id by nvpmodel's status file ("pmode:0002"); None where it is missing."""
    live = _LIVE.search(read_text(root / STATUS) or "")
    return int(live[1]) if live else None


def parse_query(text: str) -> tuple[str, int] | None:
    """Name and id printed by `nvpmodel -q` ("NV Power Mode: 15W", then "0"), warnings before them or not; else None."""
    found = re.search(r"NV Power Mode:\s*(\S+)\s*\n\s*(\d{1,9})\s*$", text, re.MULTILINE)
    return (found[1], int(found[2])) if found else None


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower()).removeprefix("mode_")
