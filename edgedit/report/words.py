"""Numbers in words: significant digits, units, thousands separators. What is unknown says so."""

from __future__ import annotations

import math
from pathlib import Path

SPACE = "\u00a0"
"""Between a number and its unit, so that a line never breaks there."""
UNKNOWN = "not measured"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def missing(why: str = "") -> str:
    """How an unknown value is shown: "not measured: why"."""
    return f"{UNKNOWN}: {why}" if why else UNKNOWN


def number(value: float | None, digits: int = 3) -> str:
    """A number with at least `digits` significant digits: whole parts are never cut, thousands are separated by commas.

    Below 10⁻⁴ and from 10¹⁵ on it is written as 1.23 × 10⁻⁵. None is "not measured"; NaN and infinity say so.
    """
    if value is None:
        return UNKNOWN
    if not math.isfinite(value):
        return "not a finite number"
    if value == 0:
        return "0"
    mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
    exponent = int(power)
    if not -4 <= exponent < 15:
        return f"{mantissa}{SPACE}×{SPACE}10{str(exponent).translate(_SUPERSCRIPT)}".replace("-", "−")
    return f"{value:,.{max(0, digits - 1 - exponent)}f}".replace("-", "−")


def count(value: int | None, noun: str = "") -> str:
    """A whole number with separators: "50,000 images"."""
    return UNKNOWN if value is None else f"{value:,}{SPACE + noun if noun else ''}".replace("-", "−")


def quantity(value: float | None, unit: str, digits: int = 3) -> str:
    """A number with its unit; without one when the value is unknown."""
    text = number(value, digits)
    return text if value is None or not math.isfinite(value) else f"{text}{SPACE}{unit}"


def seconds(value: float | None, digits: int = 4) -> str:
    """A duration: "412 µs", "12.30 ms", "198.7 s", "1,234 s (20 min 34 s)"."""
    if value is None or not math.isfinite(value) or value == 0:
        return quantity(value, "s")
    if abs(value) < 1e-3:
        return quantity(value * 1e6, "µs", 3)
    if abs(value) < 1:
        return quantity(value * 1e3, "ms", digits)
    text = quantity(value, "s", digits)
    if value < 600:
        return text
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    spoken = f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
    return f"{text} ({spoken.replace(' ', SPACE)})"


def power(value_mw: float | None) -> str:
    """Milliwatts as "850 mW" or "8.12 W"."""
    if value_mw is not None and abs(value_mw) < 1000:
        return quantity(value_mw, "mW")
    return quantity(None if value_mw is None else value_mw / 1e3, "W")


def energy(value_mj: float | None) -> str:
    """Millijoules as "27.5 mJ", "812 J" or "1.62 kJ"."""
    if value_mj is None or not math.isfinite(value_mj):
        return quantity(value_mj, "J")
    for limit, scale, unit in ((1e3, 1, "mJ"), (1e6, 1e3, "J"), (1e9, 1e6, "kJ")):
        if abs(value_mj) < limit:
            return quantity(value_mj / scale, unit)
    return quantity(value_mj / 1e9, "MJ")


def joules(value_j: float | None) -> str:
    """Joules in the unit that fits: "27.5 mJ", "812 J"."""
    return energy(None if value_j is None else 1e3 * value_j)


def millions(value: int | None) -> str:
    """A parameter count both ways: "421,068 (0.42 M)"."""
    return UNKNOWN if value is None else f"{value:,} ({number(value / 1e6, 2)}{SPACE}M)"


def flops(value: float | None) -> str:
    """Operations per image: "0.216 GFLOP"."""
    return quantity(None if value is None else value / 1e9, "GFLOP")


def plural(n: int, noun: str) -> str:
    """ "1 record", "3 records"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def listing(items: list[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}" if items else ""


def near(path: str) -> str:
    """A path as one would type it here: relative to the current folder if it lies inside it. Pages are sent around; homes are not."""
    try:
        return Path(path).relative_to(Path.cwd()).as_posix()
    except ValueError:
        return path
