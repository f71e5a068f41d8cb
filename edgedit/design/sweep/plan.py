"""From a table to jobs: each one `python -m edgedit …` command line with its own output folder, and the jobs it waits for."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edgedit.core.artifact import open_artifact
from edgedit.core.errors import UsageError, did_you_mean
from edgedit.core.pairset import PairSet
from edgedit.core.spec import DiTSpec
from edgedit.design.devices import find_device
from edgedit.design.sweep.commands import FREE, arguments, flat, name_of
from edgedit.design.sweep.settings import STAGES, SweepSettings
from edgedit.design.sweep.table import PAPER_PAIRS, SECTIONS, Table, TableRow, merged

BATCH, EPOCHS = 256, 100.0
"""The defaults of `edgedit train`."""
USUAL: dict[str, dict[str, Any]] = {"export": {"attention": "ort"}, "profile": {}, "train": {}, "evaluate": {}}
"""Under every table: a graph for ONNX Runtime, which is what profiles here."""
KINDS = {"subset": "pairs", "train": "student", "evaluate": "evaluation", "export": "bundle", "profile": "record"}
SWEEP, PYTHON = "{sweep}", "{python}"
"""Stand in commands for the sweep's folder and the Python that runs them, so that a folder that was moved is the same sweep."""


@dataclass(frozen=True)
class Job:
    """One command.

    Attributes:
        name: its folder under `jobs/`.
        kind: "subset", "train", "evaluate", "export", "profile".
        command: arguments, with `{python}` and `{sweep}` to be filled in.
        out: the output artifact's folder, relative to the sweep's.
        after: jobs whose outputs it reads.
        inputs: digests of what it reads that no job makes.
    """

    name: str
    kind: str
    command: tuple[str, ...]
    out: str
    after: tuple[str, ...] = ()
    inputs: dict[str, str] = field(default_factory=dict)

    def filled(self, sweep: Path, python: str) -> list[str]:
        """The command for this folder and this Python."""
        return [part.replace(SWEEP, str(sweep)).replace(PYTHON, python) for part in self.command]

    def identity(self, digests: dict[str, str]) -> str:
        """What makes an output this job's: command, and digests of everything it reads (`digests` by job)."""
        body = {"command": self.command, "inputs": self.inputs, "after": {a: digests[a] for a in self.after}}
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class PlannedRow:
    """A row of the result: its spec, its jobs by stage (those of a row with the same commands are shared), or why it is skipped."""

    name: str
    spec: DiTSpec | None
    setup: str
    loss: str
    precision: str
    published: dict[str, float] | None
    jobs: dict[str, str]
    pairs: int
    batch: int
    steps: int | None
    full_images: int | None
    """Images of a training that nothing cuts: of the paper for its tables, else what the table says."""
    full_whose: str
    changed: tuple[str, ...]
    """Settings that the user gave over the table's, as "loss.name=l1"."""
    skip: str = ""
    guidance: float = 1.5
    """Scale inside the exported graph."""
    shared_with: str = ""
    """Row whose training this row's is, because their commands are the same."""


@dataclass(frozen=True)
class Plan:
    """Everything a sweep will do, in the order of running one after another."""

    table: str
    about: str
    pairs: dict[str, Any]
    rows: tuple[PlannedRow, ...]
    jobs: dict[str, Job]
    settings: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rows = [{**asdict(r), "spec": r.spec.to_dict() if r.spec else None} for r in self.rows]
        return {"table": self.table, "about": self.about, "pairs": self.pairs, "settings": self.settings, "rows": rows,
                "jobs": [asdict(job) for job in self.jobs.values()]}


def make_plan(table: Table, pairs: str | Path, settings: SweepSettings) -> Plan:
    """The jobs of a table on these pairs.

    Raises:
        UsageError: settings that contradict each other, an unknown row or device, a design that cannot be, nothing left to run.
        ArtifactError: `pairs` is not a folder of pairs; `teacher` not one of a teacher.
    """
    settings.budget.check()
    _check_models(table, settings)
    if strange := [s for s in settings.stages if s not in STAGES]:
        raise UsageError(f"there is no stage '{strange[0]}'", fix=did_you_mean(strange[0], STAGES))
    if settings.device is not None:
        find_device(settings.device)
    data = PairSet.open(Path(pairs).expanduser().resolve(), verify=False)
    if settings.teacher is not None:
        open_artifact(settings.teacher, "teacher", verify=False, fix="edgedit teacher train or convert makes one")
    made = _Planner(data, settings, table)
    for row in table.rows:
        if row.name in made.wanted:
            made.add(row)
    if not made.jobs:
        raise UsageError(f"nothing of sweep '{table.name}' can be run", saw="; ".join(f"{r.name}: {r.skip}" for r in made.rows))
    facts = {"path": str(data.artifact.path), "digest": data.artifact.manifest.digest, "count": len(data), "label": data.info.get("label")}
    return Plan(table.name, table.about, facts, tuple(made.rows), made.jobs, settings.model_dump(mode="json"))


def _data_name(data: PairSet) -> str:
    """Name of the data set that the teacher knew, "" where pairs do not say."""
    teacher = data.info.get("teacher")
    return str(teacher.get("data", "")) if isinstance(teacher, dict) else ""


def _guidance(export: dict[str, Any], setup: str, data: PairSet) -> float:
    """As `edgedit export` has it: what is set, else 1.5, and none for a student that was taught guided images."""
    given, teacher = export.get("guidance_scale"), data.info.get("teacher")
    inside = setup == "guided" or (isinstance(teacher, dict) and teacher.get("guidance", 1.0) != 1.0)
    return (1.0 if inside else 1.5) if given in (None, "none") else float(given)


def _check_models(table: Table, settings: SweepSettings) -> None:
    """Raise UsageError where depth, width or heads come as a setting: rows say them."""
    for where, given in (("--set train", settings.train), *((f"row '{row.name}'", row.settings["train"]) for row in table.rows)):
        model = given.get("model", {})
        if named := [key for key in ("depth", "width", "heads") if isinstance(model, dict) and key in model]:
            raise UsageError(f"the rows of a sweep say depth, width and heads; {where} may not", saw=f"model.{named[0]}={model[named[0]]}",
                             fix="a table of your own, with design = [depth, width, heads] in each row")


class _Planner:
    """Gathers rows and jobs; commands that are the same but for their output become one job."""

    def __init__(self, data: PairSet, settings: SweepSettings, table: Table) -> None:
        self.data, self.settings, self.table = data, settings, table
        self.by_name = {row.name: row for row in table.rows}
        self.wanted = [row.name for row in table.rows if not row.helper] if not settings.rows else list(settings.rows)
        shown = [row.name for row in table.rows if not row.helper]
        if strange := [name for name in self.wanted if name not in shown]:
            raise UsageError(f"sweep '{table.name}' has no row '{strange[0]}'", fix=did_you_mean(strange[0], shown))
        self.rows: list[PlannedRow] = []
        self.jobs: dict[str, Job] = {}
        self.same: dict[str, str] = {}
        self.owner: dict[str, str] = {}
        self.usual = {**USUAL, "evaluate": {"reference": "digits-train"} if _data_name(data) == "digits" else {}}
        self.pairs_path, self.count = str(data.artifact.path), len(data)
        self.pairs_after: tuple[str, ...] = ()
        self.pairs_digest = data.artifact.manifest.digest

    def add(self, row: TableRow) -> str:
        """Plan a row; returns the name of its training job."""
        skip = row.skip or ("it needs a teacher, the one that made the pairs: --teacher FOLDER"
                            if "teacher" in row.needs and self.settings.teacher is None else "")
        s = {name: merged(merged(self.usual[name], row.settings[name]), getattr(self.settings, name)) for name in SECTIONS}
        spec = None if row.design is None else self._spec(row, s["train"])
        own = {name: getattr(self.settings, name) for name in SECTIONS}
        given = [(name, item) for name in ("train", "evaluate") if name in self.settings.stages for item in flat(own[name])]
        changed = tuple(f"{name}.{item}" for name, item in given if item.partition("=")[0] not in FREE)
        batch = int(s["train"].get("batch", BATCH))
        steps = None if skip else self._steps(row, s["train"], batch)
        setup, loss = (name_of(s["train"].get(key, usual)) for key, usual in (("setup", "get"), ("loss", "lpips")))
        full, whose = self._full(row, s["train"], batch)
        jobs: dict[str, str] = {}
        if not skip:
            jobs["train"] = self._train(row, s["train"], batch)
            if not row.helper:
                self._others(row.name, s, jobs)
        shared = self.owner.get(jobs.get("train", ""), row.name)
        if not row.helper:
            precision = str(s["export"].get("precision", "fp32"))
            self.rows.append(PlannedRow(row.name, spec, setup, loss, precision, row.published, jobs, self.count, batch, steps, full, whose,
                                        changed, skip, _guidance(s["export"], setup, self.data), "" if shared == row.name else shared))
        return jobs.get("train", "")

    def _spec(self, row: TableRow, train: dict[str, Any]) -> DiTSpec:
        model, (c, h, _) = train.get("model", {}), self.data.shape
        depth, width, heads = row.design or (0, 0, 0)
        try:
            return DiTSpec(depth, width, heads, int(model.get("patch", 2)), h, c, self.data.classes, int(model.get("mlp_ratio", 4)))
        except UsageError as error:
            raise UsageError(f"row '{row.name}': {error.what}", saw=error.saw, fix=error.fix) from error

    def _steps(self, row: TableRow, train: dict[str, Any], batch: int) -> int:
        b = self.settings.budget
        count = min(self.count, b.pairs_limit or self.count)
        if b.images_seen:
            return math.ceil(b.images_seen / batch)
        if b.steps or (train.get("steps") and not b.epochs):
            return int(b.steps or train["steps"])
        return math.ceil(float(b.epochs or row.epochs or train.get("epochs", EPOCHS)) * count / batch)

    def _full(self, row: TableRow, train: dict[str, Any], batch: int) -> tuple[int, str]:
        if self.table.paper:
            return round((row.epochs or EPOCHS) * PAPER_PAIRS), "the paper's"
        if train.get("steps"):
            return int(train["steps"]) * batch, "the table's"
        return math.ceil(float(row.epochs or train.get("epochs", EPOCHS)) * len(self.data) / batch) * batch, "the table's"

    def _train(self, row: TableRow, settings: dict[str, Any], batch: int) -> str:
        b, depth, width, heads = self.settings.budget, *(row.design or (0, 0, 0))
        self._limit_pairs()
        settings = merged(settings, {"model": {"depth": depth, "width": width, "heads": heads}})
        settings = {k: v for k, v in settings.items() if k not in ("steps", "epochs")} | self._length(row, settings, batch)
        if b.minutes:
            settings["minutes"] = b.minutes
        after, given = list(self.pairs_after), []
        for key, other in row.students.items():
            job = next((name for name, row_name in self.owner.items() if row_name == other), "") or self.add(self.by_name[other])
            after.append(job)
            given += ["--set", f'{key}="{SWEEP}/{self.jobs[job].out}"']
        if "teacher" in row.needs:
            given += ["--set", f"setup.teacher={json.dumps(str(Path(str(self.settings.teacher)).resolve()))}"]
        command = ["train", "--pairs", self.pairs_path, *arguments("train", settings), *given]
        folder = "assistant" if row.helper else "student"
        inputs = {} if self.pairs_after else {"pairs": self.pairs_digest}
        name = self._job(row.name, "train", command, folder, tuple(after), inputs)
        self.owner.setdefault(name, row.name)
        return name

    def _length(self, row: TableRow, settings: dict[str, Any], batch: int) -> dict[str, Any]:
        b = self.settings.budget
        if b.images_seen or b.steps:
            return {"steps": self._steps(row, settings, batch)}
        if b.epochs:
            return {"epochs": b.epochs}
        if settings.get("steps"):
            return {"steps": settings["steps"]}
        epochs = row.epochs or settings.get("epochs")
        return {"epochs": epochs} if epochs else {}

    def _limit_pairs(self) -> None:
        limit = self.settings.budget.pairs_limit
        if limit is None or limit >= self.count or self.pairs_after:
            return
        command = (PYTHON, "-m", "edgedit", "pairs", "take", self.pairs_path, "--count", str(limit), "--out", f"{SWEEP}/pairs")
        self.jobs["pairs"] = Job("pairs", "subset", command, "pairs", inputs={"pairs": self.pairs_digest})
        self.pairs_path, self.pairs_after, self.count = f"{SWEEP}/pairs", ("pairs",), limit

    def _others(self, row: str, s: dict[str, dict[str, Any]], jobs: dict[str, str]) -> None:
        """Export, profile and evaluation of a trained row, those that are wanted."""
        b, stages, train = self.settings.budget, self.settings.stages, self.jobs[jobs["train"]]
        student = f"{SWEEP}/{train.out}"
        if "export" in stages or "profile" in stages:
            settings = dict(s["export"])
            if settings.get("precision") == "int8":
                settings.setdefault("calibrate", self.pairs_path)
            jobs["export"] = self._job(row, "export", ["export", student, *arguments("export", settings)], "bundle", (train.name,))
        if "profile" in stages:
            settings = s["profile"] | ({"images": b.profile_images} if b.profile_images else {})
            bundle = f"{SWEEP}/{self.jobs[jobs['export']].out}"
            jobs["profile"] = self._job(row, "profile", ["profile", bundle, "--replace", *arguments("profile", settings)], "record",
                                        (jobs["export"],))
        if "evaluate" in stages:
            settings = s["evaluate"] | ({"count": b.evaluate_images} if b.evaluate_images else {})
            command = ["evaluate", student, *arguments("evaluate", settings)]
            jobs["evaluate"] = self._job(row, "evaluate", command, "evaluation", (train.name,))

    def _job(self, row: str, kind: str, given: list[str], folder: str, after: tuple[str, ...], inputs: dict[str, str] | None = None) -> str:
        key = json.dumps([kind, given])
        if key in self.same:
            return self.same[key]
        out = f"rows/{row}/{folder}"
        name = f"{kind}-{row}"
        command = (PYTHON, "-m", "edgedit", *given, "--out", f"{SWEEP}/{out}")
        self.jobs[name] = Job(name, kind, command, out, after, inputs or {})
        self.same[key] = name
        return name
