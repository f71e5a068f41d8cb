"""What came of a sweep: a row a design, with what was really trained, measured and scored, and what was cut."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from edgedit.core.artifact import Parent, open_artifact, read_manifest, seal
from edgedit.core.errors import ArtifactError
from edgedit.core.files import write_atomic
from edgedit.core.record import Record, load_record
from edgedit.design.devices import find_device
from edgedit.design.sweep.plan import Plan, PlannedRow
from edgedit.design.sweep.predictions import predict_rows
from edgedit.design.sweep.settings import SweepSettings
from edgedit.design.sweep.state import KIND, ROWS_FILE, SWEEP_FILE, Folder, Status

LATENCY_IMAGES, QUALITY_IMAGES = 50_000, 50_000
"""Of the paper's protocol."""
_PATHS = {"train": "student", "evaluate": "evaluation", "export": "bundle", "profile": "record"}


@dataclass(frozen=True)
class Row:
    """A row of `rows.json`; what is not known is None. Attributes that speak for themselves are left out.

    Attributes:
        published: the paper's values by name, or None.
        budget: "images_seen", "steps", "epochs", "pairs", and "cut": in words, what was cut against the paper or the table, or "".
        quality: "name" (what the number may be called), "value", "n" images, "path"; None without an evaluation.
        scores: every number of the evaluation by its name.
        seconds: running time by stage.
        status: "done", "failed", "stopped", "waiting", "skipped"; `why` in words.
        paths: of "student", "bundle", "record", "evaluation", those that are there; absolute.
        latency_50k_s: 50,000 / images_per_s.
        device: what the profile ran on.
        predicted_s: seconds for 50,000 images by model, which had not seen this row's record; `predicted_for`: device and mode.
    """

    name: str
    table: str
    published: dict[str, float] | None
    spec: dict[str, int] | None
    label: str
    setup: str
    loss: str
    precision: str
    parameters: int | None
    deployed_parameters: int | None
    budget: dict[str, Any]
    quality: dict[str, Any] | None
    scores: dict[str, float]
    accuracy: float | None
    seconds: dict[str, float]
    status: str
    why: str
    paths: dict[str, str]
    images_per_s: float | None
    latency_50k_s: float | None
    energy_j_per_image: float | None
    device: str
    final_loss: float | None = None
    attempts: dict[str, list[list[str]]] = field(default_factory=dict)
    predicted_s: dict[str, float] = field(default_factory=dict)
    predicted_for: str = ""


def collect(plan: Plan, folder: Folder) -> list[Row]:
    """All rows of a plan, as they stand now."""
    rows = [_row(plan, row, folder) for row in plan.rows]
    settings = SweepSettings.model_validate(plan.settings)
    specs = {row.name: row.spec for row in plan.rows if row.spec and not row.skip}
    told = predict_rows(specs, {row.name: row.precision for row in plan.rows},
                        {row.name: load_record(row.paths["record"]) for row in rows if "record" in row.paths},
                        find_device(settings.device) if settings.device else None, {row.name: row.guidance for row in plan.rows})
    return [replace(row, predicted_s=told[row.name].seconds, predicted_for=told[row.name].device) if row.name in told else row
            for row in rows]


def load_sweep(folder: str | Path) -> list[Row]:
    """The rows of a sweep's folder.

    Raises:
        ArtifactError: not a sweep, or damaged.
    """
    artifact = open_artifact(folder, KIND, fix="edgedit sweep TABLE --pairs PAIRS --out FOLDER makes one")
    file = artifact.file(ROWS_FILE)
    try:
        return [Row(**values) for values in json.loads(file.read_bytes())]
    except (ValueError, TypeError) as error:
        raise ArtifactError(f"{file} cannot be read", saw=error, fix="run the same sweep again with this version") from error


def seal_sweep(plan: Plan, folder: Folder) -> list[Row]:
    """Write `rows.json` and the manifest over it; what the rows were made from become the parents."""
    rows = collect(plan, folder)
    write_atomic(folder.path / ROWS_FILE, json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False) + "\n")
    counts = {state: n for state in ("done", "failed", "stopped", "waiting", "skipped") if (n := sum(r.status == state for r in rows))}
    info = {"label": plan.table, "about": plan.about, "rows": len(rows), "states": counts,
            "complete": all(r.status in ("done", "skipped") for r in rows)}
    seal(folder.path, KIND, [ROWS_FILE, SWEEP_FILE], parents=_parents(rows), info=info, settings=plan.settings)
    return rows


def _parents(rows: list[Row]) -> list[Parent]:
    """Records and evaluations; of rows without either, students."""
    out: dict[str, Parent] = {}
    for row in rows:
        last = "record" in row.paths or "evaluation" in row.paths
        kinds = [k for k in (("record", "evaluation") if last else ("student",)) if k in row.paths]
        for kind in kinds:
            path = Path(row.paths[kind])
            m = read_manifest(path)
            out.setdefault(str(path), Parent(kind, m.kind, m.digest, str(path), str(m.info.get("label", "")), m.parents))
    return list(out.values())


def _row(plan: Plan, row: PlannedRow, folder: Folder) -> Row:
    jobs = {stage: plan.jobs[name] for stage, name in row.jobs.items()}
    states = {stage: folder.status(job.name) for stage, job in jobs.items()}
    there = {stage: folder.path / job.out for stage, job in jobs.items()
             if states[stage].state == "done" and folder.digest(job) == states[stage].digest}
    status, why = _state(plan, row, states, folder)
    record = load_record(there["profile"]) if "profile" in there else None
    scores = _scores(there.get("evaluate"))
    student = read_manifest(there["train"]).info if "train" in there else {}
    rate = record.images_per_s if record else None
    return Row(
        row.name, plan.table, row.published, row.spec.to_dict() if row.spec else None, row.spec.label if row.spec else row.name, row.setup,
        row.loss, row.precision, row.spec.parameters if row.spec else None, row.spec.deployed_parameters if row.spec else None,
        _budget(plan, row, student, record, scores), _quality(scores, there.get("evaluate")),
        {s["name"]: s["value"] for s in scores}, next((s["value"] for s in scores if s["metric"] == "accuracy"), None),
        {stage: round(s.seconds, 2) for stage, s in states.items() if s.seconds}, status, why,
        {_PATHS[stage]: str(path) for stage, path in there.items()}, rate, LATENCY_IMAGES / rate if rate else None,
        record.power.mj_per_image / 1000 if record and record.power else None, _device(record), student.get("final_loss"),
        {stage: s.attempts for stage, s in states.items() if len(s.attempts) > 1})


def _state(plan: Plan, row: PlannedRow, states: dict[str, Status], folder: Folder) -> tuple[str, str]:
    """The row's state, the worst of its jobs', and why."""
    if row.skip:
        return "skipped", row.skip
    for state in ("failed", "waiting", "stopped"):
        for stage, status in states.items():
            if status.state == state:
                return state, status.why.removeprefix("waiting: ") if state == "waiting" else f"{stage}: {status.why}"
    unfinished = [stage for stage, status in states.items() if status.state != "done"]
    if unfinished:
        return "waiting", f"not run yet: {', '.join(unfinished)}"
    return "done", ""


def _budget(plan: Plan, row: PlannedRow, student: dict[str, Any], record: Record | None, scores: list[dict[str, Any]]) -> dict[str, Any]:
    """What the row was really trained with, and in words what was cut."""
    if row.skip:
        return {"images_seen": None, "steps": None, "epochs": None, "pairs": None, "cut": ""}
    pairs = int(student.get("data", {}).get("count", row.pairs))
    seen = student.get("images_seen")
    cuts = []
    if seen is not None and row.full_images and seen < row.full_images:
        words = f"trained on {seen:,} of {row.full_whose} {row.full_images:,} images"
        if row.full_whose == "the paper's":
            words += f" ({row.full_images / 1e6:g} epochs of GET's 1,000,000 pairs)"
        cuts.append(words + (f", {pairs:,} pairs" if row.full_whose == "the paper's" else ""))
    if pairs < plan.pairs["count"]:
        cuts.append(f"the first {pairs:,} of {plan.pairs['count']:,} pairs")
    if student.get("ended_by") == "minutes":
        cuts.append("training ended by its minutes")
    if record and record.protocol.images < LATENCY_IMAGES:
        cuts.append(f"profiled over {record.protocol.images:,} of {LATENCY_IMAGES:,} images")
    counts = [s["images"] for s in scores if s.get("images")]
    if counts and min(counts) < QUALITY_IMAGES:
        cuts.append(f"scored on {min(counts):,} of {QUALITY_IMAGES:,} images")
    if row.changed:
        cuts.append(f"with {', '.join(row.changed)}")
    if row.shared_with:
        cuts.append(f"at this budget the training is that of row {row.shared_with}")
    return {"images_seen": seen, "steps": student.get("step"), "epochs": None if seen is None else seen / pairs, "pairs": pairs,
            "cut": "; ".join(cuts)}


def _scores(path: Path | None) -> list[dict[str, Any]]:
    if path is None:
        return []
    body = json.loads((path / "evaluation.json").read_bytes())
    return [m for m in body["metrics"] if isinstance(m, dict)]


def _quality(scores: list[dict[str, Any]], path: Path | None) -> dict[str, Any] | None:
    """The Fréchet distance where there is one, else the first number; under the name that it may have."""
    if not scores:
        return None
    chosen = next((s for s in scores if s["metric"] == "fid"), scores[0])
    return {"name": chosen["name"], "value": chosen["value"], "n": chosen["images"], "path": str(path)}


def _device(record: Record | None) -> str:
    if record is None:
        return ""
    e = record.environment
    on_gpu = record.protocol.provider.lower() not in ("cpu", "cpuexecutionprovider", "torch-cpu")
    return e.board or (e.gpu if on_gpu else None) or e.cpu

