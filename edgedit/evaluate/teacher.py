"""How far a student's images are from its teacher's of the same noise and class: pixels, and LPIPS where it is given.

Both sides are uint8, quantised once; differences are in levels of 255. Divided by 127.5 they are the training's, in [-1, 1].
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgedit.evaluate.generated import GeneratedSource
from edgedit.evaluate.scores import Score

ERROR = "standard error of the mean over pairs"


class Perceptual(Protocol):
    """LPIPS, given by the caller.

    Attributes:
        facts: which of the many, with the hashes of its weights.
    """

    facts: dict[str, Any]

    def __call__(self, made: NDArray[np.uint8], wanted: NDArray[np.uint8], /) -> NDArray[np.float64]:
        """uint8 (n, S, S, C) each → float64 (n,)."""


class ToTeacher:
    """Distances of each image to the teacher's.

    Args:
        source: with pairs.
        perceptual: None measures pixels alone.
    """

    def __init__(self, source: GeneratedSource, perceptual: Perceptual | None) -> None:
        self.source, self.perceptual = source, perceptual

    def rows(self, images: NDArray[np.uint8], indices: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Images uint8 (n, S, S, C) of the source's `indices` → "teacher_l1" (levels), "teacher_mse" (levels²), perhaps
        "teacher_lpips", all float64 (n,)."""
        wanted = self.source.targets(indices)
        away = (images.astype(np.int32) - wanted).reshape(len(images), -1)
        rows: dict[str, NDArray[Any]] = {"teacher_l1": np.abs(away).mean(1), "teacher_mse": np.square(away).mean(1)}
        return rows if self.perceptual is None else {**rows, "teacher_lpips": self.perceptual(images, wanted)}


def teacher_scores(l1: NDArray[np.float64], mse: NDArray[np.float64], lpips: NDArray[np.float64] | None,
                   facts: dict[str, Any] | None) -> list[Score]:
    """Means over pairs with their standard errors: L1 and RMSE in levels (PSNR beside it), and LPIPS under a name that says which.

    Args:
        l1, mse, lpips: (n,), a value for each pair.
        facts: of LPIPS.
    """
    (a, a_error), (m, m_error) = _mean(l1), _mean(mse)
    rmse = m**0.5
    details = {"unit": "levels of 255, RMS", "in_unit_range": rmse / 127.5, "psnr_db": float(20 * np.log10(255 / rmse)) if rmse else None}
    made = [Score("teacher-l1", a, a_error, ERROR, details={"unit": "levels of 255", "in_unit_range": a / 127.5}),
            Score("teacher-rmse", rmse, m_error / (2 * rmse) if m_error is not None and rmse else None, ERROR, details=details)]
    if lpips is not None and facts is not None:
        name = "-".join(["teacher-lpips", str(facts["net"]), str(facts["resolution"])])
        made.append(Score("teacher-lpips", *_mean(lpips), ERROR, name=name, details=facts))
    return made


def _mean(values: NDArray[np.float64]) -> tuple[float, float | None]:
    error = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
    return float(values.mean()), error
