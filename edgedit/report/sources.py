"""Read what a report is made of: record, parity, student and sweep folders, checked, with their raw series.

Raw files are read line by line (`lines`); what was left out, or is not there at all, becomes a note that the page shows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from edgedit.core.artifact import MANIFEST, Artifact, open_artifact
from edgedit.core.errors import ArtifactError, UsageError
from edgedit.core.record import BATCHES_FILE, POWER_FILE, SAMPLES_FILE, Record, load_record
from edgedit.report import derived
from edgedit.report.lines import count_bad, finite, read_lines
from edgedit.report.sweeps import SweepSource, read_sweep

PARITY_FILE = "parity.json"
METRICS_FILE = "metrics.jsonl"
PNG = b"\x89PNG\r\n\x1a\n"
FIX = "give folders made by `edgedit profile` or `edgedit sweep` (and, if wanted, `edgedit compare` and `edgedit train`)"


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

    `batches_ms` is the compute time of every timed batch in order, `periods_ms` the time from one batch's end to the next's
    (one fewer; empty when the log has no stamps).
    """

    artifact: Artifact
    record: Record
    batches_ms: list[float]
    traces: list[Trace]
    windows: list[Window]
    samples: bytes | None
    notes: list[str]
    periods_ms: list[float] = field(default_factory=list)


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
    sweeps: list[SweepSource] = field(default_factory=list)
    attached: dict[str, RecordSource] = field(default_factory=dict)
    """Records of a sweep's rows that are at hand, by row name; those given on their own are in `records` only."""


def read_sources(paths: Sequence[Path]) -> Sources:
    """Open and check every folder.

    Raises:
        UsageError: no folder, the same one twice, or neither a record nor a sweep among them.
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
        elif kind == "sweep":
            found.sweeps.append(read_sweep(artifact))
        else:
            raise ArtifactError(f"{path} is of kind '{kind}'; a report takes record, sweep, parity and student folders", fix=FIX)
    if not found.records and not found.sweeps:
        raise UsageError("a report needs at least one record or sweep", saw=", ".join(map(str, paths)) or "no folder",
                         fix="edgedit profile BUNDLE --out FOLDER makes a record")
    for sweep in found.sweeps:
        _attach(sweep, found)
    return found


def _attach(sweep: SweepSource, found: Sources) -> None:
    """Read the records of a sweep's rows that are where the rows say; what is not there becomes a note of the sweep."""
    given = {s.artifact.manifest.digest: s for s in found.records}
    lost = []
    for row in sweep.rows:
        if not (told := row.paths.get("record")):
            continue
        inside = (sweep.artifact.path.joinpath(*Path(told).parts[-k:]) for k in range(1, 5))  # a sweep that was moved
        folder = next((f for f in (sweep.artifact.path / told, Path(told), *inside) if (f / MANIFEST).is_file()), None)
        try:
            artifact = None if folder is None else open_artifact(folder, "record")
        except ArtifactError as error:
            sweep.notes.append(f"the record of {row.name} is not used: {error.what}")
            continue
        if artifact is None:
            lost.append(row.name)
            continue
        source = given.get(artifact.manifest.digest) or read_record(artifact)
        sweep.profiled[row.name] = derived.images_done(source.record)
        if artifact.manifest.digest not in given:
            found.attached[row.name if row.name not in found.attached else f"{row.name} of {sweep.name}"] = source
    if lost:
        sweep.notes.append(f"the records of {', '.join(lost)} are not where the sweep left them: no samples, no hashes of theirs")


def read_record(artifact: Artifact) -> RecordSource:
    """A record and its raw series."""
    record = load_record(artifact.path)
    notes: list[str] = []
    rows, bad = read_lines(artifact, BATCHES_FILE, notes)
    batches_ms = [ms for row in rows if (ms := finite(row.get("compute_ms"))) is not None]
    count_bad(notes, BATCHES_FILE, bad + len(rows) - len(batches_ms))
    if BATCHES_FILE in artifact.manifest.files and not batches_ms:
        notes.append(f"{BATCHES_FILE} holds no batch, so no distribution is drawn")
    traces, windows = _power(artifact, record, notes)
    samples = None
    if SAMPLES_FILE in artifact.manifest.files:
        samples = artifact.file(SAMPLES_FILE).read_bytes()
        if not samples.startswith(PNG):
            notes.append(f"{SAMPLES_FILE} is not a PNG picture, so it is not shown")
            samples = None
    ends = [ns for row in rows if (ns := finite(row.get("end_ns"))) is not None]
    periods_ms = [(b - a) / 1e6 for a, b in pairwise(ends) if b > a]
    return RecordSource(artifact, record, batches_ms, traces, windows, samples, notes, periods_ms)


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
    rows, bad = read_lines(artifact, POWER_FILE, notes)
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in powers}
    windows: list[Window] = []
    counted, untold = set(), set()
    for row in rows:
        rails, name = row.get("rails_mw"), str(row.get("source"))
        start, end = finite(row.get("t0_ns")), finite(row.get("t1_ns"))
        if "window" in row and start is not None and end is not None:
            windows.append((str(row["window"]), start / 1e9, end / 1e9))
        elif not isinstance(rails, dict) or (stamp := finite(row.get("t_ns"))) is None:
            bad += 1
        elif name not in powers:
            untold.add(name)
        else:
            parts = powers[name].total_rail.split("+")
            values = [v for part in parts if (v := finite(rails.get(part))) is not None]
            if len(values) == len(parts):
                samples[name].append((stamp / 1e9, sum(values)))
            if "energy_mj" in row:
                counted.add(name)
    count_bad(notes, POWER_FILE, bad)
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
    rows, bad = read_lines(artifact, METRICS_FILE, notes)
    values = {}
    for row in rows:
        step, loss = finite(row.get("step")), finite(row.get("loss"))
        if step is not None and loss is not None:
            values[step] = loss
    count_bad(notes, METRICS_FILE, bad)
    if METRICS_FILE not in artifact.manifest.files and values:
        notes.append(f"{METRICS_FILE} is a log outside the manifest: its bytes are not checked against a hash")
    steps = sorted(values)
    return StudentSource(artifact, steps, [values[s] for s in steps], notes)
