"""What one evaluation works with, opened and checked before any work."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgedit.core.errors import UsageError
from edgedit.core.say import Say
from edgedit.evaluate.classifier import Classifier
from edgedit.evaluate.generated import GeneratedSource
from edgedit.evaluate.inception import Inception, find_weights
from edgedit.evaluate.names import LITERATURE
from edgedit.evaluate.pixels import Apart, Nearest
from edgedit.evaluate.rows import Comparison, Probe
from edgedit.evaluate.settings import AGAINST, NETWORK, RAW, EvaluateSettings
from edgedit.evaluate.sources import Source, choose
from edgedit.evaluate.statistics import Statistics
from edgedit.evaluate.teacher import Perceptual, ToTeacher
from edgedit.learn.device import find_device
from edgedit.learn.ranks import Ranks


@dataclass(frozen=True)
class Job:
    """An evaluation to be done.

    Attributes:
        chosen, reference_chosen: int64, the images used.
        statistics: the reference, where it was given as statistics.
        reference: the reference, where it was given as images and a metric needs it.
        plan: all that decides the result, as JSON: the same plan is the same evaluation.
    """

    source: Source
    chosen: NDArray[np.int64]
    reference: Source | None
    reference_chosen: NDArray[np.int64]
    statistics: Statistics | None
    held_out: Source | None
    settings: EvaluateSettings
    inception: Inception | None
    classifier: Classifier | None
    nearest: Nearest | None
    perceptual: Perceptual | None
    device: torch.device
    ranks: Ranks
    say: Say
    plan: dict[str, Any]

    @property
    def by_class(self) -> bool:
        """Whether both sides have labels, so that spread is measured inside classes."""
        return bool(self.source.class_names) and self.reference is not None and bool(self.reference.class_names)

    def probes(self) -> list[Probe]:
        """What is measured of each image of the source."""
        found: list[Probe] = [p for p in (self.inception, self.classifier, self.nearest) if p is not None]
        return [*found, Apart(by_class=self.by_class)] if self.settings.wants("spread") else found

    def comparisons(self) -> list[Comparison]:
        """What is measured of each image of the source against the teacher's."""
        if isinstance(self.source, GeneratedSource) and self.settings.wants("teacher"):
            return [ToTeacher(self.source, self.perceptual)]
        return []

    def notes(self, protocol: str | None, reference_images: int | None) -> list[str]:
        """What a reader of the numbers must know."""
        found, count, width = [], len(self.chosen), self.inception.width if self.inception else 0
        if self.settings.wants("fid"):
            if (least := min(count, reference_images or count)) <= width:
                found.append(f"{least:,} images for {width} features: the covariance has no full rank, and the distance is biased upwards")
            if protocol != LITERATURE:
                found.append(f"not comparable with published CIFAR-10 FIDs: the protocol is {protocol}, theirs {LITERATURE}")
        if self.settings.wants("is") and self.inception is not None and self.inception.kind != "published":
            found.append("not an Inception Score in the field's sense: the extractor's weights are not the published ones")
        facts, against = self.plan["source"], self.plan["reference"] or {}
        if facts.get("lossy_files"):
            found.append(f"{facts['lossy_files']:,} of the files are lossy (JPEG or WebP): that alone moves FID")
        if facts.get("labels") == "random":
            found.append("labels were drawn at random; balanced ones are in use too, and give slightly other numbers")
        if self.settings.wants("teacher") and facts.get("guidance_scale", 1) != 1:
            found.append(f"the student was asked with guidance {facts['guidance_scale']:g}; what it was taught is the teacher's image "
                         "without it (of a student: --guidance 1.0)")
        if facts.get("sha256", 0) == against.get("sha256", 1):
            found.append("source and reference are the same images")
        return found


def open_job(source: Source, reference: Source | Statistics | None, settings: EvaluateSettings, held_out: Source | None, say: Say,
             ranks: Ranks, perceptual: Perceptual | None = None) -> Job:
    """Check that these sources can give these metrics, find weights, load networks.

    Raises:
        UsageError, MissingError, ArtifactError: see `edgedit.evaluate.stage.evaluate`.
    """
    reference = reference if settings.wants(*AGAINST) else None
    held_out = held_out if settings.wants("nearest") else None
    perceptual = perceptual if settings.wants("teacher") else None
    statistics = reference if isinstance(reference, Statistics) else None
    images = None if isinstance(reference, Statistics) else reference
    _check(source, images, statistics, settings)
    chosen = choose(source, settings.count, settings.subset_seed)
    against = np.arange(0) if images is None else choose(images, settings.reference_count, settings.subset_seed)
    device = find_device(settings.device, ranks)
    inception = classifier = None
    if settings.wants(*NETWORK):
        ranks.lead(lambda: str(find_weights(settings.extractor_weights, say).file))  # one downloads, the others find it
        inception = Inception(find_weights(settings.extractor_weights), settings.tap, logits=settings.wants("is"), device=device,
                              batch=settings.batch)
        if statistics is not None:
            _same_extractor(statistics, inception)
    if settings.wants("accuracy"):
        classifier = Classifier(str(settings.classifier), device)
        if len(source.class_names) != classifier.classes:
            raise UsageError(f"{classifier.name} tells {classifier.classes} classes apart, {source.name} has {len(source.class_names)}",
                             fix="a classifier for these classes, and images with labels")
    of_reference = {**images.identity, "used": len(against)} if images is not None else None
    if statistics is not None:
        of_reference = {**statistics.facts, "used": statistics.n}
    plan = {
        "settings": settings.identity(), "source": {**source.identity, "used": len(chosen)}, "reference": of_reference,
        "held_out": None if held_out is None else held_out.identity,
        "extractor": None if inception is None else inception.facts, "classifier": None if classifier is None else classifier.facts,
        "perceptual": None if perceptual is None else perceptual.facts}
    nearest = Nearest(images, device) if images is not None and settings.wants("nearest") else None
    return Job(source, chosen, images, against, statistics, held_out, settings, inception, classifier, nearest, perceptual, device, ranks,
               say, json.loads(json.dumps(plan, default=str)))


def _check(source: Source, images: Source | None, statistics: Statistics | None, settings: EvaluateSettings) -> None:
    if images is None and statistics is None and settings.wants(*AGAINST):
        raise UsageError(f"{', '.join(m for m in AGAINST if m in settings.metrics)} compare with a reference; none was given",
                         fix="--reference cifar10-train, a folder of images, pairs, or an .npz of statistics")
    if settings.wants("teacher") and not (isinstance(source, GeneratedSource) and source.pairs is not None):
        raise UsageError("the distance to the teacher needs teacher pairs, and a student or bundle that makes images of their noise",
                         saw=source.name, fix="edgedit evaluate STUDENT --metrics teacher --pairs PAIRS")
    if settings.wants("accuracy") and settings.classifier is None:
        raise UsageError("accuracy needs a classifier",
                         fix="--classifier resnet56-4bfd9763.th, from github.com/akamaster/pytorch_resnet_cifar10")
    if settings.wants("accuracy") and not source.class_names:
        raise UsageError(f"accuracy needs labels, and {source.name} has none", fix="a subfolder per class, or names such as 000017-cat.png")
    if statistics is not None:
        lacking = [m for m in RAW if m in settings.metrics and not (m in ("kid", "pr") and statistics.features is not None)]
        if lacking:
            raise UsageError(f"{', '.join(lacking)} need the reference's images; statistics alone do not do",
                             fix="--reference with a data set, a folder or pairs")


def _same_extractor(statistics: Statistics, inception: Inception) -> None:
    if statistics.width != inception.width:
        raise UsageError(f"the reference's statistics have {statistics.width} features, the extractor gives {inception.width}",
                         fix=f"--tap {statistics.width}, or statistics of this extractor")
    named = statistics.facts.get("extractor")
    if isinstance(named, dict) and named.get("sha256") != inception.weights.sha256:
        raise UsageError("the reference's statistics are of another extractor", fix="--extractor-weights with the file they were made by",
                         saw=f"sha256 {str(named.get('sha256'))[:16]}… there, {inception.weights.sha256[:16]}… now")
