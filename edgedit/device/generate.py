"""Images from a bundle in one step, by class and seed."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgedit import __version__
from edgedit.core.errors import Interrupted, UsageError
from edgedit.core.files import output_error, write_atomic
from edgedit.core.say import Event, Say, silent
from edgedit.core.settings import Settings
from edgedit.core.stop import stop_on_signals
from edgedit.device.bundle import Bundle
from edgedit.device.outputs import FOLDER_NOTE, GRID_LIMIT, FolderOutput, GridOutput, NpzOutput, Output, file_facts, file_note
from edgedit.device.pipeline import Batch, Progress, Source, run, split
from edgedit.device.runtime import Runtime, RuntimeChoice, describe, opened, settle

LAST_INDEX = (1 << 48) - 1
Place = Literal["out", "save_dir", "npz"]


class GenerateSettings(Settings):
    """Which images to make."""

    count: int = Field(default=64, ge=1)
    """How many."""
    classes: tuple[str, ...] = ()
    """Names or numbers; image i gets class i mod n of these. Empty: all classes in turn."""
    seed: int = Field(default=0, ge=0, lt=1 << 64)
    """Of the noise; image i of a seed is the same picture in every run."""
    start: int = Field(default=0, ge=0, le=LAST_INDEX)
    """Index of the first image."""
    batch: int | None = Field(default=None, ge=1)
    """Images per run of the graph; None takes the bundle's."""


@dataclass(frozen=True)
class Generated:
    """What `generate` made.

    Attributes:
        count: images asked for; `made` of them now, the rest was there from before.
        classes: names of the classes used.
        outputs: files and folders written.
        wall_s, images_per_s: of the images made now; 0 when all were there.
    """

    count: int
    made: int
    classes: tuple[str, ...]
    outputs: tuple[Path, ...]
    wall_s: float
    images_per_s: float
    runtime: str
    provider: str


def generate(bundle_path: str | Path, runtime: Runtime | RuntimeChoice | str, settings: GenerateSettings, *,
             out: str | Path | None = None, save_dir: str | Path | None = None, npz: str | Path | None = None,
             say: Say = silent) -> Generated:
    """Make images and write them to one or more places.

    Noise, graph and saving overlap; memory does not grow with `count`. The last batch is padded to the graph's size and cut.
    Each output gets a JSON note (`<out>.json`, `<save_dir>/generate.json`) of how it was made; when the notes say that these
    very images are there already, nothing is done, and a folder that was cut short is continued.

    Args:
        bundle_path: folder of an exported bundle.
        runtime: name or choice of a runtime, or one that already holds this bundle (it is left open).
        settings: which images.
        out: a PNG with the images (the first 1,024 of them).
        save_dir: a folder for one PNG an image, named by index and class.
        npz: an uncompressed .npz with `images` uint8 (N, H, W, C) and `labels` int32 (N,).

    Raises:
        UsageError: unknown class, a batch that the graph does not take, no output asked for.
        ArtifactError, MissingError: bundle or runtime are not usable.
        OutputError: an output cannot be written or the disk is full.
        Interrupted: Ctrl-C or SIGTERM; files of `save_dir` that are whole stay.
    """
    given: dict[Place, str | Path | None] = {"out": out, "save_dir": save_dir, "npz": npz}
    places = {place: Path(path) for place, path in given.items() if path is not None}
    if not places:
        raise UsageError("nowhere to put the images", fix="give --out FILE.png, --save-dir FOLDER or --npz FILE.npz")
    bundle = Bundle.open(bundle_path)
    batch = bundle.choose_batch(settings.batch)
    if bundle.dynamic and settings.batch is None:
        batch = min(batch, settings.count)
    if settings.start + settings.count - 1 > LAST_INDEX:
        raise UsageError("the last image's index must be below 2^48", saw=f"start {settings.start}, count {settings.count}")
    classes = np.array([bundle.class_index(name) for name in settings.classes] or range(bundle.spec.classes), np.int32)
    names = tuple(bundle.class_names[k] for k in classes.tolist())
    runtime = settle(bundle, runtime, say=say)
    request = {"bundle": bundle.digest, "seed": settings.seed, "start": settings.start, "count": settings.count,
               "classes": list(names), "rule": "image i has class classes[i mod n]", "runtime": describe(runtime)}

    def label_of(indices: NDArray[np.int64]) -> NDArray[np.int32]:
        return classes[indices % len(classes)]

    labels = label_of(np.arange(settings.start, settings.start + settings.count))
    there = {place: _images_there(place, path, bundle, request, labels) for place, path in places.items()}
    skip = min(there.values())
    if skip == settings.count:
        say(Event("these images are there already; nothing was made"))
        return Generated(settings.count, 0, names, tuple(places.values()), 0.0, 0.0, "", "")
    if "out" in places and settings.count > GRID_LIMIT:
        say(Event(f"{out} shows the first {GRID_LIMIT:,} of {settings.count:,} images; --npz or --save-dir keeps all"))

    with ExitStack() as undo, opened(bundle, runtime) as ready:
        outputs: list[Output] = []
        for place in (p for p, n in there.items() if n < settings.count):
            outputs.append(_open_output(place, places[place], bundle, settings.count))
            undo.callback(outputs[-1].discard)
        if "save_dir" in places:
            _write_note(places["save_dir"] / FOLDER_NOTE, {"request": request})
        source = Source(settings.seed, bundle.noise_shape, batch, label_of,
                        split(settings.start + skip, settings.count - skip, batch))
        begin = time.perf_counter()
        _run(ready, source, outputs, settings.count, skip, say)
        facts = [_finish(output) for output in outputs]
        wall_s = time.perf_counter() - begin
        made = settings.count - skip
        how = {"runtime": ready.name, "provider": ready.provider, "version": ready.version, "batch": batch, "images": made,
               "wall_s": round(wall_s, 3), "images_per_s": round(made / wall_s, 1)}
        about = {"label": bundle.spec.label, "precision": bundle.precision, "guidance_scale": bundle.guidance_scale}
        for output, file in zip(outputs, facts, strict=True):
            _write_note(output.note, {"request": request, "bundle": about, "made": how, "file": file})
        return Generated(settings.count, made, names, tuple(places.values()), wall_s, made / wall_s, ready.name, ready.provider)


def _images_there(place: Place, path: Path, bundle: Bundle, request: dict[str, Any], labels: NDArray[np.int32]) -> int:
    """How many of the images asked for an earlier run of the same request left at `path`."""
    note = path / FOLDER_NOTE if place == "save_dir" else file_note(path)
    try:
        body = json.loads(note.read_bytes())
    except (OSError, ValueError):
        return 0
    if not isinstance(body, dict) or body.get("request") != request:
        return 0
    if place == "save_dir":
        return FolderOutput(path, bundle.class_names).done(request["start"], labels)
    return len(labels) if path.is_file() and file_facts(path) == body.get("file") else 0


def _open_output(place: Place, path: Path, bundle: Bundle, count: int) -> Output:
    try:
        if place == "save_dir":
            return FolderOutput(path, bundle.class_names)
        return GridOutput(path, bundle.class_names) if place == "out" else NpzOutput(path, count, bundle.image_shape)
    except OSError as error:
        raise output_error(path, error) from error


def _run(runtime: Runtime, source: Source, outputs: list[Output], total: int, skip: int, say: Say) -> None:
    def sink(batch: Batch) -> None:
        for output in outputs:
            try:
                output.add(batch)
            except OSError as error:
                raise output_error(output.path, error) from error

    progress = Progress("generate", total, skip, say)
    with stop_on_signals(deferred=True) as stop:
        def watch(images: int) -> bool:
            progress.at(skip + images)
            return bool(stop)

        if not run(runtime, source, sink, watch=watch):
            raise Interrupted(f"stopped by {stop.reason} after {progress.done:,} of {total:,} images",
                              fix="run the same command again: image i of a seed is always the same")
    progress.at(total, last=True)


def _finish(output: Output) -> dict[str, Any]:
    try:
        return output.finish()
    except OSError as error:
        raise output_error(output.path, error) from error


def _write_note(note: Path, body: dict[str, Any]) -> None:
    write_atomic(note, json.dumps({"made_by": f"edgedit {__version__}", **body}, indent=1, ensure_ascii=False) + "\n")
