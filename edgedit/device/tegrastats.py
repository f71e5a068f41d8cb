"""Read a line of tegrastats, JetPack 4 to 7. Pure: text in, a frozen sample out.

A line is a row of fields parted by spaces. Which fields are there, and how they are spelt, changes with the release, the board
and the user's rights, so every field may be missing (then it is None or absent, never 0) and unknown ones are skipped. Forms:
NVIDIA Jetson Linux Developer Guide, "tegrastats Utility", r35.6 to r38.4, and lines of JetPack 4 and 7.2 boards.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Rail:
    """One power rail, milliwatts.

    Attributes:
        now_mw: the reading. May be negative.
        mean_mw: running mean since tegrastats started: useless for a window inside a log.
        peak_mw: third number of JetPack 7.2, else None.
    """

    now_mw: int
    mean_mw: int
    peak_mw: int | None = None


@dataclass(frozen=True)
class Memory:
    """RAM, SWAP or IRAM: used and total in MB; largest free blocks (RAM, IRAM) and cached part (SWAP) where printed."""

    used_mb: float
    total_mb: float
    free_blocks: int | None = None
    free_block_mb: float | None = None
    cached_mb: float | None = None


@dataclass(frozen=True)
class Load:
    """Load in percent and clocks in MHz of a core or an engine; each None or empty where not printed."""

    percent: int | None = None
    mhz: tuple[int, ...] = ()


@dataclass(frozen=True)
class TegrastatsSample:
    """What one line said.

    Attributes:
        stamp: wall time as printed (1 s resolution, local time zone), or None.
        ram, swap, iram: memory, or None.
        cpu: one entry a core, None for a core that is powered down; None as a whole where the field is missing.
        emc: memory controller, or None.
        gpu: "GR3D", "GR3D2" → load.
        engines: "VIC", "APE", "NVDEC" … → load; None where the engine is off.
        temperature_c: sensor → °C; None where the sensor is off (-256C) or a dummy (PMIC@100C).
        temperature_max_c: sensor → second number of JetPack 7.2.
        rails: rail → power.
        skipped: words that belong to no known field.
    """

    stamp: str | None = None
    ram: Memory | None = None
    swap: Memory | None = None
    iram: Memory | None = None
    cpu: tuple[Load | None, ...] | None = None
    emc: Load | None = None
    gpu: dict[str, Load] = field(default_factory=dict)
    engines: dict[str, Load | None] = field(default_factory=dict)
    temperature_c: dict[str, float | None] = field(default_factory=dict)
    temperature_max_c: dict[str, float] = field(default_factory=dict)
    rails: dict[str, Rail] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()


_N = r"[0-9]{1,9}"
_END = r"(?=\s|$)"
_LOAD = rf"(?:(?P<percent>{_N})%)?(?:@(?:(?P<mhz>{_N})|\[(?P<list>{_N}(?:,{_N})*)\]))?"
_STAMP = re.compile(rf"[0-9]{{2}}-[0-9]{{2}}-[0-9]{{4}} [0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}}{_END}")
_MEMORY = re.compile(rf"(?P<name>I?RAM|SWAP) (?P<used>{_N})/(?P<total>{_N})(?P<unit>[kM])B"
                     rf"(?: ?\(lfb (?:(?P<blocks>{_N})x)?(?P<block>{_N})(?P<block_unit>[kM])B\))?"
                     rf"(?: \(cached (?P<cached>{_N})(?P<cached_unit>[kM])B\))?{_END}")
_CORE = rf"(?:{_N}%(?:@{_N})?|off)"
_CPU = re.compile(rf"CPU \[(?P<cores>{_CORE}(?:,{_CORE})*)\]{_END}")
_CLOCKED = re.compile(rf"(?P<name>EMC|GR3D[0-9]*)_FREQ {_LOAD}{_END}")
_ENGINE = re.compile(r"(?P<name>(?:VIC|APE|SE|OFA|MSENC|NVENC|NVDEC|NVJPG|NVDLA|DLA|PVA)[0-9]*)(?:_FREQ)? "
                     rf"(?:(?P<off>off)|(?P<plain>{_N})|{_LOAD}){_END}")
_TEMPERATURE = re.compile(rf"(?P<name>[A-Za-z][\w-]*)@(?P<now>-?{_N}(?:\.[0-9]+)?)C(?:/(?P<max>-?{_N}(?:\.[0-9]+)?)C)?{_END}")
_WATTS = rf"(?P<now>-?{_N})mW/(?P<mean>-?{_N})mW(?:/(?P<peak>-?{_N})mW)?"
_BARE = r"(?P<now>-?[0-9]{1,9})/(?P<mean>-?[0-9]{1,9})(?:/(?P<peak>-?[0-9]{1,9}))?"
_RAIL_MW = re.compile(rf"(?P<name>[A-Z][A-Z0-9_]*) {_WATTS}{_END}")
_RAIL_BARE = re.compile(rf"(?P<name>(?:VDD|VIN|POM_)[A-Z0-9_]*|GPU|CPU|SOC|CV|SYS5V) {_BARE}{_END}")
_WORD = re.compile(r"\S+")
_NOT_RAILS = frozenset({"RAM", "SWAP", "IRAM", "NC"})

SENSOR_OFF_C = -256.0


def parse_line(text: str) -> TegrastatsSample | None:
    """Parse one line; None when nothing in it is a field of tegrastats. Never raises, whatever the text.

    A rail is a name followed by two or three numbers that all carry `mW`, or, in JetPack 4's form without unit, one of the
    names that only rails have. RAM, SWAP, IRAM and unconnected channels (NC) are never rails.
    """
    line = _Line()
    at = 0
    while (word := _WORD.search(text, at)) is not None:
        at = line.take(text, word)
    fields = {name: value for name, value in vars(line).items() if value}
    if not fields.keys() - {"stamp", "skipped"}:
        return None
    return TegrastatsSample(**{**fields, "skipped": tuple(line.skipped)})


class _Line:
    """A sample while its line is read; attributes as in `TegrastatsSample`."""

    def __init__(self) -> None:
        self.stamp: str | None = None
        self.ram: Memory | None = None
        self.swap: Memory | None = None
        self.iram: Memory | None = None
        self.cpu: tuple[Load | None, ...] | None = None
        self.emc: Load | None = None
        self.gpu: dict[str, Load] = {}
        self.engines: dict[str, Load | None] = {}
        self.temperature_c: dict[str, float | None] = {}
        self.temperature_max_c: dict[str, float] = {}
        self.rails: dict[str, Rail] = {}
        self.skipped: list[str] = []

    def take(self, text: str, word: re.Match[str]) -> int:
        """Read the field that begins with `word`, or put the word aside; where to go on."""
        name, at = word[0], word.start()
        if "@" in name:
            found = self._temperature(_TEMPERATURE.match(text, at))
        elif name in ("RAM", "SWAP", "IRAM"):
            found = self._memory(_MEMORY.match(text, at)) or self._rail(_RAIL_MW.match(text, at))
        elif name.endswith("_FREQ"):
            found = self._clocked(_CLOCKED.match(text, at)) or self._engine(_ENGINE.match(text, at))
        elif name[0].isdigit():
            found = self._stamp(_STAMP.match(text, at))
        else:
            found = (self._rail(_RAIL_MW.match(text, at) or _RAIL_BARE.match(text, at)) or self._engine(_ENGINE.match(text, at))
                     or self._cores(_CPU.match(text, at)))
        if found is None:
            self.skipped.append(name)
        return word.end() if found is None else found

    def _temperature(self, m: re.Match[str] | None) -> int | None:
        if m is None:
            return None
        name, now = m["name"], float(m["now"])
        dummy = now == SENSOR_OFF_C or (name.upper() == "PMIC" and now == 100.0)
        self.temperature_c[name] = None if dummy else now
        if m["max"] is not None and not dummy:
            self.temperature_max_c[name] = float(m["max"])
        return m.end()

    def _rail(self, m: re.Match[str] | None) -> int | None:
        if m is None:
            return None
        if m["name"] not in _NOT_RAILS:
            self.rails[m["name"]] = Rail(int(m["now"]), int(m["mean"]), None if m["peak"] is None else int(m["peak"]))
        return m.end()

    def _memory(self, m: re.Match[str] | None) -> int | None:
        if m is None:
            return None
        blocks, block = (None, None) if m["block"] is None else (int(m["blocks"] or 1), _mb(m["block"], m["block_unit"]))
        cached = None if m["cached"] is None else _mb(m["cached"], m["cached_unit"])
        setattr(self, m["name"].lower(), Memory(_mb(m["used"], m["unit"]), _mb(m["total"], m["unit"]), blocks, block, cached))
        return m.end()

    def _cores(self, m: re.Match[str] | None) -> int | None:
        if m is None:
            return None
        self.cpu = tuple(_core(core) for core in m["cores"].split(","))
        return m.end()

    def _clocked(self, m: re.Match[str] | None) -> int | None:
        if m is None or (load := _load(m)) is None:
            return None
        if m["name"] == "EMC":
            self.emc = load
        else:
            self.gpu[m["name"]] = load
        return m.end()

    def _engine(self, m: re.Match[str] | None) -> int | None:
        if m is None:
            return None
        load = Load(None, (int(m["plain"]),)) if m["plain"] else _load(m)
        if load is None and not m["off"]:
            return None
        self.engines[m["name"]] = load
        return m.end()

    def _stamp(self, m: re.Match[str] | None) -> int | None:
        if m is None:
            return None
        self.stamp = m[0]
        return m.end()


def _load(m: re.Match[str]) -> Load | None:
    clocks = m["list"] or m["mhz"]
    if m["percent"] is None and clocks is None:
        return None
    return Load(None if m["percent"] is None else int(m["percent"]), tuple(int(f) for f in clocks.split(",")) if clocks else ())


def _core(text: str) -> Load | None:
    if text == "off":
        return None
    percent, _, mhz = text.partition("%")
    return Load(int(percent), (int(mhz[1:]),) if mhz else ())


def _mb(number: str, unit: str) -> float:
    return int(number) if unit == "M" else int(number) / 1024
