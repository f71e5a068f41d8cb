"""What the reference gives: statistics, from the cache where they are there, and rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedit.core.files import output_error
from edgedit.core.say import Event, Say
from edgedit.evaluate.inception import Inception
from edgedit.evaluate.job import Job
from edgedit.evaluate.pixels import Apart
from edgedit.evaluate.rows import Probe, Rows, measure
from edgedit.evaluate.settings import EvaluateSettings
from edgedit.evaluate.sources import choose
from edgedit.evaluate.statistics import Statistics, cache_file, load_statistics, save_statistics


def reference_statistics(job: Job, folder: Path, cache: Path | None) -> Statistics | None:
    """Statistics of the reference, with features where KID, precision or recall need them; None where no metric does.

    Every process of a run has to call it; those that do not lead may get None where the cache answers.
    """
    settings = job.settings
    if job.statistics is not None or job.reference is None or job.inception is None or not settings.wants("fid", "kid", "pr"):
        return job.statistics
    facts = {**job.plan["reference"], "extractor": job.plan["extractor"]}
    file = None
    if cache is not None:
        subset = {"subset_seed": settings.subset_seed} if len(job.reference_chosen) < job.reference.count else {}
        file = cache_file(cache, {**job.plan["reference"], **subset}, job.inception.facts)
        if job.ranks.lead(lambda: _cached(file, settings) is not None):
            return _cached(file, settings) if job.ranks.main else None
    rows = measure(job.reference, job.reference_chosen, [_WithoutLogits(job.inception)], folder, chunk=settings.chunk, text="reference",
                   say=job.say, ranks=job.ranks)
    moments = rows.moments("features")
    features = rows.collect("features") if settings.wants("kid", "pr") else None
    made = Statistics(moments.mean, moments.covariance, moments.n, facts, features)
    if file is not None:
        job.ranks.lead(lambda: _keep(file, made, job.say))
    return made


def reference_apart(job: Job, folder: Path) -> NDArray[np.float64] | None:
    """Distances inside the reference, for spread; in random order, since neighbours in a data set may be of one hand."""
    if job.reference is None or not job.settings.wants("spread"):
        return None
    mixed = np.random.default_rng(job.settings.subset_seed).permutation(job.reference_chosen)
    rows = measure(job.reference, mixed, [Apart(by_class=job.by_class)], folder, chunk=job.settings.chunk, text="reference's spread",
                   say=job.say, ranks=job.ranks)
    return rows.collect("apart")


def held_out_nearest(job: Job, folder: Path) -> NDArray[np.float64] | None:
    """Distances of held-out images to the reference: of as many as the source has, and 1,000 at least where there are so many."""
    if job.held_out is None or job.nearest is None:
        return None
    count = min(job.held_out.count, max(1000, len(job.chosen)))
    rows: Rows = measure(job.held_out, choose(job.held_out, count, job.settings.subset_seed), [job.nearest], folder,
                         chunk=job.settings.chunk, text="held-out images", say=job.say, ranks=job.ranks)
    return rows.collect("nearest")


class _WithoutLogits(Probe):
    """The extractor's features alone: of a reference nobody asks for logits."""

    def __init__(self, inception: Inception) -> None:
        self._inception = inception

    def rows(self, images: NDArray[np.uint8], labels: NDArray[np.int64] | None) -> dict[str, NDArray[Any]]:
        return {"features": self._inception.rows(images, labels)["features"]}


def _cached(file: Path, settings: EvaluateSettings) -> Statistics | None:
    if not file.is_file():
        return None
    found = load_statistics(file)
    return None if found.features is None and settings.wants("kid", "pr") else found


def _keep(file: Path, statistics: Statistics, say: Say) -> None:
    try:
        save_statistics(file, statistics)
    except OSError as error:
        raise output_error(file, error) from error
    say(Event(f"the reference's statistics are kept in {file}"))
