"""From rows to numbers: each metric's value, and its uncertainty where there is one.

The Inception Score and KID are torch-fidelity's own functions, fed with rows; the Fréchet distance is `moments.frechet`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgedit.core.errors import NumericsError, UsageError

SEED = 2020
"""torch-fidelity's, of the Inception Score's shuffle and KID's subsets."""


@dataclass(frozen=True)
class Score:
    """One number.

    Attributes:
        metric: "fid", "is", "kid", "precision", "recall", "accuracy", "spread", "nearest".
        name: what it may be called (`names.metric_name`).
        value: the number.
        uncertainty: its spread; None where none is known. `uncertainty_of` says of what.
        images, reference_images: how many went in.
        details: what else there is.
    """

    metric: str
    value: float
    uncertainty: float | None = None
    uncertainty_of: str = ""
    name: str = ""
    images: int = 0
    reference_images: int | None = None
    details: dict[str, Any] = field(default_factory=dict)


def inception_score(logits: NDArray[np.float32], splits: int) -> Score:
    """exp of the mean divergence of p(y|x) from p(y), over shuffled splits, in float64 (Salimans et al. 2016, eq. 1).

    The shuffle matters: images in class order and unshuffled splits give another number (science.md §8).
    """
    from torch_fidelity.metric_isc import isc_features_to_metric

    if len(logits) < splits:
        raise UsageError(f"an Inception Score of {splits} splits needs as many images or more", saw=len(logits), fix="--set is_splits=1")
    made = isc_features_to_metric(torch.from_numpy(logits), splits=splits, shuffle=True, rng_seed=SEED)
    if not np.isfinite(made["inception_score_mean"]):
        raise NumericsError("the Inception Score is not finite", saw="classes of probability 0: the logits are too far apart")
    return Score("is", made["inception_score_mean"], made["inception_score_std"], f"standard deviation over {splits} splits",
                 details={"splits": splits, "shuffle_seed": SEED})


def kernel_distance(features: NDArray[np.float32], reference: NDArray[np.float32], subsets: int, size: int) -> Score:
    """Unbiased squared MMD with the kernel (x·y/d + 1)³, mean over random subsets (Bińkowski et al. 2018, eq. 4).

    Where there are no more images than a subset takes, subsets take half of them: all of them each time would vary in nothing.
    """
    from torch_fidelity.metric_kid import kid_features_to_metric

    least = min(len(features), len(reference))
    size = size if size < least else max(2, least // 2)
    made = kid_features_to_metric(torch.from_numpy(features), torch.from_numpy(reference), kid_subsets=subsets, kid_subset_size=size,
                                  rng_seed=SEED, verbose=False)
    return Score("kid", made["kernel_inception_distance_mean"], made["kernel_inception_distance_std"],
                 f"standard deviation over {subsets} subsets of {size}", details={"subsets": subsets, "subset_size": size, "seed": SEED})


def precision_recall(features: NDArray[np.float32], reference: NDArray[np.float32], k: int, device: torch.device) -> tuple[Score, Score]:
    """Share of images inside the k-nearest-neighbour balls of the other set (Kynkäänniemi et al. 2019, eq. 1-2)."""
    least = min(len(features), len(reference))
    if least <= k:
        raise UsageError(f"precision and recall with k = {k} need more than {k} images on both sides", saw=least)
    made, real = (torch.from_numpy(x).to(device) for x in (features, reference))
    out = []
    for metric, points, balls in (("precision", made, real), ("recall", real, made)):
        radius = torch.cat([torch.cdist(part, balls).kthvalue(k + 1).values for part in balls.split(_piece(balls))])    # 1st: itself
        inside = torch.cat([(torch.cdist(part, balls) <= radius).any(1) for part in points.split(_piece(balls))])
        share = float(inside.double().mean())
        out.append(Score(metric, share, (share * (1 - share) / len(points)) ** 0.5, "binomial standard error", details={"k": k}))
    return out[0], out[1]


def _piece(balls: torch.Tensor) -> int:
    """Rows whose distances to all of `balls` take 128 MB."""
    return max(1, (1 << 25) // len(balls))


def accuracy(predicted: NDArray[np.int64], labels: NDArray[np.int64], class_names: Sequence[str]) -> Score:
    """Share of images that a classifier takes for the class asked for, by class too, with all confusions."""
    classes = len(class_names)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, predicted), 1)                                                    # asked for × taken for
    share = float(np.trace(confusion) / len(labels))
    counts = confusion.sum(1)
    per_class = {name: float(confusion[i, i] / counts[i]) for i, name in enumerate(class_names) if counts[i]}
    return Score("accuracy", share, (share * (1 - share) / len(labels)) ** 0.5, "binomial standard error",
                 details={"per_class": per_class, "class_names": list(class_names), "confusion": confusion.tolist()})


def spread(apart: NDArray[np.float64], reference: NDArray[np.float64], *, by_class: bool) -> Score:
    """How far images of a class lie apart, over the same in the reference: 1 alike, towards 0 when they become one image."""
    made, real = np.sqrt(np.nanmean(apart)), np.sqrt(np.nanmean(reference))
    if not np.isfinite(made) or not real > 0:
        raise UsageError("spread needs two different images or more of a class on both sides", saw=f"{made} and {real}")
    return Score("spread", float(made / real), details={"apart_levels": float(made), "reference_apart_levels": float(real),
                                                        "inside_classes": by_class})


def nearest(distances: NDArray[np.float64], held_out: NDArray[np.float64] | None) -> Score:
    """Median distance to the nearest training image, in levels; with held-out real images, whether images come too near.

    `details`: "copies", the share of images nearer than 99 % of the held-out images are (0.01 is what real images give; 1 means
    copies), and "nearer_than_real", the chance that an image is nearer than a held-out one (0.5 alike). Blurred images are
    near to everything: read both beside accuracy and FID.
    """
    details: dict[str, Any] = {"exact_copies": float((distances == 0).mean()), "least": float(distances.min()), "unit": "levels, RMS"}
    if held_out is not None:
        bound = float(np.percentile(held_out, 1))
        ordered = np.sort(held_out)
        above = len(ordered) - (np.searchsorted(ordered, distances, "left") + np.searchsorted(ordered, distances, "right")) / 2
        details |= {"copies": float((distances < bound).mean()), "copy_bound": bound,
                    "nearer_than_real": float(above.mean() / len(ordered)),
                    "held_out_median": float(np.median(held_out)), "held_out_images": len(held_out)}
    return Score("nearest", float(np.median(distances)), details=details)
