"""Log power beside a run, from several sources at once, and say what the run took.

`power.jsonl` holds one JSON object a line, each handed to the kernel at once, so a kill loses at most the line being written:

    {"t_ns": 123, "source": "ina3221", "rails_mw": {"VDD_IN": 8123.0, …}}     a sample; "energy_mj", "gpu_mhz" where known
    {"window": "idle" | "run", "t0_ns": 123, "t1_ns": 456}                    a window over which power was integrated

Stamps are `time.monotonic_ns`, the clock of everything in a record.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from edgedit.core.errors import MissingError, UsageError
from edgedit.core.record import POWER_FILE, Power, Verdict
from edgedit.core.say import Event, Say, silent
from edgedit.device.energy import Idle, power_over_window, rail_integral, spread_percent
from edgedit.device.power_source import PowerSample, PowerSource, verdict

MIN_IDLE_S = 10.0
"""An idle baseline shorter than this is told as a note."""


class PowerLog:
    """Power sources running side by side. `with open_power() as log:` starts them; leaving stops them, whatever happened.

    Args:
        sources: in order of preference.
        folder: as for `open_power`.
        required: a source that does not start raises instead of becoming a verdict.
        primaries: names that may stand as the run's power; None means any. Others are reported beside it.
        absent: name → why a source that was looked for is not there.
        notes: verdicts to begin with.
    """

    def __init__(self, sources: Sequence[PowerSource], *, folder: Path | None = None, required: bool = False,
                 primaries: Sequence[str] | None = None, absent: Mapping[str, MissingError] | None = None,
                 notes: Sequence[Verdict] = ()) -> None:
        self.sources = list(sources)
        self._folder, self._required, self._primaries = folder, required, primaries
        self._absent, self._notes = dict(absent or {}), list(notes)
        self._samples: dict[str, list[PowerSample]] = {s.name: [] for s in self.sources}
        self._idle: dict[str, Idle] = {}
        self._judged: dict[str, list[Verdict]] = {}
        self._windows: set[tuple[int, int]] = set()
        self._file: BinaryIO | None = None
        self._write_error = ""
        self._news = threading.Condition()

    def __enter__(self) -> PowerLog:
        if self._folder is not None and self.sources:
            self._file = (self._folder / POWER_FILE).open("wb", buffering=0)
        try:
            for source in list(self.sources):
                self._start(source)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for source in self.sources:
            source.stop()
        if self._file is not None:
            self._file.close()
            self._file = None

    def idle(self, seconds: float, *, say: Say = silent) -> None:
        """Measure the idle baseline: wait `seconds` while the sources sample, and keep each source's mean total power.

        To be called when the machine is in the state of the run (same mode and clocks, runtime loaded) but doing nothing.
        """
        if not self.sources or seconds <= 0:
            return
        begin, last = time.monotonic_ns(), time.monotonic_ns() + round(seconds * 1e9)
        while (now := time.monotonic_ns()) < last:
            say(Event("idle power", done=int((now - begin) / 1e9), total=round(seconds), unit="s", values=self._latest_mw()))
            time.sleep(min(1.0, (last - now) / 1e9))
        end = time.monotonic_ns()
        for source in self.sources:
            self._wait_past(source, end)
            samples = self.samples(source.name)
            total = source.total({name for s in samples for name in s.rails_mw})
            whole = None if total is None else rail_integral(samples, total.parts, begin, end)
            if total is None or whole is None:
                continue
            self._idle[source.name] = Idle(whole.mean_mw, whole.covered_s, spread_percent(samples, total.parts, begin, end))
        self._mark("idle", begin, end)
        say(Event("idle power", done=round(seconds), total=round(seconds), unit="s", values=self._latest_mw()))

    def window(self, t0_ns: int, t1_ns: int, images: int) -> Power | None:
        """The run's power over [t0_ns, t1_ns] (`time.monotonic_ns`), from the first source that measured; None if none did.

        Waits up to a few intervals for the samples that close the window. What to think of it is in `verdicts`.
        """
        return next((p for p in self._all(t0_ns, t1_ns, images) if self._may_stand(p.source)), None)

    def others(self, t0_ns: int, t1_ns: int, images: int) -> list[Power]:
        """The same window as the other sources saw it."""
        found = self._all(t0_ns, t1_ns, images)
        first = next((p for p in found if self._may_stand(p.source)), None)
        return [p for p in found if p is not first]

    def gpu_mhz(self, t0_ns: int, t1_ns: int) -> float | None:
        """Mean GPU clock over the window from the first source that tells it, else None: latency means little without it."""
        for source in self.sources:
            clocks = [s.gpu_mhz for s in self.samples(source.name) if s.gpu_mhz is not None and t0_ns <= s.t_ns <= t1_ns]
            if clocks:
                return sum(clocks) / len(clocks)
        return None

    def samples(self, source: str) -> list[PowerSample]:
        """Everything a source has measured so far."""
        with self._news:
            return list(self._samples[source])

    def verdicts(self) -> list[Verdict]:
        """What went wrong or should be known: about the sources, the idle baseline and the windows asked for."""
        found = [*self._notes, *self._absence_verdicts()]
        for source in self.sources:
            found += source.verdicts() + self._idle_verdicts(source.name) + self._judged.get(source.name, [])
        if self._write_error:
            found.append(verdict("warning", "power-log", f"{POWER_FILE} could not be written to its end: {self._write_error}; "
                                 "the figures are from the samples in memory", "free some space"))
        return list({(v.code, v.text): v for v in found}.values())

    # --- inside ---

    def _start(self, source: PowerSource) -> None:
        try:
            source.start(lambda sample: self._take(source.name, sample))
        except MissingError as error:
            if self._required:
                raise
            self._absent[source.name] = error
            self.sources.remove(source)

    def _take(self, name: str, sample: PowerSample) -> None:
        line: dict[str, object] = {"t_ns": sample.t_ns, "source": name, "rails_mw": _rounded(sample.rails_mw)}
        if sample.energy_mj:
            line["energy_mj"] = _rounded(sample.energy_mj)
        if sample.gpu_mhz is not None:
            line["gpu_mhz"] = round(sample.gpu_mhz, 3)
        with self._news:
            self._samples[name].append(sample)
            self._write(line)
            self._news.notify_all()

    def _write(self, line: dict[str, object]) -> None:
        if self._file is None or self._write_error:
            return
        try:
            self._file.write((json.dumps(line) + "\n").encode())
        except OSError as error:
            self._write_error = error.strerror or str(error)

    def _mark(self, window: str, t0_ns: int, t1_ns: int) -> None:
        with self._news:
            if (t0_ns, t1_ns) not in self._windows:
                self._windows.add((t0_ns, t1_ns))
                self._write({"window": window, "t0_ns": t0_ns, "t1_ns": t1_ns})

    def _all(self, t0_ns: int, t1_ns: int, images: int) -> list[Power]:
        if images < 1 or t1_ns <= t0_ns:
            raise UsageError("a power window needs at least one image and an end after its start", saw=(t0_ns, t1_ns, images))
        found = []
        for source in self.sources:
            self._wait_past(source, t1_ns)
            power, self._judged[source.name] = power_over_window(source, self.samples(source.name), t0_ns, t1_ns, images,
                                                                 self._idle.get(source.name))
            found += [] if power is None else [power]
        self._mark("run", t0_ns, t1_ns)
        return found

    def _wait_past(self, source: PowerSource, t_ns: int) -> None:
        """Until the source has a sample after `t_ns`, it ended, or it is clear that none comes."""
        give_up = time.monotonic() + max(0.5, 4 * source.interval_s)
        with self._news:
            while source.alive() and time.monotonic() < give_up:
                samples = self._samples[source.name]
                if samples and samples[-1].t_ns >= t_ns:
                    return
                self._news.wait(0.05)

    def _may_stand(self, name: str) -> bool:
        return self._primaries is None or name in self._primaries

    def _latest_mw(self) -> dict[str, float]:
        for source in self.sources:
            samples = self.samples(source.name)
            total = source.total(samples[-1].rails_mw) if samples and samples[-1].rails_mw else None
            if total is not None:
                return {"power_mw": round(sum(samples[-1].rails_mw[p] for p in total.parts))}
        return {}

    def _absence_verdicts(self) -> list[Verdict]:
        """Why there is no figure at all, or which of the sources that could have given it are missing."""
        missing = {name: e for name, e in self._absent.items() if self._may_stand(name)}
        why = "; ".join(e.what + (f" ({e.saw})" if e.saw else "") for e in missing.values())
        fix = next((e.fix for e in missing.values() if e.fix), "")
        if missing and not any(self._may_stand(s.name) for s in self.sources):
            beside = f"; {', '.join(s.name for s in self.sources)} was logged, but did not compute" if self.sources else ""
            return [verdict("note", "no-power-source", f"no power source: {why}{beside}", fix)]
        return [verdict("note", "power-source-absent", why, fix)] if missing else []

    def _idle_verdicts(self, name: str) -> list[Verdict]:
        idle, found = self._idle.get(name), []
        if idle is not None and idle.window_s < 0.99 * MIN_IDLE_S:
            found.append(verdict("note", "idle-short", f"the idle baseline has {idle.window_s:.1f} s of {MIN_IDLE_S:.0f} s"))
        if idle is not None and idle.cov_percent > 10:
            found.append(verdict("warning", f"{name}-idle-unsteady", f"{name}: power moved by {idle.cov_percent:.0f} % "
                                 "(standard deviation) during the idle baseline", "close other programs and run again"))
        return found


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}
