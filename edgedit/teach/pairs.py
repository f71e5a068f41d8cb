"""Stage "pairs": a teacher's noise–image pairs, in the format of `edgedit.core.pairset`.

While it runs, finished shards lie in `<out>.partial` (`shards.py`). Stopped in any way, kill -9 and power cuts included, the same
command goes on with the shards that are missing, and the payload is the same to the byte as that of a run that was never stopped.

Under torchrun the missing shards are dealt over the processes, on one machine or several that share the folder; any number of
processes gives the same bytes. Nothing is exchanged but the shards: whoever has finished its own waits for the receipts of the rest.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path

import torch

from edgedit import __version__
from edgedit.core import artifact
from edgedit.core.artifact import MANIFEST, Manifest, check_output, open_artifact, read_manifest
from edgedit.core.files import held
from edgedit.core.pairset import KIND
from edgedit.core.say import Event, Say, silent
from edgedit.core.stop import interruptible
from edgedit.learn.device import pick_device
from edgedit.learn.ranks import Ranks, joined
from edgedit.learn.settings import LearnSettings
from edgedit.teach.network import check_there, check_weights, parents
from edgedit.teach.sampler import evaluations, sigmas
from edgedit.teach.settings import IDEAL, PairSettings
from edgedit.teach.shards import Partial, receipt, same
from edgedit.teach.teacher import SCRATCH, check_fit, prepare, read_facts
from edgedit.teach.workers import Job, run_here, run_processes

_TEACHER = "begun-teacher.json"
_LOOK_S = 1.0  # between two looks at what other processes have finished


def make_pairs(out: str | Path, settings: PairSettings | None = None, *, cache: Path | None = None,
               say: Say = silent) -> Manifest:
    """Write `count` pairs to `out`, or go on with what an interrupted run left; under torchrun, in all its processes together.

    Args:
        out: the artifact's folder; `<out>.partial` beside it is used on the way.
        settings: see `PairSettings`.
        cache: where downloads are kept; default as `load_data`.
        say: hears progress in images (of rank 0 alone, for all).

    Returns:
        The manifest of the finished artifact; at once, checked, if `out` holds it already.

    Raises:
        UsageError: `out` or `<out>.partial` was made with other settings or by another teacher (both are named), or a setting
            has no sense.
        MissingError, ArtifactError: the data set or teacher cannot be had or read; `out` was damaged.
        NumericsError: the teacher gave NaN or infinity.
        OutputError: not writable, full, or another process is writing it.
        Interrupted: Ctrl-C or SIGTERM; finished shards are kept. EdgeditError: another process of the run ended.
    """
    settings = _with_device(settings or PairSettings())
    sigmas(settings.steps, settings.sigma_min, settings.sigma_max, settings.rho)
    partial = Partial(Path(out), (_TEACHER, *SCRATCH))
    with joined(settings.device) as ranks, ExitStack() as stack:
        say = say if ranks.main else silent
        check_fit(settings, say)
        device = pick_device(LearnSettings(device=settings.device, precision=settings.precision), ranks)
        job = _job(partial, settings, str(device))
        stack.enter_context(interruptible("pairs", partial.kept + (
            "; torchrun stops all processes when one of them ends" if ranks.world > 1 else "")))
        if (made := ranks.lead(lambda: _finished(partial.target, settings, say))) is not None:
            return made
        todo = ranks.lead(lambda: _begin(partial, job, settings, cache, stack, say))
        _make(job, todo, settings, ranks, say)
        return ranks.lead(lambda: _end(partial, job, settings, say))


def _with_device(settings: PairSettings) -> PairSettings:
    if settings.device != "auto":
        return settings
    device = "cuda" if settings.teacher != IDEAL and torch.cuda.is_available() else "cpu"
    return settings.model_copy(update={"device": device})


def _job(partial: Partial, settings: PairSettings, device: str) -> Job:
    values = settings.model_dump(include=set(Job.__dataclass_fields__) - {"folder"})
    return Job(folder=partial.folder.absolute(), **{**values, "device": device})


def _finished(target: Path, settings: PairSettings, say: Say) -> Manifest | None:
    check_output(target)
    if not (target / MANIFEST).is_file():
        return None
    manifest = open_artifact(target, KIND).manifest
    _check_same(target, manifest, settings, say)
    return manifest


def _check_same(folder: Path, manifest: Manifest, settings: PairSettings, say: Say) -> None:
    """Raise UsageError unless a sealed folder holds what is asked for."""
    same(folder, manifest.settings, settings.identity())
    if settings.teacher != IDEAL:
        check_weights(settings.teacher, manifest.info["teacher"], folder, say)


def _begin(partial: Partial, job: Job, settings: PairSettings, cache: Path | None, stack: ExitStack, say: Say) -> list[int]:
    """Hold the folder until `stack` closes and prepare the teacher in it; the shards that are missing."""
    if settings.teacher != IDEAL and not partial.sealed:
        check_there(settings.teacher)  # before a folder is made for nothing
    partial.make()
    stack.enter_context(held(partial.folder, "writing"))
    if partial.sealed:
        return []
    partial.begin({**settings.identity(), "edgedit": __version__})
    identity = prepare(settings, partial.folder, cache=cache, say=say)["identity"]
    partial.note(_TEACHER, {k: v for k, v in identity.items() if k != "digest"}, "of another teacher")  # a digest tells more than weights
    return partial.missing(job.shards, job.files, say)


def _make(job: Job, todo: list[int], settings: PairSettings, ranks: Ranks, say: Say) -> None:
    """Make this process's part of the missing shards, and wait for the others'."""
    mine = todo[ranks.rank :: ranks.world]
    tally = _Tally(job, todo, mine, say)
    tally.tell()
    workers = settings.workers or (_cores() if job.device == "cpu" else 1)
    if len(todo) == job.shards < (processes := workers * ranks.world):
        say(Event(f"{job.count} pairs make {job.shards} shard{'s' * (job.shards > 1)} of {job.shard_size}: "
                  f"{processes - job.shards} of {processes} processes have nothing to do (shard_size = {-(-job.count // processes)} "
                  "would give each its own)"))
    if len(mine) > 1 and workers > 1:
        run_processes(job, mine, min(workers, len(mine)), tally, say)
    elif mine:
        run_here(job, mine, tally, say)
    tally.wait()
    ranks.barrier()  # nobody still looks into the folder when it is renamed


def _cores() -> int:
    """Cores that this process may use, shared with torchrun's others on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


class _Tally:
    """Images made so far: own ones as they are told, the other processes' by the receipts in the folder."""

    def __init__(self, job: Job, todo: list[int], mine: list[int], say: Say) -> None:
        self.job, self.say, self.others = job, say, set(todo) - set(mine)
        self.started = self.done = job.count - sum(len(job.indices(k)) for k in todo)
        self._looked = time.monotonic()

    def __call__(self, images: int) -> None:
        """As `workers.Progress`."""
        self.done += images
        if self.others and time.monotonic() - self._looked > _LOOK_S:
            self.look()
        self.tell()

    def tell(self) -> None:
        self.say(Event("teacher pairs", self.done, self.job.count, self.started, "images"))

    def look(self) -> None:
        """Count what the others have finished since the last look."""
        there = set(os.listdir(self.job.folder))
        new = {k for k in self.others if receipt(k) in there}
        self.others -= new
        self.done += sum(len(self.job.indices(k)) for k in new)
        self._looked = time.monotonic()

    def wait(self) -> None:
        """Until all shards are there. When another process dies, torchrun ends this one."""
        while self.others:
            self.look()
            self.tell()
            if self.others:
                time.sleep(_LOOK_S / 10)


def _end(partial: Partial, job: Job, settings: PairSettings, say: Say) -> Manifest:
    """Seal the folder, unless a run before did, and give it its name."""
    if not partial.sealed:
        facts = read_facts(job.folder)
        c, side, _ = facts["shape"]
        names, identity = facts["class_names"], facts["identity"]
        sampler = {"name": "edm-heun", "steps": job.steps, "evaluations": evaluations(job.steps), "sigma_min": job.sigma_min,
                   "sigma_max": job.sigma_max, "rho": job.rho}
        label = f"{identity['teacher']}/{identity['data']}" if isinstance(identity["data"], str) else identity["label"]
        info = {"label": label, "count": job.count, "shard_size": job.shard_size, "image": side, "channels": c, "classes": len(names),
                "class_names": names, "noise": "seed", "seed": job.seed, "start": job.start, "teacher": identity, "sampler": sampler}
        artifact.seal(job.folder, KIND, [name for k in range(job.shards) for name in job.files(k)], parents=parents(facts), info=info,
                      settings=settings.identity())
    _check_same(partial.folder, read_manifest(partial.folder), settings, say)
    return partial.publish()
