"""Stage "evaluate": numbers for a source of images, named by what they are, with everything that decides them beside them.

While it runs, rows of finished chunks lie in `<out>.partial`; the same command goes on from them. The artifact, of kind
"evaluation", holds `evaluation.json` and, after metric `nearest`, `nearest.png`.
"""

from __future__ import annotations

import json
import shutil
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from edgedit import __version__
from edgedit.core.artifact import MANIFEST, Manifest, check_output, create, open_artifact, read_manifest
from edgedit.core.errors import OutputError, UsageError
from edgedit.core.files import held, output_error, write_atomic
from edgedit.core.say import Event, Say, silent
from edgedit.core.stop import interruptible
from edgedit.evaluate import scores
from edgedit.evaluate.against import held_out_nearest, reference_apart, reference_statistics
from edgedit.evaluate.evidence import Found, nearest_picture
from edgedit.evaluate.generated import GeneratedSource
from edgedit.evaluate.job import Job, open_job
from edgedit.evaluate.moments import frechet
from edgedit.evaluate.names import LITERATURE, metric_name, protocol
from edgedit.evaluate.rows import measure
from edgedit.evaluate.scores import Score
from edgedit.evaluate.seen import seen_notes, training_noise
from edgedit.evaluate.settings import EvaluateSettings
from edgedit.evaluate.sources import Source
from edgedit.evaluate.statistics import Statistics
from edgedit.evaluate.teacher import Perceptual, teacher_scores
from edgedit.learn.ranks import ALONE, Ranks

KIND, EVALUATION_FILE, NEAREST_FILE = "evaluation", "evaluation.json", "nearest.png"
_PLAN = "plan.json"


def evaluate(source: Source, reference: Source | Statistics | None, out: str | Path, settings: EvaluateSettings | None = None, *,
             held_out: Source | None = None, perceptual: Perceptual | None = None, cache: Path | None = None, say: Say = silent,
             ranks: Ranks = ALONE) -> Manifest:
    """Measure `source` against `reference`, or go on with what an interrupted run left.

    Args:
        source: the images in question.
        reference: what they should be like: a source, or statistics of one; None where no metric compares.
        out: the artifact's folder; `<out>.partial` beside it is used on the way.
        settings: see `EvaluateSettings`.
        held_out: real images that are not in the reference, which tell `nearest` how near such images come.
        perceptual: LPIPS, for the distance to the teacher.
        cache: where the reference's statistics are kept for the next evaluation; None keeps none.
        say: hears progress in images.
        ranks: of several processes each measures a share of the images; the result is that of one process.

    Returns:
        The manifest of the finished artifact; at once, checked, if `out` holds this very evaluation already.

    Raises:
        UsageError: metrics that these sources or weights cannot give, or `out` holds another evaluation.
        MissingError, ArtifactError: weights that are not there, or files that cannot be read.
        OutputError: not writable, full, or another process is writing it.
        Interrupted: Ctrl-C or SIGTERM; finished chunks are kept.
    """
    target = Path(out)
    ranks.lead(lambda: check_output(target, kind=KIND))
    job = open_job(source, reference, settings or EvaluateSettings(), held_out, say if ranks.main else silent, ranks, perceptual)
    if (done := ranks.lead(lambda: _finished(target, job.plan))) is not None:
        return done
    partial = target.with_name(target.name + ".partial")
    begun = {**job.plan, "tool": {"edgedit": __version__}}
    ranks.lead(lambda: _begin(partial, begun))
    if not ranks.main:
        _begin(partial, begun)  # machines need not share a disk
    with interruptible("evaluate", f"finished chunks are in {partial}"), held(partial, "writing") if ranks.main else nullcontext():
        begin = time.perf_counter()
        measured = _measure(job, partial, cache)
        body = _record(job, measured, time.perf_counter() - begin)
        manifest = ranks.lead(lambda: _publish(job, body, measured.found, target))
        shutil.rmtree(partial, ignore_errors=True)
        return manifest


@dataclass
class _Measured:
    """All numbers, in the order of `METRICS`, how many images made the reference's statistics, and what `nearest` found."""

    scores: list[Score] = field(default_factory=list)
    reference_images: int | None = None
    found: Found | None = None


def _measure(job: Job, partial: Path, cache: Path | None) -> _Measured:
    """Every process measures and hands over its rows; the first one alone computes, the others return no numbers."""
    measured = _Measured()
    s, made, main = job.settings, measured.scores, job.ranks.main
    statistics = reference_statistics(job, partial / "reference", cache)
    real_apart = reference_apart(job, partial / "reference-apart")
    rows = measure(job.source, job.chosen, job.probes(), partial / "source", chunk=s.chunk, text="evaluate", say=job.say, ranks=job.ranks,
                   comparisons=job.comparisons())
    held_out = held_out_nearest(job, partial / "held-out")
    if s.wants("fid"):
        moments = rows.moments("features")
        if main and statistics is not None:
            distance = frechet(moments.mean, moments.covariance, statistics.mean, statistics.covariance)
            made.append(Score("fid", distance))
    if s.wants("is"):
        logits = rows.collect("logits")
        made += [scores.inception_score(logits, s.is_splits)] if main else []
    if s.wants("kid", "pr"):
        features = rows.collect("features")
        if main and statistics is not None and statistics.features is not None:
            if s.wants("kid"):
                made.append(scores.kernel_distance(features, statistics.features, s.kid_subsets, s.kid_subset_size))
            if s.wants("pr"):
                made += scores.precision_recall(features, statistics.features, s.neighbours, job.device)
    if s.wants("accuracy"):
        predicted, labels = rows.collect("predicted"), rows.collect("labels")
        made.append(scores.accuracy(predicted, labels, job.source.class_names))
    if s.wants("spread") and real_apart is not None:
        made.append(scores.spread(rows.collect("apart"), real_apart, by_class=job.by_class))
    if s.wants("nearest") and job.nearest is not None:
        score = scores.nearest(rows.collect("nearest"), held_out)
        found = measured.found = Found(rows.collect("nearest"), rows.collect("nearest_index"), score.details.get("copy_bound"))
        shown = {"nearest": found.listed(job.chosen, found.nearest()), "random": found.listed(job.chosen, found.some(s.subset_seed))}
        made.append(replace(score, details={**score.details, "shown": shown}))
    if s.wants("teacher"):
        l1, mse = rows.collect("teacher_l1"), rows.collect("teacher_mse")
        lpips = rows.collect("teacher_lpips") if job.perceptual else None
        made += teacher_scores(l1, mse, lpips, job.perceptual.facts if job.perceptual else None)
    measured.reference_images = None if statistics is None else statistics.n
    return measured


def _record(job: Job, measured: _Measured, wall_s: float) -> dict[str, Any]:
    """The contents of `evaluation.json`."""
    made, reference_images = measured.scores, measured.reference_images
    extractor, count = job.plan["extractor"], len(job.chosen)
    named = None if extractor is None else protocol(extractor, job.plan["reference"], reference_images, count)
    notes, noise = job.notes(named, reference_images), None
    if isinstance(job.source, GeneratedSource) and (job.source.parents or job.source.pairs):
        noise = training_noise(job.source, job.chosen)
        notes += seen_notes(noise, paired=job.source.pairs is not None)
    for note in notes:
        job.say(Event(note, level="warning"))
    by_network = ("fid", "is", "kid", "precision", "recall")
    against = {"fid": reference_images, "kid": reference_images, "precision": reference_images, "recall": reference_images,
               "spread": len(job.reference_chosen), "nearest": job.nearest.count if job.nearest else None}

    def fewest(metric: str) -> int:
        others = against.get(metric) if metric in ("fid", "kid") and job.settings.reference_count else None
        return min(count, others or count)

    metrics = [asdict(replace(x, images=count, reference_images=against.get(x.metric),
                              name=x.name or metric_name(x.metric, fewest(x.metric), extractor if x.metric in by_network else None)))
               for x in made]
    environment: dict[str, Any] = {"device": str(job.device), "torch": torch.__version__, "processes": job.ranks.world}
    if job.inception is not None:
        environment["torch_fidelity"] = version("torch-fidelity")
    return {"protocol": named, "comparable_with_papers": named == LITERATURE, "metrics": metrics, "notes": notes,
            "training_noise": noise, **job.plan, "environment": environment, "wall_s": round(wall_s, 3)}


# --- the folder -------------------------------------------------------------------------------------------------------------


def _finished(target: Path, plan: dict[str, Any]) -> Manifest | None:
    if not (target / MANIFEST).is_file():
        return None
    artifact = open_artifact(target, KIND)
    _same(target, artifact.manifest.settings, plan)
    return artifact.manifest


def _begin(partial: Path, plan: dict[str, Any]) -> None:
    """Note what the folder is for, or compare with the note of the run that began it."""
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(partial, error) from error
    try:
        before = json.loads((partial / _PLAN).read_bytes())
    except FileNotFoundError:
        if strangers := sorted(p.name for p in partial.iterdir() if not p.name.startswith(f".{_PLAN}")):
            raise OutputError(f"{partial} holds files that this stage did not make; nothing there was touched", saw=strangers[:5],
                              fix="choose another --out, or move them away") from None
        write_atomic(partial / _PLAN, json.dumps(plan, indent=1))
    except OSError as error:
        raise output_error(partial, error) from error
    else:
        _same(partial, before, plan)


def _same(folder: Path, there: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise UsageError that names what differs between two plans."""
    flat_there, flat_now = ({f"{part}.{k}": v for part, body in plan.items() for k, v in (body or {}).items()} for plan in (there, now))
    if keys := [k for k in {**flat_there, **flat_now} if flat_there.get(k) != flat_now.get(k)]:
        saw = "; ".join(f"{k}: {flat_there.get(k)} there, {flat_now.get(k)} now" for k in keys[:4])
        raise UsageError(f"{folder} holds another evaluation", saw=saw, fix=f"choose another --out, or remove {folder}")


def _publish(job: Job, body: dict[str, Any], found: Found | None, target: Path) -> Manifest:
    with create(target, KIND) as draft:
        draft.write_json(EVALUATION_FILE, body)
        if found is not None and job.reference is not None:
            draft.write(NEAREST_FILE, nearest_picture(job.source, job.reference, job.chosen, found, job.settings.subset_seed))
        draft.settings = job.plan
        pairs = job.source.pairs if isinstance(job.source, GeneratedSource) else None
        others = [] if pairs is None else [pairs.artifact.as_parent("pairs")]
        others += [] if job.reference is None else job.reference.parents
        draft.parents = [*job.source.parents, *(p for p in others if p not in job.source.parents)]
        draft.info = {"label": job.source.name, "protocol": body["protocol"], "count": len(job.chosen),
                      "metrics": {m["name"]: m["value"] for m in body["metrics"]}}
    return read_manifest(target)
