"""What every power source has in common: its samples, its rule for the total, and the thread that polls it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from edgedit.core.record import Verdict

Clock = Callable[[], int]
"""Nanoseconds of one monotonic clock; every stamp of a log comes from the same one."""


@dataclass(frozen=True)
class PowerSample:
    """One reading of a source.

    Attributes:
        t_ns: `time.monotonic_ns` at the reading.
        rails_mw: rail → power in milliwatts. A rail that could not be read is absent, never 0.
        energy_mj: rail → energy counter in millijoules, unwrapped, from an arbitrary origin; only from sources that count.
        gpu_mhz: GPU clock at the reading, where the source tells it.
    """

    t_ns: int
    rails_mw: Mapping[str, float]
    energy_mj: Mapping[str, float] = field(default_factory=dict)
    gpu_mhz: float | None = None


Sink = Callable[[PowerSample], None]


@dataclass(frozen=True)
class Total:
    """Which rails make the total (their sum; a single one stands alone), and what that figure covers and leaves out.

    `known` is False where the rails match no board in the table and the sum of all of them is a guess.
    """

    parts: tuple[str, ...]
    boundary: str
    known: bool = True

    @property
    def name(self) -> str:
        return "+".join(self.parts)


class PowerSource(Protocol):
    """One way to read power. `start` hands samples to a sink from its own thread until `stop`.

    Attributes:
        name: "ina3221", "tegrastats", "rapl", "nvml".
        interval_s: the asked time between samples.
    """

    name: str
    interval_s: float

    def start(self, sink: Sink) -> None:
        """Begin; MissingError when the source turns out not to be there."""

    def stop(self) -> None:
        """End, and let go of everything that was opened. May be called twice."""

    def alive(self) -> bool:
        """Whether more samples may come."""

    def total(self, rails: Collection[str]) -> Total | None:
        """The rule for the total among these rails; None when they hold no total."""

    def verdicts(self) -> list[Verdict]:
        """What went wrong while it ran."""


# --- totals of Jetson boards ------------------------------------------------------------------------------------------------

_INPUT_RAILS = {
    "VDD_IN": "module input VDD_IN; carrier board, fan and NVMe excluded",
    "POM_5V_IN": "module input POM_5V_IN; carrier board and fan excluded",
    "VIN": "board input VIN",
}
_SUMS = (
    (("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), ("VDDQ_VDD2_1V8AO",)),   # AGX Orin
    (("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"), ()),                    # AGX Xavier
)


def jetson_total(rails: Collection[str]) -> Total | None:
    """The total of a Jetson board's rails.

    An input rail (VDD_IN, POM_5V_IN, Thor's VIN) is the total by itself; its parts are never added to it. AGX Orin and AGX
    Xavier have none, there the rails are summed. A set of rails that is in no table is summed with `known=False`.
    """
    for name, boundary in _INPUT_RAILS.items():
        if name in rails:
            return Total((name,), boundary)
    for needed, optional in _SUMS:
        if all(r in rails for r in needed):
            parts = (*needed, *(r for r in optional if r in rails))
            return Total(parts, f"sum of the module rails {', '.join(parts)}; carrier board, fan and NVMe excluded")
    if not rails:
        return None
    return Total(tuple(sorted(rails)), "sum of all rails; the board is not in the table", known=False)


# --- polling ----------------------------------------------------------------------------------------------------------------


class Poller:
    """A thread that calls `read` at a fixed rate and hands what it returns to the sink.

    The schedule is absolute (start + k · interval): a late reading does not shift the next ones, and missed ticks are left
    out rather than made up for. `read` returns None when a reading failed.
    """

    def __init__(self, name: str, interval_s: float, read: Callable[[], PowerSample | None]) -> None:
        self._name, self._interval_ns, self._read = name, max(1, round(interval_s * 1e9)), read
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.attempts = self.failures = 0
        self.crash: BaseException | None = None

    def start(self, sink: Sink) -> None:
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, args=(sink,), name=f"power-{self._name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive() and not self._stop.is_set()

    def verdicts(self) -> list[Verdict]:
        found = []
        if self.crash is not None:
            found.append(verdict("error", f"{self._name}-stopped", f"reading {self._name} stopped: "
                                 f"{type(self.crash).__name__}: {self.crash}; the samples until then are kept"))
        if self.failures:
            level: Literal["note", "warning"] = "warning" if self.failures > 0.05 * self.attempts else "note"
            found.append(verdict(level, f"{self._name}-failed-reads",
                                 f"{self.failures} of {self.attempts} readings of {self._name} failed and were left out"))
        return found

    def _run(self, sink: Sink) -> None:
        begin = time.monotonic_ns()
        tick = 0
        try:
            while True:
                self.attempts += 1
                sample = self._read()
                if sample is None:
                    self.failures += 1
                else:
                    sink(sample)
                tick = max(tick, (time.monotonic_ns() - begin) // self._interval_ns) + 1
                if self._stop.wait(max(0.0, (begin + tick * self._interval_ns - time.monotonic_ns()) / 1e9)):
                    return
        except Exception as error:  # a thread has no caller: the reason goes into the record
            self.crash = error


def verdict(level: Literal["ok", "note", "warning", "error"], code: str, text: str, fix: str = "") -> Verdict:
    """A `Verdict` by position."""
    return Verdict(level=level, code=code, text=text, fix=fix)
