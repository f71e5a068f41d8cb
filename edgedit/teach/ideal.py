"""The closed-form optimal denoiser of a data set: a teacher that is exact and needs no weights.

For images y_1 … y_n of one class, the denoiser that minimises the expected squared error at noise level σ is their
posterior mean (Karras et al. 2022, appendix B.3, equation 57, here per class):

    D(x; σ) = Σ w_i y_i,   w_i ∝ exp(-|x - y_i|² / 2σ²).

Two matrix products do the work, 4·n·D floating-point operations a row and evaluation (61 MFLOP for CIFAR-10's 5,000 images a
class; 35 evaluations at 90 GFLOP/s a core would allow 42 images/s). `Trajectory` needs about half of them, see there.

Numbers. Images are kept as whole grey levels less the rounded class mean, which float32 holds exactly; the score of an
image, s_i = <x, y_i> - |y_i|²/2, differs from -|x - y_i|²/2 by a term that all share. A float32 product of length D errs by at
most γ·|x|·|y_i| with γ = D·2⁻²⁴. Where that may move a weight by more than `_TOLERANCE`, which happens at small σ, the images
that can still matter are few and their scores are computed again in float64. Weights below 1e-12 of the largest are dropped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgedit.core.errors import UsageError
from edgedit.teach.data import ImageSet
from edgedit.teach.sampler import Denoise

CUT = math.log(1e12)
"""Images whose log-weight is this far below the largest are left out; all of them together weigh under n·1e-12."""
_TOLERANCE = 5e-3  # log-weight: float32 errors are some 1/√D of their bound; above this, scores are computed again in float64
_SCORES = 1 << 24  # scores held at a time: rows are taken in groups of _SCORES / n
_BLOCK_BYTES = 128 << 20  # float32 images made from bytes at a time
_WORTH = 1 << 20  # values in a class from which on float32 and bounds save more than they cost
LEVEL = 127.5
"""Grey levels for a change of 1 in [-1, 1]."""


class ClassImages:
    """The images of one class, as the teacher needs them: uint8 at rest, float32 or float64 in blocks when used."""

    def __init__(self, planes: Tensor, keep_bytes: int) -> None:
        self.planes = planes                           # (n, D) uint8
        self.count, self.values = planes.shape
        self._block = max(1, _BLOCK_BYTES // (4 * self.values))
        total = torch.zeros(self.values, dtype=torch.float64, device=planes.device)
        for start in range(0, self.count, self._block):
            total += planes[start : start + self._block].sum(0, dtype=torch.int64)
        self.centre = torch.round(total / self.count)  # (D,) float64, whole grey levels
        self._kept: Tensor | None = None
        squares = [y.square().sum(1, dtype=torch.float64) for _, y in self.blocks(None, torch.float32)]
        self.half = torch.cat(squares) / 2             # (n,) |y|²/2, exact
        self.reach = float((2 * self.half.max()).sqrt())
        self.keep = self.count * self.values * 4 <= keep_bytes

    def blocks(self, columns: Tensor | None, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
        """Centred images, exact in either type, as (place among `columns`, (m, D))."""
        if columns is None and dtype == torch.float32 and self._kept is not None:
            yield slice(0, self.count), self._kept
            return
        m = self.count if columns is None else len(columns)
        for start in range(0, m, self._block):
            place = slice(start, min(m, start + self._block))
            part = self.planes[place] if columns is None else self.planes[columns[place]]
            yield place, part.to(dtype) - self.centre.to(dtype)

    def warm(self) -> None:
        """Keep the float32 images until `cool`, if they fit."""
        if self.keep and self._kept is None:
            self._kept = torch.cat([y for _, y in self.blocks(None, torch.float32)])

    def cool(self) -> None:
        """Give the float32 images back."""
        self._kept = None

    def rows(self, which: Tensor) -> Tensor:
        """Images `which`, centred, float64 (B, D)."""
        return self.planes[which].double() - self.centre

    def scores(self, x: Tensor, columns: Tensor | None, dtype: torch.dtype) -> Tensor:
        """s = <x, y> - |y|²/2 for centred x float64 (B, D) → dtype (B, m)."""
        half = (self.half if columns is None else self.half[columns]).to(dtype)
        narrow = x.to(dtype)
        out = torch.empty(len(x), len(half), dtype=dtype, device=x.device)
        for place, y in self.blocks(columns, dtype):
            out[:, place] = narrow @ y.T
        return out.sub_(half)

    def error(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """The most that a score of `scores` may be off, float64 (B, 1)."""
        unit = 2.0**-24 if dtype == torch.float32 else 2.0**-53
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        return unit * self.reach * ((self.values + 4) * length + 2 * self.reach)

    def mean(self, scores: Tensor, sigma: float, columns: Tensor | None) -> Tensor:
        """Mean of the images `columns` weighted by their scores (B, m) → centred, float64 (B, D)."""
        weights = (scores - scores.amax(1, keepdim=True)).div_(sigma**2).exp_()  # (B, m)
        total = weights.sum(1, keepdim=True, dtype=torch.float64)
        out = torch.zeros(len(weights), self.values, dtype=weights.dtype, device=weights.device)
        for place, y in self.blocks(columns, weights.dtype):
            out.addmm_(weights[:, place], y)
        return out.double() / total                                            # (B, D)

    def evaluate(self, x: Tensor, sigma: float, columns: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Posterior mean over the images `columns` (None: all).

        Args:
            x: float64 (B, D), centred, in grey levels, as is sigma.

        Returns:
            The mean, centred, float64 (B, D); an upper bound of every score, float64 (B, m); the place of the highest, (B,).
        """
        if self.count * self.values < _WORTH:                                  # small: float64 costs nothing
            exact = self.scores(x, columns, torch.float64)
            return self.mean(exact, sigma, columns), exact + self.error(x, torch.float64), exact.argmax(1)
        scores, error = self.scores(x, columns, torch.float32), self.error(x, torch.float32)
        upper = scores + error                                                 # (B, m) float64
        if float(error.max()) <= _TOLERANCE * self.values**0.5 * sigma**2:
            return self.mean(scores, sigma, columns), upper, scores.argmax(1)
        least = upper.amax(1, keepdim=True) - 2 * error - CUT * sigma**2       # below it, a weight is under 1e-12 for certain
        near = (upper >= least).any(0).nonzero()[:, 0]
        which = near if columns is None else columns[near]
        exact = self.scores(x, which, torch.float64)
        upper[:, near] = exact + self.error(x, torch.float64)
        return self.mean(exact, sigma, which), upper, near[exact.argmax(1)]


class IdealTeacher:
    """The ideal denoiser of an `ImageSet`, on any torch device.

    Memory: the images as bytes, one class of them as float32 if that fits `keep_bytes` (CIFAR-10: 61 MB), and 64 MB of scores.
    """

    name = "ideal"
    one_class_a_batch = True
    piece: int | None = None

    def __init__(self, planes: NDArray[np.uint8], counts: list[int], shape: tuple[int, int, int], class_names: list[str],
                 identity: dict[str, Any], *, device: str = "cpu", keep_bytes: int = 256 << 20) -> None:
        """Use `IdealTeacher.of`; here planes is uint8 (N, C·H·W), sorted by class, with `counts` images a class."""
        self.shape, self.class_names, self.identity, self.device = shape, list(class_names), dict(identity), device
        whole = torch.from_numpy(planes).to(device)
        self.parts = [ClassImages(part, keep_bytes) for part in whole.split(counts)]
        self._warm: ClassImages | None = None

    @classmethod
    def of(cls, data: ImageSet, *, device: str = "cpu") -> IdealTeacher:
        """The ideal teacher of a data set."""
        return cls(*sorted_planes(data), device=device)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.parts)

    @torch.inference_mode()
    def denoise(self, x: Tensor, sigma: float, labels: Tensor) -> Tensor:
        """Posterior mean of the clean image.

        Args:
            x: (B, C, H, W), floating point, image in [-1, 1] plus sigma times unit noise.
            sigma: noise level, above 0.
            labels: int64 (B,), 0 … classes - 1.

        Returns:
            float64 (B, C, H, W) in [-1, 1]; exact to about 1e-6 of the range where float32 products are used.
        """
        return self.by_class(x, sigma, labels, lambda _, rows, part, flat: part.evaluate(flat, sigma * LEVEL)[0])

    def trajectory(self) -> Denoise:
        """A denoiser for the successive calls of one sampling run: the same result, for less work where that pays."""
        from edgedit.teach.trajectory import Trajectory

        largest = max(part.count for part in self.parts) * self.parts[0].values
        return Trajectory(self) if self.device == "cpu" and largest >= _WORTH else self.denoise

    def by_class(self, x: Tensor, sigma: float, labels: Tensor, evaluate: Any) -> Tensor:
        """Split rows by class, centre them in grey levels, call evaluate(class, rows, images, flat), and put back together."""
        if not sigma > 0 or not math.isfinite(sigma):
            raise UsageError("the ideal teacher needs a noise level above 0", saw=sigma)
        if tuple(x.shape[1:]) != self.shape or labels.shape != (len(x),):
            raise UsageError(f"the ideal teacher takes images of shape {self.shape}, one label each",
                             saw=f"{tuple(x.shape)}, {tuple(labels.shape)}")
        flat = x.to(self.device, torch.float64).reshape(len(x), -1)            # (B, D)
        out = torch.empty_like(flat)
        with _whole_float32():
            for k in torch.unique(labels).tolist():
                if not 0 <= k < self.classes:
                    raise UsageError(f"no class {k}", fix=f"labels are 0 … {self.classes - 1}")
                part = self._take(k)
                rows = (labels == k).nonzero()[:, 0].to(self.device)
                step = max(1, _SCORES // part.count)
                for piece in rows.split(step):
                    levels = flat[piece].add_(1).mul_(LEVEL).sub_(part.centre)
                    out[piece] = (evaluate(k, piece, part, levels) + part.centre) / LEVEL - 1
        return out.reshape(x.shape)

    def _take(self, k: int) -> ClassImages:
        part = self.parts[k]
        if self._warm is not part:
            if self._warm is not None:
                self._warm.cool()
            part.warm()
            self._warm = part
        return part


def sorted_planes(data: ImageSet) -> tuple[NDArray[np.uint8], list[int], tuple[int, int, int], list[str], dict[str, Any]]:
    """What `IdealTeacher` is made of: planes uint8 (N, C·H·W) sorted by class, images a class, shape, names, identity."""
    order = np.argsort(data.labels, kind="stable")
    planes = np.ascontiguousarray(data.images[order].transpose(0, 3, 1, 2)).reshape(len(data), -1)
    counts = np.bincount(data.labels, minlength=len(data.class_names)).tolist()
    identity = {"teacher": IdealTeacher.name, "data": data.name, "data_sha256": data.sha256, "images": len(data)}
    return planes, counts, data.shape, list(data.class_names), identity


@contextmanager
def _whole_float32() -> Iterator[None]:
    """Full float32 products while the block runs, whatever the program allows elsewhere (TF32, bfloat16)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
