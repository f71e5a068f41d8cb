"""How sure a difference of two series is: circular block bootstrap (Politis and Romano 1992), the same numbers every time.

Batch times and power samples drift, so neighbours are alike; drawing single values would promise too much. Blocks of √n
neighbours keep that likeness. The interval holds what varied within the two runs; it cannot know how a run differs from the
same run on another day.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 1000
LEAST = 20
"""Fewer values than these give no interval."""
METHOD = (f"95 % intervals: circular block bootstrap within each run, {DRAWS:,} draws, blocks of √n neighbouring values, percentiles 2.5 "
          "and 97.5 of the ratio. They hold what varied during the runs, not what varies from run to run: for that, profile each again.")

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""From (draws, n) to (draws,)."""


@dataclass(frozen=True)
class Ratio:
    """b over a, in percent away from equal; `low` and `high` are None when there were too few values for an interval."""

    percent: float
    low: float | None = None
    high: float | None = None

    @property
    def clear(self) -> bool:
        """Whether the interval excludes "no difference"."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def median(draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """Median of each draw."""
    return np.asarray(np.median(draws, axis=1))


def mean(draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of each draw."""
    return np.asarray(draws.mean(axis=1))


def p99(draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """Smallest value of each draw with 99 % at or below it, as records count it."""
    return np.asarray(np.percentile(draws, 99, axis=1, method="inverted_cdf"))


def resample(values: Sequence[float], statistic: Statistic, seed: int) -> NDArray[np.float64]:
    """The statistic of `DRAWS` resampled series, float64 (DRAWS,)."""
    series = np.asarray(values, np.float64)
    n = len(series)
    block = max(1, math.isqrt(n))
    count = -(-n // block)
    rng = np.random.default_rng(seed)
    found, step = [], max(1, 4_000_000 // n)
    for first in range(0, DRAWS, step):
        starts = rng.integers(0, n, (min(step, DRAWS - first), count, 1))
        places = ((starts + np.arange(block)) % n).reshape(len(starts), -1)[:, :n]
        found.append(statistic(series[places]))
    return np.concatenate(found)


def ratio(a: Sequence[float], b: Sequence[float], statistic: Statistic, *, times: tuple[Sequence[float], Sequence[float]] | None = None,
          invert: bool = False) -> Ratio | None:
    """How far b's statistic is from a's, percent of a's, with its interval.

    Args:
        times: two more series whose means multiply the statistics (power times time is energy), drawn on their own.
        invert: the ratio of the inverses, so that times compare as rates.
    """
    series = [a, b, *(times or ())]
    if any(not s or min(s) <= 0 for s in series):
        return None

    def combine(values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        first, second = (values[0] * values[2], values[1] * values[3]) if times else (values[0], values[1])
        return first / second if invert else second / first

    whole = [f(np.asarray(s, np.float64)[None, :]) for s, f in zip(series, (statistic, statistic, mean, mean), strict=False)]
    value = 100 * (float(combine(whole)[0]) - 1)
    if min(map(len, series)) < LEAST:
        return Ratio(value)
    drawn = [resample(s, f, seed) for seed, (s, f) in enumerate(zip(series, (statistic, statistic, mean, mean), strict=False))]
    low, high = np.percentile(100 * (combine(drawn) - 1), [2.5, 97.5])
    return Ratio(value, float(low), float(high))
