"""Does the record follow from its own raw logs? Median again from the batches, energy again from the power samples."""

from __future__ import annotations

import statistics
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from edgedit.core.record import Verdict
from edgedit.report.sources import RecordSource
from edgedit.report.words import count, energy, listing, number

MEDIAN_TOLERANCE = 0.005
ENERGY_TOLERANCE = 0.02


def recompute(source: RecordSource) -> list[Verdict]:
    """Verdicts of the comparison: "ok" naming what agrees, a warning for each figure that does not."""
    record, raw, agree, found = source.record, source.batches_ms, [], []
    if raw and record.batch_ms.count:
        median, told = statistics.median(raw), record.batch_ms.median
        if len(raw) != record.batch_ms.count:
            found.append(
                _bad(
                    "batches-differ",
                    f"the record counts {count(record.batch_ms.count)} batches, its raw log holds {count(len(raw))}",
                )
            )
        elif abs(median - told) > MEDIAN_TOLERANCE * told:
            found.append(
                _bad(
                    "median-differs",
                    f"the record's median is {number(told, 4)} ms, its raw batch times give {number(median, 4)} ms",
                )
            )
        else:
            agree.append(f"median {number(median, 4)} ms")
    window = next(((start, end) for name, start, end in source.windows if name == "run"), None)
    trace = next((t for t in source.traces if record.power and t.source == record.power.source and not t.counted), None)
    if record.power and trace and window:
        again, told = trapezoid(trace.t_s, trace.power_mw, *window), record.power.energy_total_mj
        if abs(again - told) > ENERGY_TOLERANCE * abs(told):
            found.append(_bad("energy-differs", f"the record's energy is {energy(told)}, its raw samples give {energy(again)}"))
        else:
            agree.append(f"energy {energy(again)}")
    if agree:
        found.append(
            Verdict(level="ok", code="recomputed", text=f"recomputed from the raw logs: {listing(agree)}, as in the record")
        )
    return found


def trapezoid(t_s: Sequence[float], power_mw: Sequence[float], start: float, end: float) -> float:
    """Energy in mJ of samples (s ascending, mW) over [start, end], linear between samples; uncovered time counts nothing."""
    start, end = max(start, t_s[0]), min(end, t_s[-1])
    if end <= start:
        return 0.0

    def at(t: float) -> float:
        right = bisect_left(t_s, t)
        if t_s[right] == t or right == 0:
            return power_mw[right]
        share = (t - t_s[right - 1]) / (t_s[right] - t_s[right - 1])
        return power_mw[right - 1] + share * (power_mw[right] - power_mw[right - 1])

    points = [(start, at(start)), *((t, p) for t, p in zip(t_s, power_mw, strict=True) if start < t < end), (end, at(end))]
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points))


def _bad(code: str, text: str) -> Verdict:
    return Verdict(level="warning", code=code, text=text, fix="profile again; a record and its logs belong together")
