"""Read what a report is made of: record, parity and student folders, checked, with their raw series.

Raw files are read line by line. A line that is not a JSON object (a power cut while logging) is left out and counted; what
was left out, or is not there at all, becomes a note that the page shows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from edgedit.core.artifact import Artifact, open_artifact
from edgedit.core.errors import ArtifactError, UsageError
from edgedit.core.record import BATCHES_FILE, POWER_FILE, SAMPLES_FILE, Record, load_record

PARITY_FILE = "parity.json"
METRICS_FILE = "metrics.jsonl"
PNG = b"\x89PNG\r\n\x1a\n"
FIX = "give folders made by `edgedit profile` (and, if wanted, `edgedit compare` and `edgedit train`)"


Window = tuple[str, float, float]
"""A named stretch of time, ("idle" or "run", start, end), seconds from the start of the run."""


@dataclass(frozen=True)
class Trace:
    """Total power of one source over time, seconds from the start of the run; `counted`: its energy came from a counter."""

    source: str
    t_s: list[float]
    power_mw: list[float]
    counted: bool = False


@dataclass(frozen=True)
class RecordSource:
    """A record folder: its measurement, raw series, sample picture (PNG bytes), and notes on what is lacking.

    `batches_ms` is the compute time of every timed batch in order.
    """


    artifact: Artifact
    record: Record
    batches_ms: list[float]
    traces: list[Trace]
    windows: list[Window]
    samples: bytes | None
    notes: list[str]


class Rung(BaseModel):
    """One step of the parity ladder."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    name: str
    against: str
    max_abs: float
    mean_abs: float
    psnr_db: float | None = None
    """None when the images are identical."""
    changed_pixels_percent: float
    max_levels: int
    note: str = ""


class ParitySource(BaseModel):
    """`parity.json`, with the folder it came from."""

    model_config = ConfigDict(frozen=True, extra="ignore", arbitrary_types_allowed=True)
    reference: str
    seeds: list[int] = []
    images: int
    rungs: list[Rung]
    artifact: Artifact | None = None


@dataclass(frozen=True)
class StudentSource:
    """A training run: loss by step, and notes."""

    artifact: Artifact
    steps: list[float]
    loss: list[float]
    notes: list[str]


@dataclass(frozen=True)
class Sources:
    """Everything a report shows, by kind, in the order given."""

    records: list[RecordSource]
    parities: list[ParitySource]
    students: list[StudentSource]


def read_sources(paths: Sequence[Path]) -> Sources:
    """Open and check every folder.

    Raises:
        UsageError: no folder, the same one twice, or none of kind "record".
        ArtifactError: a folder of another kind, altered, truncated, or unreadable.
    """
    found = Sources([], [], [])
    if len({p.resolve() for p in paths}) < len(paths):
        raise UsageError("the same folder is given twice", saw=", ".join(map(str, paths)))
    for path in paths:
        artifact = open_artifact(path, fix=FIX)
        kind = artifact.manifest.kind
        if kind == "record":
            found.records.append(read_record(artifact))
        elif kind == "parity":
            found.parities.append(read_parity(artifact))
        elif kind == "student":
            found.students.append(read_student(artifact))
        else:
            raise ArtifactError(f"{path} is of kind '{kind}'; a report takes record, parity and student folders", fix=FIX)
    if not found.records:
        raise UsageError("a report needs at least one record", saw=", ".join(map(str, paths)) or "no folder",
                         fix="edgedit profile BUNDLE --out FOLDER makes one")
    return found


def read_record(artifact: Artifact) -> RecordSource:
    """A record and its raw series."""
    record = load_record(artifact.path)
    notes: list[str] = []
    rows, bad = _lines(artifact, BATCHES_FILE, notes)
    batches_ms = [ms for row in rows if (ms := _finite(row.get("compute_ms"))) is not None]
    _count_bad(notes, BATCHES_FILE, bad + len(rows) - len(batches_ms))
    if BATCHES_FILE in artifact.manifest.files and not batches_ms:
        notes.append(f"{BATCHES_FILE} holds no batch, so no distribution is drawn")
    traces, windows = _power(artifact, record, notes)
    samples = None
    if SAMPLES_FILE in artifact.manifest.files:
        samples = artifact.file(SAMPLES_FILE).read_bytes()
        if not samples.startswith(PNG):
            notes.append(f"{SAMPLES_FILE} is not a PNG picture, so it is not shown")
            samples = None
    return RecordSource(artifact, record, batches_ms, traces, windows, samples, notes)


def _power(artifact: Artifact, record: Record, notes: list[str]) -> tuple[list[Trace], list[Window]]:
    """Total power of each source, and the idle and run windows, in seconds from the start of the run.

    Lines are samples, {"t_ns", "source", "rails_mw": {rail: mW}, and "energy_mj" where the source counts energy}, or windows,
    {"window": "idle" or "run", "t0_ns", "t1_ns"}; stamps are nanoseconds of one monotonic clock.
    """
    powers = {p.source: p for p in [*([record.power] if record.power else []), *record.power_others]}
    if POWER_FILE not in artifact.manifest.files:
        if powers:
            notes.append(f"there is no {POWER_FILE}: power over time is not drawn")
        return [], []
    rows, bad = _lines(artifact, POWER_FILE, notes)
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in powers}
    windows: list[Window] = []
    counted, untold = set(), set()
    for row in rows:
        rails, name = row.get("rails_mw"), str(row.get("source"))
        start, end = _finite(row.get("t0_ns")), _finite(row.get("t1_ns"))
        if "window" in row and start is not None and end is not None:
            windows.append((str(row["window"]), start / 1e9, end / 1e9))
        elif not isinstance(rails, dict) or (stamp := _finite(row.get("t_ns"))) is None:
            bad += 1
        elif name not in powers:
            untold.add(name)
        else:
            parts = powers[name].total_rail.split("+")
            values = [v for part in parts if (v := _finite(rails.get(part))) is not None]
            if len(values) == len(parts):
                samples[name].append((stamp / 1e9, sum(values)))
            if "energy_mj" in row:
                counted.add(name)
    _count_bad(notes, POWER_FILE, bad)
    notes += [
        f"samples of {name} were logged, but the record holds no total for it, so they are not drawn" for name in sorted(untold)
    ]
    stamps = [t for found in samples.values() for t, _ in found]
    zero = next((start for name, start, _ in windows if name == "run"), min(stamps, default=0.0))
    traces = [Trace(name, [t - zero for t, _ in found], [mw for _, mw in found], name in counted)
              for name, found in ((n, sorted(f)) for n, f in samples.items()) if found]
    return traces, [(name, start - zero, end - zero) for name, start, end in windows]


def read_parity(artifact: Artifact) -> ParitySource:
    """The parity ladder of a "parity" artifact."""
    file = artifact.file(PARITY_FILE)
    try:
        return ParitySource.model_validate({**json.loads(file.read_bytes()), "artifact": artifact})
    except (ValidationError, ValueError, TypeError) as error:
        saw = error.errors()[0] if isinstance(error, ValidationError) else error
        raise ArtifactError(
            f"{file} cannot be read as a parity ladder", saw=saw, fix="make it again with `edgedit compare`"
        ) from error


def read_student(artifact: Artifact) -> StudentSource:
    """Loss by step of a "student" run; a step logged twice (a resumed run) counts once, with its last value."""
    notes: list[str] = []
    rows, bad = _lines(artifact, METRICS_FILE, notes)
    values = {}
    for row in rows:
        step, loss = _finite(row.get("step")), _finite(row.get("loss"))
        if step is not None and loss is not None:
            values[step] = loss
    _count_bad(notes, METRICS_FILE, bad)
    if METRICS_FILE not in artifact.manifest.files and values:
        notes.append(f"{METRICS_FILE} is a log outside the manifest: its bytes are not checked against a hash")
    steps = sorted(values)
    return StudentSource(artifact, steps, [values[s] for s in steps], notes)


def _lines(artifact: Artifact, name: str, notes: list[str]) -> tuple[list[dict[str, Any]], int]:
    """Objects of a JSON-lines payload and the number of lines that are none; a note when the file is not there."""
    file = artifact.path / name
    if not file.is_file():
        notes.append(f"{artifact.path.name} holds no {name}")
        return [], 0
    parsed = list(_objects(file))
    rows = [row for row in parsed if row is not None]
    return rows, len(parsed) - len(rows)


def _objects(file: Path) -> Iterator[dict[str, Any] | None]:
    with file.open(encoding="utf-8", errors="replace") as stream:
        for text in stream:
            if text.strip():
                try:
                    row = json.loads(text)
                except ValueError:
                    row = None
                yield row if isinstance(row, dict) else None


def _count_bad(notes: list[str], name: str, bad: int) -> None:
    if bad:
        notes.append(
            f"{bad:,} line{'' if bad == 1 else 's'} of {name} could not be read and {'is' if bad == 1 else 'are'} left out"
        )


def _finite(value: Any) -> float | None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None
