"""Ranges of activations from teacher pairs: the noise and classes that the network will meet, run through the FP32 graph.

Only a pair set whose files verify is taken. Random data, which other tools fall back to, is not: the ranges of a network on
inputs that it was not made for say nothing about those that it meets. Guidance is inside the graph, so the unconditional half
is calibrated with the conditional one.

ONNX Runtime's own collector builds the histograms and searches the thresholds of two methods; the same histogram serves all:

max         the largest magnitude seen: nothing is clipped, the steps are coarsest.
percentile  the magnitude that a given share stays below (ONNX Runtime).
entropy     the range whose 128 levels lose least information, by Kullback–Leibler divergence (ONNX Runtime; the method of
            TensorRT's former calibrator).
mse         the range with the least mean squared error, clipping and rounding together.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from edgedit.core.errors import ArtifactError, MissingError, NumericsError, UsageError
from edgedit.core.pairset import PairSet
from edgedit.core.say import Event, Say, silent
from edgedit.core.spec import DiTSpec
from edgedit.export.check import open_session
from edgedit.export.int8 import LEVELS, Int8Settings

FEWEST = 32
"""Fewer pairs than this are refused: a range from so few is chance."""
BATCH = 8
"""Images at a time; all sites' values of one batch are in memory together."""
BINS = 2048
"""Of a histogram from -m to m, m the largest magnitude of the first batch; later batches add bins."""
_CANDIDATES = 128
"""Ranges tried by `mse`."""
RULE = "of each class evenly spaced pairs in order"


@dataclass(frozen=True)
class Calibration:
    """What the ranges were measured on.

    Attributes:
        digest, label: of the pair set.
        method: with the percentile where it has one.
        images, per_class: pairs used; smallest and largest number of a class are at most one apart unless the set is short.
        rule: how they were chosen; with the digest it names them exactly.
        ranges: magnitude that maps to 127, by site.
        largest: largest magnitude seen, by site.
    """

    digest: str
    label: str
    method: str
    images: int
    per_class: tuple[int, ...]
    rule: str
    ranges: dict[str, float]
    largest: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def open_pairs(path: Path, spec: DiTSpec) -> PairSet:
    """The pair set at `path`, every hash checked, with the student's shape and classes.

    Raises:
        ArtifactError: not a pair set, damaged, or with noise that is not unit Gaussian.
        UsageError: pairs of another shape or number of classes.
    """
    pairs = PairSet.open(path)
    shape = (spec.channels, spec.image, spec.image)
    if pairs.shape != shape or pairs.classes != spec.classes:
        raise UsageError(f"{path} does not fit this student",
                         saw=f"pairs: noise {pairs.shape}, {pairs.classes} classes; student: {shape}, {spec.classes} classes",
                         fix="give the pairs that the student was trained on, or others of its shape, to --calibrate")
    few = pairs.noise(np.arange(min(pairs.count, 16)))
    if not (np.isfinite(few).all() and abs(float(few.mean())) < 0.2 and 0.8 < float(few.std()) < 1.2):
        raise ArtifactError(f"the noise of {path} is not unit Gaussian", saw=f"mean {few.mean():.3g}, deviation {few.std():.3g}",
                            fix="the pairs are of another convention: import them again with `edgedit pairs`")
    return pairs


def choose(pairs: PairSet, images: int, say: Say = silent) -> NDArray[np.int64]:
    """Indices of about `images` pairs, as many of each class (`RULE`), ascending.

    Raises:
        UsageError: a class without pairs, or fewer than `FEWEST` in all.
    """
    every = pairs.labels(np.arange(pairs.count))
    found = np.bincount(every, minlength=pairs.classes)
    if (missing := np.flatnonzero(found == 0)).size:
        names = [pairs.class_names[i] for i in missing]
        raise UsageError("the pairs for calibration lack whole classes", saw=", ".join(names), fix="make more pairs: edgedit pairs --count")
    share = [images // pairs.classes + (k < images % pairs.classes) for k in range(pairs.classes)]
    chosen = [_spaced(np.flatnonzero(every == k), max(1, n)) for k, n in enumerate(share)]
    indices = np.sort(np.concatenate(chosen))
    if len(indices) < FEWEST:
        raise UsageError(f"calibration needs {FEWEST} pairs or more, balanced over the classes",
                         saw=f"{len(indices)} of {pairs.count} (int8.images = {images})", fix="make more pairs: edgedit pairs --count")
    if len(indices) < images:
        say(Event(f"calibrating on {len(indices)} pairs, not {images}: of some classes there are no more", level="warning"))
    return indices


def _spaced(indices: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """`count` of them at even distances, the first among them; all where there are no more."""
    return indices if len(indices) <= count else indices[np.arange(count) * len(indices) // count]


def calibrate(graph: ModelProto, sites: Mapping[str, str], pairs: PairSet, settings: Int8Settings, *,
              say: Say = silent) -> Calibration:
    """Run pairs through a graph and give each site a range.

    Args:
        graph: FP32, any batch, with guidance as it will be deployed.
        sites: value of the graph at each site.
        pairs: from `open_pairs`.
        settings: number of images, method.

    Raises:
        NumericsError: a value that is not finite.
        UsageError: see `choose`.
    """
    indices = choose(pairs, settings.images, say)
    collector = _collect(graph, sites, pairs, indices, say)
    say(Event(f"ranges of {len(sites)} values by {settings.method}"))
    histograms = {site: Histogram.of(collector.histogram_dict[site]) for site in sites}
    ranges = find_ranges(histograms, settings.method, settings.percentile)
    counts = np.bincount(pairs.labels(indices), minlength=pairs.classes)
    method = f"{settings.method} {settings.percentile:g}" if settings.method == "percentile" else settings.method
    manifest = pairs.artifact.manifest
    return Calibration(manifest.digest, str(manifest.info.get("label", "")), method, len(indices), tuple(counts.tolist()), RULE,
                       ranges, {site: h.largest for site, h in histograms.items()})


def _collect(graph: ModelProto, sites: Mapping[str, str], pairs: PairSet, indices: NDArray[np.int64], say: Say) -> Any:
    """ONNX Runtime's collector, filled. It prints what it does: stages do not."""
    session = open_session(with_outputs(graph, sites.values()).SerializeToString())
    collector = _collector("entropy")
    names = list(sites)
    for start in range(0, len(indices), BATCH):
        say(Event("calibrate", done=start, total=len(indices), unit="images"))
        part = indices[start : start + BATCH]
        values = session.run([sites[name] for name in names],
                             {"noise": pairs.noise(part), "labels": pairs.labels(part).astype(np.int32)})
        for name, value in zip(names, values, strict=True):
            if not np.isfinite(value).all():
                raise NumericsError(f"'{name}' is not finite in FP32", saw="calibration", fix="train again: these weights are bad")
        with redirect_stdout(StringIO()):
            collector.collect(dict(zip(names, values, strict=True)))
    say(Event("calibrate", done=len(indices), total=len(indices), unit="images"))
    return collector


def with_outputs(graph: ModelProto, values: Any) -> ModelProto:
    """A copy whose outputs are the named float32 values."""
    watched = ModelProto()
    watched.CopyFrom(graph)
    del watched.graph.output[:]
    for value in dict.fromkeys(values):
        watched.graph.output.append(helper.make_tensor_value_info(value, TensorProto.FLOAT, None))
    return watched


def _collector(method: str, percentile: float = 100.0) -> Any:
    try:
        from onnxruntime.quantization.calibrate import HistogramCollector
    except ImportError as error:
        raise MissingError("calibration needs ONNX Runtime with its quantisation tools", saw=error,
                           fix="pip install 'edgedit[host]'") from error
    return HistogramCollector(method=method, symmetric=True, num_bins=BINS, num_quantized_bins=128, percentile=percentile,
                              scenario="same")


@dataclass(frozen=True)
class Histogram:
    """Values of one site: counts (2n,) in even bins from -`end` to `end`, and the largest magnitude."""

    counts: NDArray[np.int64]
    end: float
    largest: float

    @classmethod
    def of(cls, raw: Any) -> Histogram:
        """From what ONNX Runtime's collector keeps: counts, edges, least, largest, end."""
        counts, edges, least, most = raw[:4]
        return cls(np.asarray(counts), float(edges[-1]), max(abs(float(least)), abs(float(most))))

    def magnitudes(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Counts (n,) and edges (n+1,) of magnitudes."""
        half = len(self.counts) // 2
        return self.counts[half:] + self.counts[:half][::-1], np.linspace(0, self.end, half + 1)

    def coarse(self) -> tuple[NDArray[np.int64], NDArray[np.float64], float, float, float]:
        """At most `BINS` bins, as the collector keeps them: the search for least divergence takes the square of their number."""
        counts, edges = self.magnitudes()
        group = -(-2 * len(counts) // BINS)
        padded = np.pad(counts, (0, -len(counts) % group)).reshape(-1, group).sum(axis=1)
        end = float(edges[1]) * group * len(padded)
        halves = (padded + 1) // 2  # signs do not matter to a symmetric range; counts may be one too high
        return np.concatenate([halves[::-1], halves]), np.linspace(-end, end, 2 * len(padded) + 1), -self.largest, self.largest, end


def find_ranges(histograms: Mapping[str, Histogram], method: str, percentile: float = 99.99) -> dict[str, float]:
    """Range of each site by a method, never above the largest magnitude seen."""
    if method == "max":
        found = {site: h.largest for site, h in histograms.items()}
    elif method == "mse":
        found = {site: _least_error(h) for site, h in histograms.items()}
    else:
        collector = _collector(method, percentile)
        for site, h in histograms.items():
            counts, edges = h.magnitudes()
            collector.histogram_dict[site] = h.coarse() if method == "entropy" else (counts, edges, 0.0, h.largest)
        with redirect_stdout(StringIO()):
            found = {site: float(max(abs(t[0]), abs(t[1]))) for site, t in collector.compute_collection_result().items()}
    return {site: min(value, histograms[site].largest) for site, value in found.items()}


def _least_error(h: Histogram) -> float:
    """Range with the least squared error over the histogram, from an eighth of the largest magnitude to all of it."""
    counts, edges = h.magnitudes()
    centres, weight = (edges[:-1] + edges[1:]) / 2, counts.astype(np.float64)
    ends = h.largest * np.linspace(1 / 8, 1, _CANDIDATES)
    if not h.largest:
        return 0.0
    errors = []
    for end in ends:
        step = end / LEVELS
        whole = np.clip(np.rint(centres / step), 0, LEVELS)
        errors.append(float((weight * (centres - whole * step) ** 2).sum()))
    return float(ends[int(np.argmin(errors))])
