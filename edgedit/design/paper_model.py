"""Model (a): the latency of the paper's own stack, fitted by least squares to its Table 6 whenever it is asked (jetson.md §4).

    A: ms per batch = a + b·d·h              B: ms per batch = a + b·d·h + c·d·w

Both describe one runtime, precision and power mode that the paper does not name; d·h being what predicts latency is the signature
of attention that was not fused. They say nothing about edgedit's engines.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from edgedit.core.errors import UsageError
from edgedit.core.spec import DiTSpec
from edgedit.design.published import BATCH, IMAGES, ROWS, TOKENS, Row

TERMS = {"A": ("1", "d·h"), "B": ("1", "d·h", "d·w")}


@dataclass(frozen=True)
class Error:
    """Relative errors in percent of predictions for points that a fit had not seen."""

    median: float
    worst: float
    points: int


@dataclass(frozen=True)
class PaperModel:
    """One fit.

    Attributes:
        name: "A" or "B".
        coefficients: milliseconds per batch of 128, one a term of `TERMS`.
        r2: share of variance explained on the points it was fitted to.
        left_out: leave-one-out error.
        spans: lowest and highest d·h and d·w that it has seen.
    """

    name: str
    coefficients: tuple[float, ...]
    r2: float
    left_out: Error
    spans: dict[str, tuple[int, int]]

    @property
    def text(self) -> str:
        """The fit in one line, with its error."""
        terms = " + ".join(f"{c:.3g}" + ("" if t == "1" else f"·{t}") for c, t in zip(self.coefficients, TERMS[self.name], strict=True))
        return (f"{self.name}: {terms} ms per batch; R² {self.r2:.3f}; left out one by one: median {self.left_out.median:.1f} %, "
                f"worst {self.left_out.worst:.0f} %")

    def batch_ms(self, spec: DiTSpec) -> float:
        """Milliseconds per batch of 128."""
        return float(np.dot(self.coefficients, _terms(self.name, spec.depth, spec.width, spec.heads)))

    def seconds(self, spec: DiTSpec, images: int = IMAGES, batch: int = BATCH) -> float:
        """Seconds for `images`; another batch than 128 is scaled by images, which assumes that time per image stays.

        Raises:
            UsageError: another number of tokens than the paper's 256, about which its table says nothing.
        """
        if spec.tokens != TOKENS:
            raise UsageError("the paper's latencies are of 256 tokens", saw=f"{spec.tokens} tokens")
        return math.ceil(images / batch) * batch / BATCH * self.batch_ms(spec) / 1e3

    def beyond(self, spec: DiTSpec) -> list[str]:
        """Where the design lies outside what was fitted."""
        seen = {"d·h": spec.depth * spec.heads, "d·w": spec.depth * spec.width}
        return [f"{k} = {seen[k]} is outside the fitted {low} … {high}" for k, (low, high) in self.spans.items()
                if k in TERMS[self.name] and not low <= seen[k] <= high]


@cache
def paper_model(name: str = "B") -> PaperModel:
    """Fit "A" or "B" to the twelve designs of Table 6."""
    if name not in TERMS:
        raise UsageError(f"there is no paper model '{name}'", fix="A or B")
    x = np.array([_terms(name, r.depth, r.width, r.heads) for r in ROWS])
    y = np.array([_batch_ms(r) for r in ROWS])
    k = _fit(x, y)
    away = []
    for i in range(len(y)):
        rest = np.arange(len(y)) != i
        away.append(abs(float(x[i] @ _fit(x[rest], y[rest])) / y[i] - 1) * 100)
    r2 = 1 - float(((y - x @ k) ** 2).sum() / ((y - y.mean()) ** 2).sum())
    spans = {"d·h": [r.depth * r.heads for r in ROWS], "d·w": [r.depth * r.width for r in ROWS]}
    return PaperModel(name, tuple(float(v) for v in k), r2, Error(float(np.median(away)), max(away), len(y)),
                      {key: (min(v), max(v)) for key, v in spans.items()})


def _batch_ms(row: Row) -> float:
    return 1e3 * row.latency_s / math.ceil(IMAGES / BATCH)


def _terms(name: str, depth: int, width: int, heads: int) -> list[float]:
    values = {"1": 1.0, "d·h": float(depth * heads), "d·w": float(depth * width)}
    return [values[term] for term in TERMS[name]]


def _fit(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.lstsq(x, y, rcond=None)[0], np.float64)
