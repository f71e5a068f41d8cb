"""Energy of a window out of stamped power samples: pure functions, no clocks, no files."""

from __future__ import annotations

import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgedit.core.record import Power, PowerRail, Verdict
from edgedit.device.power_source import PowerSample, PowerSource, verdict

Series = Sequence[tuple[int, float]]
"""(t_ns, value) in rising order of time."""

MIN_WINDOW_S = 60.0
"""MLPerf Power (arXiv 2410.12032) asks for at least this long."""


@dataclass(frozen=True)
class Integral:
    """A window of a power series; `covered_s` is the part of it that lies between the first and the last sample."""

    energy_mj: float
    covered_s: float
    max_mw: float
    samples: int
    rate_hz: float
    largest_gap_s: float

    @property
    def mean_mw(self) -> float:
        return self.energy_mj / self.covered_s


@dataclass(frozen=True)
class Idle:
    """The idle baseline of one source: mean of its total, over how long, and how much it moved (standard deviation)."""

    mean_mw: float
    window_s: float
    cov_percent: float


def interpolate(series: Series, t_ns: int) -> float:
    """Value at `t_ns` on the straight line between its neighbours; `t_ns` must lie within the series."""
    right = bisect_left(series, t_ns, key=_stamp)
    t1, v1 = series[right]
    if t1 == t_ns:
        return v1
    t0, v0 = series[right - 1]
    return v0 + (v1 - v0) * ((t_ns - t0) / (t1 - t0))


def integrate(samples: Series, t0_ns: int, t1_ns: int) -> Integral | None:
    """Trapezoid of (t_ns, mW) samples over [t0_ns, t1_ns], linear between samples and at the window's edges.

    Nothing is extrapolated: where the samples begin late or end early, only the covered part is integrated, and
    `largest_gap_s` includes the uncovered edge. Exact for power that is linear between samples.

    Returns:
        energy in millijoules (mW · s) with the figures that say how good it is; None when no part longer than 0 is covered.
    """
    if len(samples) < 2:
        return None
    start, end = max(t0_ns, samples[0][0]), min(t1_ns, samples[-1][0])
    if end <= start:
        return None
    inner = samples[bisect_right(samples, start, key=_stamp):bisect_left(samples, end, key=_stamp)]
    points = [(start, interpolate(samples, start)), *inner, (end, interpolate(samples, end))]
    energy = sum((b[0] - a[0]) * (a[1] + b[1]) for a, b in pairwise(points)) / 2 / 1e9
    count, rate, gap = _density(samples, t0_ns, t1_ns)
    return Integral(energy, (end - start) / 1e9, max(v for _, v in points), count, rate, gap)


def difference(counter: Series, power: Series, t0_ns: int, t1_ns: int) -> Integral | None:
    """Energy over the window from a cumulative counter (t_ns, mJ): its value at the end less its value at the start.

    Exact but for the linear interpolation at the two edges. `power` (t_ns, mW) serves only for the maximum.
    """
    if len(counter) < 2:
        return None
    start, end = max(t0_ns, counter[0][0]), min(t1_ns, counter[-1][0])
    if end <= start:
        return None
    energy = interpolate(counter, end) - interpolate(counter, start)
    inside = [v for t, v in power if start <= t <= end]
    mean = energy / ((end - start) / 1e9)
    count, rate, gap = _density(counter, t0_ns, t1_ns)
    return Integral(energy, (end - start) / 1e9, max([mean, *inside]), count, rate, gap)


def rail_integral(samples: Sequence[PowerSample], parts: Sequence[str], t0_ns: int, t1_ns: int) -> Integral | None:
    """Energy of the sum of `parts`; by counter where all of them count, else by trapezoid of their power."""
    power = [(s.t_ns, sum(s.rails_mw[p] for p in parts)) for s in samples if all(p in s.rails_mw for p in parts)]
    counter = [(s.t_ns, sum(s.energy_mj[p] for p in parts)) for s in samples if all(p in s.energy_mj for p in parts)]
    return difference(counter, power, t0_ns, t1_ns) if len(counter) >= 2 else integrate(power, t0_ns, t1_ns)


def spread_percent(samples: Sequence[PowerSample], parts: Sequence[str], t0_ns: int, t1_ns: int) -> float:
    """Coefficient of variation, in percent, of the summed `parts` over the samples in the window; 0 with fewer than two."""
    values = [sum(s.rails_mw[p] for p in parts) for s in samples
              if t0_ns <= s.t_ns <= t1_ns and all(p in s.rails_mw for p in parts)]
    mean = statistics.fmean(values) if values else 0.0
    return 100 * statistics.stdev(values) / abs(mean) if len(values) > 1 and mean else 0.0


def power_over_window(source: PowerSource, samples: Sequence[PowerSample], t0_ns: int, t1_ns: int, images: int,
                      idle: Idle | None) -> tuple[Power | None, list[Verdict]]:
    """One source's figures over the run window, and what to think of them.

    Where the samples cover only a part of the window (a source that died), energies are those of the covered part, and
    energy per image is that part's mean power times the whole window over the images; a verdict says so.

    Args:
        source: for its name and its rule for the total.
        samples: all its samples, from before the window to after it.
        t0_ns, t1_ns: run window on the samples' clock.
        images: images made in the window.
        idle: baseline for the net figures, or None.
    """
    window_s = (t1_ns - t0_ns) / 1e9
    names = sorted({name for s in samples for name in s.rails_mw})
    total = source.total(names)
    whole = rail_integral(samples, total.parts, t0_ns, t1_ns) if total is not None and window_s > 0 else None
    if total is None or whole is None:
        text = f"{source.name} gave {len(samples)} samples with {', '.join(names) or 'no rail'}: too few for the run's energy"
        return None, [verdict("warning", f"{source.name}-no-energy", text, "run for longer, or see `edgedit doctor`")]
    rails = [PowerRail(name=name, mean_mw=i.mean_mw, max_mw=i.max_mw, energy_mj=i.energy_mj)
             for name in names if (i := rail_integral(samples, (name,), t0_ns, t1_ns)) is not None]
    if len(total.parts) > 1:
        rails.insert(0, PowerRail(name=total.name, mean_mw=whole.mean_mw, max_mw=whole.max_mw, energy_mj=whole.energy_mj))
    net_mw = None if idle is None else whole.mean_mw - idle.mean_mw
    power = Power(
        source=source.name, boundary=total.boundary, rails=rails, total_rail=total.name, window_s=whole.covered_s,
        samples=whole.samples, rate_hz=whole.rate_hz, largest_gap_s=whole.largest_gap_s,
        idle_mw=idle.mean_mw if idle else None, idle_window_s=idle.window_s if idle else None,
        energy_total_mj=whole.energy_mj, energy_net_mj=None if net_mw is None else net_mw * whole.covered_s,
        mj_per_image=whole.mean_mw * window_s / images,
        net_mj_per_image=None if net_mw is None else net_mw * window_s / images)
    return power, _judge(source, power, window_s, net_mw, total.known)


def _judge(source: PowerSource, power: Power, window_s: float, net_mw: float | None, known: bool) -> list[Verdict]:
    name, found = source.name, []
    covered = 100 * power.window_s / window_s
    if covered < 99:
        found.append(verdict("warning", f"{name}-partial", f"{name} covers {power.window_s:.1f} s of the run's "
                             f"{window_s:.1f} s ({covered:.0f} %); energy per image is taken from the mean power of that part"))
    elif power.largest_gap_s > max(1.0, 5 * source.interval_s):
        found.append(verdict("warning", f"{name}-gap", f"the largest gap between {name} samples: {power.largest_gap_s:.2f} s; "
                             "power is taken as a straight line across it", "close other programs and run again"))
    if power.rate_hz < 0.5 / source.interval_s:
        found.append(verdict("note", f"{name}-slow", f"{name} gave {power.rate_hz:.1f} samples/s, asked were "
                             f"{1 / source.interval_s:.0f}"))
    if window_s < MIN_WINDOW_S:
        found.append(verdict("note", "power-short-window", f"the run took {window_s:.1f} s; MLPerf Power asks for at least "
                             f"{MIN_WINDOW_S:.0f} s of steady work", "profile more images"))
    if net_mw is not None and power.idle_mw is not None and net_mw < -0.005 * power.idle_mw:  # less is rounding, or noise
        found.append(verdict("warning", f"{name}-below-idle", f"{name}: the run drew less than the idle baseline "
                             f"({-net_mw:.0f} mW less); the baseline was not idle", "close other programs and run again"))
    if not known:
        found.append(verdict("warning", f"{name}-unknown-rails", f"total is the sum of {power.total_rail}: the board's rails "
                             "are not in the table, so parts may be counted twice"))
    return found


def _density(samples: Series, t0_ns: int, t1_ns: int) -> tuple[int, float, float]:
    """Samples inside the window, their rate, and the largest time within the window without one."""
    inside = [t for t, _ in samples[bisect_left(samples, t0_ns, key=_stamp):bisect_right(samples, t1_ns, key=_stamp)]]
    first, last = bisect_right(samples, t0_ns, key=_stamp) - 1, bisect_left(samples, t1_ns, key=_stamp)
    before = samples[first][0] if first >= 0 else t0_ns
    after = samples[last][0] if last < len(samples) else t1_ns
    stamps = [before, *inside, after]
    gap = max(b - a for a, b in pairwise(stamps)) / 1e9
    span = (inside[-1] - inside[0]) / 1e9 if len(inside) > 1 else 0.0
    return len(inside), (len(inside) - 1) / span if span > 0 else 0.0, gap


def _stamp(point: tuple[int, float]) -> int:
    return point[0]
