"""Statistics of batch times and what to think of them; the process's peak memory."""

from __future__ import annotations

import math
import resource
import statistics
from collections.abc import Sequence
from pathlib import Path

from edgedit.core.record import Distribution, Verdict

COV_LIMIT_PERCENT = 2.5
"""Above this coefficient of variation trtexec calls a measurement unstable (TensorRT samples/common/sampleReporting.cpp)."""
DRIFT_LIMIT_PERCENT = 5.0
"""The last fifth of the batches slower than the first fifth by more than this: the clocks came down."""
FEW_BATCHES = 10


def distribution(values: Sequence[float]) -> Distribution:
    """Statistics as trtexec reports them, of at least one value.

    Percentile p is the value below which the (100 - p) % slowest, rounded down, are left out; the coefficient of variation is
    the population standard deviation over the mean.
    """
    ordered = sorted(values)
    n, mean = len(ordered), math.fsum(ordered) / len(ordered)

    def percentile(p: float) -> float:
        return ordered[max(0, n - 1 - int((1 - p / 100) * n + 1e-9))]

    cov_percent = 100 * statistics.pstdev(ordered) / mean if mean else 0.0
    return Distribution(count=n, min=ordered[0], mean=mean, median=statistics.median(ordered), p90=percentile(90),
                        p95=percentile(95), p99=percentile(99), max=ordered[-1], cov_percent=cov_percent)


def steadiness(compute_ms: Sequence[float], on_jetson: bool) -> list[Verdict]:
    """Verdicts on the batch times, in the order measured: spread, drift, number."""
    found: list[Verdict] = []
    stats = distribution(compute_ms)
    calm = "run `sudo jetson_clocks`" if on_jetson else "close other programs, and fix the clocks (CPU governor `performance`)"
    if stats.cov_percent > COV_LIMIT_PERCENT:
        found.append(Verdict(level="warning", code="unstable", fix=calm,
                             text=f"unstable: CoV {stats.cov_percent:.1f} % > {COV_LIMIT_PERCENT} %"))
    elif stats.count >= FEW_BATCHES:
        found.append(Verdict(level="ok", code="stable", text=f"stable: CoV {stats.cov_percent:.1f} % ≤ {COV_LIMIT_PERCENT} %"))
    if stats.count < FEW_BATCHES:
        found.append(Verdict(level="note", code="few-batches", fix="profile more images",
                             text=f"{stats.count} batches are few: percentiles mean little"))
        return found
    fifth = max(2, stats.count // 5)
    first, last = statistics.median(compute_ms[:fifth]), statistics.median(compute_ms[-fifth:])
    if last > first * (1 + DRIFT_LIMIT_PERCENT / 100):
        cool = "check cooling and the power mode (`sudo nvpmodel -q`)" if on_jetson else "check cooling and other load"
        found.append(Verdict(level="warning", code="slowed", fix=cool,
                             text=f"slowed down during the run: median {first:.2f} ms at first, {last:.2f} ms at the end "
                                  f"({100 * (last / first - 1):+.1f} %): throttling or other load"))
    return found


def bottleneck(phases_s: dict[str, float], waited_s: float, wall_s: float) -> list[Verdict]:
    """Verdicts on what other than the graph took the time (the limits of trtexec's report, and waiting for noise)."""
    found = []
    if waited_s > 0.05 * wall_s:
        found.append(Verdict(level="note", code="input-bound",
                             text=f"the runtime waited {100 * waited_s / wall_s:.0f} % of the time for noise: images/s is "
                                  "below what the graph alone would give"))
    for phase in ("upload", "download"):
        if phases_s[phase] >= phases_s["compute"] > 0:
            found.append(Verdict(level="note", code=f"{phase}-bound", text=f"{phase} takes as long as the graph"))
    if phases_s["save"] > phases_s["compute"] > 0:
        found.append(Verdict(level="note", code="save-bound", text="saving takes longer than the graph",
                             fix="save to a faster disk, or profile without saving"))
    return found


def reset_peak_memory() -> bool:
    """Start the peak of resident memory afresh for this process (Linux); False where that is not possible."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return True
    except OSError:
        return False


def peak_memory_mb() -> float:
    """Highest resident memory of this process since `reset_peak_memory`, or since its start, in MB (10⁶ bytes)."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
