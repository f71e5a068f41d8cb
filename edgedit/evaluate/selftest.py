"""The check that everybody can make: the Inception Score of CIFAR-10's training images, whose value is known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgedit.core.errors import UsageError
from edgedit.core.say import Say, silent
from edgedit.evaluate.inception import URL, Weights, find_weights
from edgedit.evaluate.settings import EvaluateSettings
from edgedit.evaluate.sources import Source
from edgedit.evaluate.stage import evaluate
from edgedit.learn.ranks import ALONE, Ranks

EXPECTED = 11.23678
"""torch-fidelity's README: 11.23678 ± 0.09514."""
TOLERANCE = 0.002
"""Machines differ by rounding alone, some 1e-4."""


@dataclass(frozen=True)
class SelfTest:
    """What the self-test found."""

    value: float
    ok: bool


def self_test(train: Source, out: str | Path, settings: EvaluateSettings, *, say: Say = silent, ranks: Ranks = ALONE) -> SelfTest:
    """Inception Score of the 50,000 training images of CIFAR-10 by the published extractor, against torch-fidelity's.

    Raises:
        UsageError: other images, fewer of them, or other weights.
        MissingError: no published weights and no network.
    """
    if (train.identity.get("name"), train.identity.get("split"), train.count) != ("cifar10", "train", 50_000):
        raise UsageError("the self-test needs CIFAR-10's 50,000 training images", saw=f"{train.name}, {train.count:,} images",
                         fix="--data cifar-10-batches-py, or its archive")
    weights: Weights = find_weights(settings.extractor_weights, say)
    if not weights.published:
        raise UsageError(f"the self-test needs the published extractor; {weights.file} is another", saw=f"sha256 {weights.sha256[:16]}…",
                         fix=f"fetch {URL} and pass --extractor-weights FILE")
    only = EvaluateSettings.model_validate({**settings.model_dump(), "metrics": ("is",), "count": None, "is_splits": 10})
    [value] = evaluate(train, None, out, only, say=say, ranks=ranks).info["metrics"].values()
    return SelfTest(value, abs(value - EXPECTED) <= TOLERANCE)
