"""Stage "pairs": a teacher's noise–image pairs, in the format of `edgedit.core.pairset`.

While it runs, finished shards lie in `<out>.partial`, each with a receipt of its hashes; at the end the folder is sealed with
a manifest and takes the name `<out>`. Stopped in any way, kill -9 and power cuts included, the same command goes on with the
shards that are missing, and the payload is the same to the byte as that of a run that was never stopped.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch

from edgedit import __version__
from edgedit.core import artifact
from edgedit.core.artifact import MANIFEST, Manifest, check_output, open_artifact, read_manifest
from edgedit.core.errors import Interrupted, OutputError, UsageError
from edgedit.core.files import held, output_error, write_atomic
from edgedit.core.pairset import KIND, image_file, label_file
from edgedit.core.say import Event, Say, silent
from edgedit.teach.data import NAMES
from edgedit.teach.sampler import evaluations, sigmas
from edgedit.teach.settings import PairSettings
from edgedit.teach.teacher import FACTS_FILE, PLANES_FILE, prepare
from edgedit.teach.workers import Job, run_here, run_processes, shard_state

_BEGUN, _TEACHER = "begun.json", "begun-teacher.json"


def make_pairs(out: str | Path, settings: PairSettings | None = None, *, cache: Path | None = None,
               say: Say = silent) -> Manifest:
    """Write `count` pairs to `out`, or go on with what an interrupted run left.

    Args:
        out: the artifact's folder; `<out>.partial` beside it is used on the way.
        settings: see `PairSettings`.
        cache: where downloads are kept; default as `load_data`.
        say: hears progress in images.

    Returns:
        The manifest of the finished artifact; at once, checked, if `out` holds it already.

    Raises:
        UsageError: `out` or `<out>.partial` was made with other settings (they are named), or a setting has no sense.
        MissingError, ArtifactError: the data set cannot be had or read; `out` was damaged.
        OutputError: not writable, full, or another process is writing it.
        Interrupted: Ctrl-C or SIGTERM; finished shards are kept.
    """
    settings = settings or PairSettings()
    sigmas(settings.steps, settings.sigma_min, settings.sigma_max, settings.rho)
    _check_device(settings.device)
    target = Path(out)
    check_output(target)
    if (target / MANIFEST).is_file():
        manifest = open_artifact(target, KIND).manifest
        _same(target, manifest.settings, settings.identity())
        return manifest
    partial = target.with_name(target.name + ".partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(partial, error) from error
    with _stoppable(partial), held(partial, "writing"):
        if not (partial / MANIFEST).is_file():  # else it was stopped just before it took its name
            _forget_what_never_began(partial)
            _begin(partial, {**settings.identity(), "edgedit": __version__})
            identity = prepare(settings.teacher, settings.data, settings.image, partial, cache=cache, say=say)
            _begin(partial, {"teacher": identity}, _TEACHER)
            job = _job(partial, settings)
            _make(job, settings, say)
            _seal(job, settings, identity)
        _same(partial, read_manifest(partial).settings, settings.identity())
        return _publish(partial, target)


def _job(partial: Path, settings: PairSettings) -> Job:
    values = settings.model_dump(include=set(Job.__dataclass_fields__) - {"folder"})
    return Job(folder=partial.resolve(), **values)


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device '{device}' cannot be used", saw=str(error).splitlines()[0], fix="device = cpu") from error


def _forget_what_never_began(partial: Path) -> None:
    """A run that ended before its first shard (its download failed, say) leaves nothing worth keeping: its notes give way."""
    if (partial / _BEGUN).is_file() and not any(partial.glob("done-*.json")):
        _sweep(partial, _BEGUN, _TEACHER, PLANES_FILE, FACTS_FILE, "images-*.npy", "labels-*.npy", ".*.part")


def _sweep(folder: Path, *patterns: str) -> None:
    for pattern in patterns:
        for file in folder.glob(pattern):
            file.unlink()


def _begin(partial: Path, what: dict[str, Any], name: str = _BEGUN) -> None:
    """Note what the folder is for, or compare with the note of the run that began it."""
    try:
        before = json.loads((partial / name).read_bytes())
    except FileNotFoundError:
        strangers = [p.name for p in partial.iterdir()]
        if name == _BEGUN and strangers:
            raise OutputError(f"{partial} holds files that this stage did not make; nothing there was touched",
                              saw=sorted(strangers)[:5], fix="choose another --out, or move them away") from None
        write_atomic(partial / name, json.dumps(what, indent=1))
    else:
        _same(partial, before, what)


def _make(job: Job, settings: PairSettings, say: Say) -> None:
    states = {shard: shard_state(job.folder, shard) for shard in range(job.shards)}
    for shard in [k for k, state in states.items() if state == "damaged"]:
        say(Event(f"shard {shard} was damaged since it was made; it is made again", level="warning"))
    todo = [k for k, state in states.items() if state != "done"]
    done = started = job.count - sum(len(job.indices(k)) for k in todo)

    def progress(images: int) -> None:
        nonlocal done
        done += images
        say(Event("teacher pairs", done, job.count, started, "images"))

    progress(0)
    if not todo:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(settings.workers or (cores if job.device == "cpu" else 1), len(todo))
    if workers == 1:
        run_here(job, todo, progress)
    else:
        run_processes(job, todo, workers, progress)


def _seal(job: Job, settings: PairSettings, identity: dict[str, Any]) -> None:
    facts = json.loads((job.folder / FACTS_FILE).read_bytes())
    c, side, _ = facts["shape"]
    names = facts["class_names"]
    sampler = {"name": "edm-heun", "steps": job.steps, "evaluations": evaluations(job.steps), "sigma_min": job.sigma_min,
               "sigma_max": job.sigma_max, "rho": job.rho}
    info = {"label": f"{settings.teacher}/{identity['data']}", "count": job.count, "shard_size": job.shard_size, "image": side,
            "channels": c, "classes": len(names), "class_names": names, "noise": "seed", "seed": job.seed, "start": job.start,
            "teacher": identity, "sampler": sampler}
    files = [name(k) for k in range(job.shards) for name in (image_file, label_file)]
    artifact.seal(job.folder, KIND, files, info=info, settings=settings.identity())


def _publish(partial: Path, target: Path) -> Manifest:
    """Take away what only the work needed, and give the folder its name."""
    try:
        _sweep(partial, _BEGUN, _TEACHER, PLANES_FILE, FACTS_FILE, "done-*.json", ".*.part")
        os.replace(partial, target)
    except OSError as error:
        raise output_error(target, error) from error
    return read_manifest(target)


def _same(folder: Path, there: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise UsageError that names what differs. Two ways to write one path are one path."""
    keys = [k for k in {**there, **now} if there.get(k) != now.get(k)]
    if "data" in keys and _place(there.get("data")) == _place(now.get("data")):
        keys.remove("data")
    if keys:
        raise UsageError(f"{folder} holds pairs made with other settings",
                         saw="; ".join(f"{k}: {there.get(k)} there, {now.get(k)} now" for k in keys),
                         fix=f"choose another --out, or remove {folder}")


def _place(data: Any) -> str:
    """A data set's name, or its path made absolute."""
    return str(data) if data in NAMES else str(Path(str(data)).expanduser().resolve())


@contextmanager
def _stoppable(partial: Path) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into `Interrupted` while the block runs (in the main thread, where Python hears signals)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> NoReturn:
        raise Interrupted("pairs: stopped on request", saw=f"finished shards are in {partial}",
                          fix="run the same command again to go on")

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
