"""The ideal teacher along one sampling run: what an evaluation learned bounds the next, so most images need no second look.

Let s_i(x) = <x, y_i> - |y_i|²/2 be the score of image i (`ideal.py`). For any two states p and x and any 0 < r < 1, put
c = (x - r·p)/(1 - r). Then

    s_i(x) = r·s_i(p) + (1 - r)·s_i(c)  ≤  r·s_i(p) + (1 - r)·|c|²/2,

because s_i(c) = |c|²/2 - |c - y_i|²/2. With r the ratio of the two noise levels, c is a mixture of the posterior means that
the sampler used on its way from p to x, so |c - y_i| is small for the images that matter and the bound is tight for them.
An image whose bound lies 27.6 σ² (a weight of 1e-12) below the known score of the best one is left out: that is the same
cut as in the full evaluation. The bound holds whatever the states are; states far from one run only make it weak, and then
everything is computed.

On CIFAR-10 nearly all images matter down to σ ≈ 5, a few hundred at 3.3 (bounds leave them all, as batches need different
ones), and from 1.1 on one is left: its bound proves that the posterior mean is that image to within 1e-12, and nothing needs
to be searched or multiplied any more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from edgedit.teach.ideal import CUT, LEVEL, ClassImages, IdealTeacher

_DENSE = 0.6  # share of a class's images above which taking them all is faster than gathering some


@dataclass(frozen=True)
class _Known:
    """What an evaluation leaves behind for rows of one class; scores in grey levels²."""

    sigma: float
    x: Tensor                                          # (B, D) float64, centred
    best: Tensor                                       # (B,) index of the image with the highest score
    columns: Tensor | None                             # (m,) images with a bound of their own; None: all
    upper: Tensor                                      # (B, m) float64: the score is at most this
    rest: Tensor                                       # (B,) float64: nor is that of any other image more than this


class Trajectory:
    """A stateful `Denoise` for one run of a sampler; equal to `IdealTeacher.denoise` up to weights of 1e-12.

    Call it with the same rows in the same order, σ never rising; a call that does not fit (other labels, a rising σ) starts
    anew. `searched` counts the (row, image) scores computed, for reports.
    """

    def __init__(self, teacher: IdealTeacher) -> None:
        self.teacher = teacher
        self.searched = 0
        self._labels: Tensor | None = None
        self._latest: dict[tuple[int, int], _Known] = {}
        self._anchor: dict[tuple[int, int], _Known] = {}

    @torch.inference_mode()
    def __call__(self, x: Tensor, sigma: float, labels: Tensor) -> Tensor:
        """As `IdealTeacher.denoise`."""
        if self._labels is None or not torch.equal(self._labels, labels):
            self._labels = labels.clone()
            self._latest, self._anchor = {}, {}

        def evaluate(k: int, rows: Tensor, part: ClassImages, flat: Tensor) -> Tensor:
            return self._rows((k, int(rows[0])), part, flat, sigma * LEVEL)

        return self.teacher.by_class(x, sigma, labels, evaluate)

    def _rows(self, key: tuple[int, int], part: ClassImages, x: Tensor, sigma: float) -> Tensor:
        """Posterior mean of the rows `key`, all in grey levels."""
        latest = self._latest.get(key)
        if latest is not None and sigma < latest.sigma:                        # Heun asks twice at one level: the anchor stays
            self._anchor[key] = latest
        anchor = self._anchor.get(key)
        known = None
        if anchor is not None and sigma < anchor.sigma:
            mean, known = self._narrow(part, x, sigma, anchor)
        if known is None:
            mean, known = self._full(part, x, sigma)
        self._latest[key] = known
        return mean

    def _full(self, part: ClassImages, x: Tensor, sigma: float) -> tuple[Tensor, _Known]:
        self.searched += len(x) * part.count
        mean, upper, best = part.evaluate(x, sigma)
        return mean, _Known(sigma, x, best, None, upper, torch.full_like(x[:, 0], -torch.inf))

    def _narrow(self, part: ClassImages, x: Tensor, sigma: float, anchor: _Known) -> tuple[Tensor, _Known | None]:
        """Evaluate over the images that the anchor's bounds leave; no knowledge if they say nothing."""
        r = sigma / anchor.sigma
        slack = (x - r * anchor.x).square().sum(1) / (2 * (1 - r))             # (B,)    (1 - r)·|c|²/2
        mean = part.rows(anchor.best)                                          # (B, D)  right for rows with one image left
        floor = (x * mean).sum(1) - part.half[anchor.best] - CUT * sigma**2    # (B,)    scores below weigh under 1e-12
        rest = r * anchor.rest + slack
        if bool((rest >= floor).any()):
            return x, None
        upper = torch.add(slack[:, None], anchor.upper, alpha=r)               # (B, m)
        alive = upper >= floor[:, None]                                        # always holds for the anchor's best image
        columns, best = anchor.columns, anchor.best
        used = alive.any(0)
        if int(used.sum()) < _DENSE * len(used):                               # forget the others but for their highest bound
            rest = torch.maximum(rest, upper.masked_fill(used, -torch.inf).amax(1))
            keep = used.nonzero()[:, 0]
            columns, upper, alive = (keep if columns is None else columns[keep]), upper[:, keep], alive[:, keep]
        rows = (alive.sum(1) > 1).nonzero()[:, 0]                              # undecided
        if len(rows):
            near = alive[rows].any(0).nonzero()[:, 0]
            if columns is None and len(near) > _DENSE * part.count:
                chosen, near = None, torch.arange(part.count, device=x.device)
            else:
                chosen = near if columns is None else columns[near]
            some, bound, place = part.evaluate(x[rows], sigma, chosen)
            self.searched += bound.numel()
            mean[rows] = some
            if upper.shape == bound.shape:
                upper = torch.minimum(upper, bound)
            else:
                at = (rows[:, None], near[None, :])
                upper[at] = torch.minimum(upper[at], bound)
            best = best.index_copy(0, rows, place if chosen is None else chosen[place])
        return mean, _Known(sigma, x, best, columns, upper, rest)
