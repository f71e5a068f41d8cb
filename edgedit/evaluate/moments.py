"""Mean and covariance from a stream, and the Fréchet distance between two Gaussians."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgedit.core.errors import NumericsError, UsageError


@dataclass(frozen=True)
class Moments:
    """Count, mean and scatter of rows seen so far, in float64.

    Attributes:
        n: rows.
        mean: float64 (d,).
        scatter: float64 (d, d): Σ (x - mean)(x - mean)ᵀ.
    """

    n: int
    mean: NDArray[np.float64]
    scatter: NDArray[np.float64]

    @classmethod
    def of(cls, rows: NDArray[np.floating]) -> Moments:
        """Moments of rows (n, d), n ≥ 1."""
        x = np.asarray(rows, np.float64)
        if not np.isfinite(x).all():
            raise NumericsError("features are not finite", saw=f"{int((~np.isfinite(x)).sum())} of {x.size} values")
        mean = x.mean(0)
        away = x - mean
        return cls(len(x), mean, away.T @ away)

    def __add__(self, other: Moments) -> Moments:
        """Moments of both sets together (Chan, Golub and LeVeque 1983, eq. 1.5): exact up to rounding, whatever the sizes."""
        n = self.n + other.n
        step = other.mean - self.mean
        return Moments(n, self.mean + step * (other.n / n),
                       self.scatter + other.scatter + np.outer(step, step) * (self.n * other.n / n))

    @property
    def covariance(self) -> NDArray[np.float64]:
        """float64 (d, d), with n - 1 below the line (ddof = 1), as np.cov has it."""
        if self.n < 2:
            raise UsageError("a covariance needs two images or more", saw=self.n)
        return self.scatter / (self.n - 1)


def frechet(mean: NDArray[np.float64], covariance: NDArray[np.float64], other_mean: NDArray[np.float64],
            other_covariance: NDArray[np.float64]) -> float:
    """Squared Fréchet distance |m₁ - m₂|² + tr(C₁ + C₂ - 2 (C₁C₂)^½) (Heusel et al. 2017, eq. 6).

    tr (C₁C₂)^½ = tr (C₁^½ C₂ C₁^½)^½, whose argument is symmetric: two symmetric eigenproblems, real and stable for
    covariances without full rank too, where a general square root of C₁C₂ is not.

    Raises:
        NumericsError: something is not finite.
    """
    values, vectors = np.linalg.eigh(_symmetric(covariance))
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(_symmetric(root @ other_covariance @ root)).clip(min=0)).sum()
    away = mean - other_mean
    distance = float(away @ away + np.trace(covariance) + np.trace(other_covariance) - 2 * cross)
    if not np.isfinite(distance):
        raise NumericsError("the Fréchet distance is not finite", saw=distance)
    return max(distance, 0.0)  # of equal sets: a rounding error of either sign


def _symmetric(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    if not np.isfinite(matrix).all():
        raise NumericsError("a covariance is not finite")
    return (matrix + matrix.T) / 2
