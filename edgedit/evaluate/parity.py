"""The parity ladder: how far each step from the training form to the deployed graph moves the images.

Every rung makes the same images: the same noise, the same classes. Each is compared with the reference (the first rung) and
with the rung before it, so that a difference can be put down to one step: a precision, a fold, a runtime.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgedit.core.artifact import Parent, check_output, create
from edgedit.core.errors import NumericsError, UsageError
from edgedit.core.noise import labels, noise
from edgedit.core.say import Event, Say, silent
from edgedit.core.settings import Settings
from edgedit.core.spec import DiTSpec

KIND, PARITY_FILE = "parity", "parity.json"
PEAK = 2.0
"""Span of image values, -1 … 1: the peak of PSNR."""


class Runs(Protocol):
    """What a rung needs of a runtime: the device's runtimes have `infer`, the host's PyTorch also `images`."""

    def infer(self, noise: NDArray[np.float32], labels: NDArray[np.int32]) -> NDArray[np.uint8]:
        """float32 (B, C, S, S), int32 (B,) → uint8 (B, S, S, C)."""


@dataclass(frozen=True)
class Rung:
    """One way to make the images.

    Attributes:
        name: "training form, float64", "onnx fp16, attention pattern, onnxruntime 1.31".
        runtime: makes them; when it also has `images(noise, labels)`, its float images (B, C, S, S) are compared.
        precision: what may be expected of it: "fp64" (the same to rounding), "fp32", "fp16" or "int8".
        batch: the only batch that the runtime takes; None for any. A ragged last batch is padded and cut.
        note: kept beside the figures.
    """

    name: str
    runtime: Runs
    precision: Literal["fp64", "fp32", "fp16", "int8"] = "fp32"
    batch: int | None = None
    note: str = ""


class Limits(Settings):
    """What a rung may differ from the reference before the verdict is "differs". None is no limit."""

    max_abs: float | None = None
    """Largest error of float images; -1 … 1 is the span."""
    max_levels: int | None = None
    """Largest error in grey levels."""
    changed_pixels_percent: float | None = None
    psnr_db: float | None = None
    """Smallest peak signal-to-noise ratio."""


class ParitySettings(Settings):
    """What to compare, and how much may change."""

    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    images: int = Field(default=64, ge=1)
    """Per seed; classes in turn."""
    batch: int = Field(default=32, ge=1)
    """Of rungs that take any."""
    fp64: Limits = Limits(max_abs=1e-9, max_levels=1, changed_pixels_percent=0.01)
    fp32: Limits = Limits(max_levels=1, changed_pixels_percent=0.5)
    fp16: Limits = Limits(psnr_db=45.0, max_levels=16)
    int8: Limits = Limits(psnr_db=30.0)


@dataclass(frozen=True)
class Difference:
    """One rung against another.

    Attributes:
        name, against: the rungs.
        max_abs, mean_abs: of the float images where both have them, else of grey levels / 127.5. `basis` says which.
        psnr_db: 20·log10(2 / RMS) of the same values; None when they are identical.
        changed_pixels_percent: uint8 values (a colour channel of a pixel) that differ.
        max_levels: largest difference in grey levels.
        verdict: "ok", "differs", or "" where the pair is not judged (rungs are judged against the reference).
        note: the rung's note, and what went over its limit.
    """

    name: str
    against: str
    max_abs: float
    mean_abs: float
    psnr_db: float | None
    changed_pixels_percent: float
    max_levels: int
    basis: Literal["float", "uint8"]
    verdict: str = ""
    note: str = ""


@dataclass(frozen=True)
class _Images:
    levels: NDArray[np.uint8]
    floats: NDArray[np.float64] | None


def compare(rungs: Sequence[Rung], spec: DiTSpec, settings: ParitySettings | None = None, out: Path | None = None, *,
            parents: Iterable[Parent] = (), say: Say = silent) -> dict[str, Any]:
    """Climb the ladder.

    Args:
        rungs: the reference first. They are used in turn and not closed.
        spec: sizes of the images, number of classes.
        settings: see `ParitySettings`.
        out: keep the result there as an artifact of kind "parity"; None does not.
        parents: what the rungs were made from, for the artifact.

    Returns:
        `{"reference", "seeds", "images", "rungs": [Difference as dict …], "ok"}`; `images` counts all seeds. From the third
        rung on there are two entries a rung: against the reference, then against the rung before.

    Raises:
        UsageError: fewer than two rungs, or two of one name.
        NumericsError: a rung makes NaN or images of another shape.
    """
    settings = settings or ParitySettings()
    names = [rung.name for rung in rungs]
    if len(rungs) < 2 or len(set(names)) != len(names):
        raise UsageError("a comparison needs two or more rungs with different names", saw=names,
                         fix="edgedit compare STUDENT BUNDLE…")
    if out is not None:
        check_output(out)
    differences: list[Difference] = []
    first = previous = _climb(rungs[0], spec, settings, say, 0, len(rungs))
    for i, rung in enumerate(rungs[1:], start=1):
        made = _climb(rung, spec, settings, say, i, len(rungs))
        differences.append(_judge(difference(rung.name, names[0], made, first), rung, settings))
        if i > 1:
            differences.append(difference(rung.name, names[i - 1], made, previous))
        previous = made
    body = {"reference": names[0], "seeds": list(settings.seeds), "images": settings.images * len(settings.seeds),
            "rungs": [asdict(d) for d in differences], "ok": all(d.verdict != "differs" for d in differences)}
    if out is not None:
        with create(out, KIND) as draft:
            draft.write_json(PARITY_FILE, body)
            draft.parents, draft.spec, draft.settings = list(parents), spec.to_dict(), settings.model_dump()
            draft.info = {"label": spec.label, "ok": body["ok"], "rungs": names}
    return body


def difference(name: str, against: str, made: _Images, other: _Images) -> Difference:
    """Compare two sets of images."""
    steps = np.abs(made.levels.astype(np.int16) - other.levels)
    basis: Literal["float", "uint8"]
    if made.floats is not None and other.floats is not None:
        basis, away = "float", np.abs(made.floats - other.floats)
    else:
        basis, away = "uint8", steps / 127.5
    square = float(np.mean(np.square(away)))
    return Difference(
        name, against, float(away.max()), float(away.mean()), 10 * math.log10(PEAK**2 / square) if square > 0 else None,
        100 * float(np.mean(steps > 0)), int(steps.max()), basis)


def _judge(d: Difference, rung: Rung, settings: ParitySettings) -> Difference:
    """Hold a difference from the reference against the limits of the rung's precision."""
    limits: Limits = getattr(settings, rung.precision)
    over = []
    if limits.max_abs is not None and d.basis == "float" and d.max_abs > limits.max_abs:
        over.append(f"error {d.max_abs:.2g} over {limits.max_abs:.2g}")
    if limits.max_levels is not None and d.max_levels > limits.max_levels:
        over.append(f"{d.max_levels} levels over {limits.max_levels}")
    if limits.changed_pixels_percent is not None and d.changed_pixels_percent > limits.changed_pixels_percent:
        over.append(f"{d.changed_pixels_percent:.3g} % changed over {limits.changed_pixels_percent:.3g} %")
    if limits.psnr_db is not None and d.psnr_db is not None and d.psnr_db < limits.psnr_db:
        over.append(f"{d.psnr_db:.1f} dB under {limits.psnr_db:.1f} dB")
    verdict = f"over the limit for {rung.precision}: {', '.join(over)}" if over else ""
    note = "; ".join(part for part in (rung.note, verdict) if part)
    return replace(d, verdict="differs" if over else "ok", note=note)


def _climb(rung: Rung, spec: DiTSpec, settings: ParitySettings, say: Say, done: int, total: int) -> _Images:
    """All images of one rung, seed by seed; the last batch is padded by repeating its last image where it has to be full."""
    say(Event(f"compare: {rung.name}", done=done, total=total, unit="rungs"))
    size = rung.batch or settings.batch
    levels, floats = [], []
    for seed in settings.seeds:
        for start in range(0, settings.images, size):
            kept = min(size, settings.images - start)
            indices = np.arange(start, start + (size if rung.batch else kept)).clip(max=settings.images - 1)
            z = noise(seed, indices, (spec.channels, spec.image, spec.image))
            c = labels(seed, indices, spec.classes)
            levels.append(_checked(rung, rung.runtime.infer(z, c), len(indices), spec)[:kept])
            if (images := getattr(rung.runtime, "images", None)) is not None:
                floats.append(np.asarray(images(z, c), np.float64)[:kept])
    every = np.concatenate(floats) if floats else None
    if every is not None and not np.isfinite(every).all():
        raise NumericsError(f"{rung.name} makes images that are not finite",
                            saw=f"{int((~np.isfinite(every)).sum())} of {every.size} values")
    return _Images(np.concatenate(levels), every)


def _checked(rung: Rung, images: NDArray[np.uint8], count: int, spec: DiTSpec) -> NDArray[np.uint8]:
    needed = (count, spec.image, spec.image, spec.channels)
    if images.dtype != np.uint8 or images.shape != needed:
        raise NumericsError(f"{rung.name} makes images of another form", saw=f"{images.dtype} {images.shape}",
                            fix=f"needed are uint8 {needed}: is the bundle made from this student?")
    return images
