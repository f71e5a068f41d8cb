"""Read a sweep: `rows.json` of an artifact of kind "sweep", one row a design with its settings, results and state.

A value that is not a finite number counts as not there. Fields of a newer edgedit are left alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from edgedit.core import paper
from edgedit.core.artifact import Artifact, Parent
from edgedit.core.errors import ArtifactError
from edgedit.report.lines import finite
from edgedit.report.words import SPACE

ROWS_FILE = "rows.json"
HIGHER_IS_BETTER = ("accuracy", "is", "inception", "precision", "recall", "density", "coverage", "psnr")
"""First words of the names of qualities that grow with quality; Fréchet and kernel distances, and errors, shrink."""

PAPERS_DATA = re.compile(r"cifar-?10(?!\d)", re.IGNORECASE)
PROFILED = re.compile(r"profiled over ([\d,]+) of 50,000 images")
"""How a sweep says in `Budget.cut` that a profile was cut."""

Known = Annotated[float | None, BeforeValidator(finite)]
Values = Annotated[dict[str, float], BeforeValidator(
    lambda value: {k: v for k, x in value.items() if (v := finite(x)) is not None} if isinstance(value, dict) else value or {})]

Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Budget(_Part):
    """What a row was really trained with; `cut` says in words what was cut against the paper, "" when nothing was."""

    images_seen: int | None = None
    steps: int | None = None
    epochs: Known = None
    pairs: int | None = None
    cut: Text = ""


class Quality(_Part):
    """A quality figure with the name that says what it is, and of how many images."""

    name: str
    value: Known = None
    n: int | None = None
    path: str | None = None

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger value is a better one, from the first word of the name."""
        return self.name.lower().replace("-", " ").split(" ")[0] in HIGHER_IS_BETTER


class Row(_Part):
    """One design of a sweep. `published` are the paper's values for it; `predicted_s` seconds for 50,000 images by model."""

    name: str
    table: Text = ""
    label: Text = ""
    setup: Text = ""
    loss: Text = ""
    precision: Text = ""
    published: Values = {}
    spec: dict[str, int] | None = None
    parameters: int | None = None
    deployed_parameters: int | None = None
    budget: Budget | None = None
    quality: Quality | None = None
    accuracy: Known = None
    seconds: Values = {}
    status: str = "waiting"
    why: Text = ""
    paths: Annotated[dict[str, str | None], BeforeValidator(lambda value: value or {})] = {}
    images_per_s: Known = None
    latency_50k_s: Known = None
    energy_j_per_image: Known = None
    device: Text = ""
    predicted_s: Values = {}
    tell_precision: bool = Field(default=False, exclude=True)
    """Whether the sweep has rows of several precisions, so that a name needs it."""
    data_set: str = Field(default="", exclude=True)
    """What the sweep's pairs are of, where they say so ("cifar10")."""

    @property
    def shown(self) -> str:
        """What a reader knows it by: the design's label, with the precision where the sweep has several."""
        return f"{self.label or self.name}{f' {self.precision}' if self.precision and self.tell_precision else ''}"

    @property
    def quality_value(self) -> float | None:
        """The quality's value, where there is one."""
        return None if self.quality is None else self.quality.value

    @property
    def foreign(self) -> dict[str, str]:
        """In what the row is not the paper's: {"image size": "8 × 8", "data set": "digits"}; empty where it is, or nothing says so."""
        spec, found = self.spec or {}, {}
        for key, name in (("image", "image size"), ("channels", "channels"), ("classes", "classes"), ("patch", "patch size")):
            if spec.get(key, paper.IMAGE_SIZES[key]) != paper.IMAGE_SIZES[key]:
                found[name] = f"{spec[key]}{SPACE}×{SPACE}{spec[key]}" if key == "image" else str(spec[key])
        return found | ({"data set": self.data_set} if self.data_set and not PAPERS_DATA.match(self.data_set) else {})

    @property
    def stands(self) -> bool:
        """Whether the row is done, or has any figure though it is not: a quality, an accuracy, a latency or an energy."""
        figures = self.quality_value, self.accuracy, self.latency_50k_s, self.energy_j_per_image
        return self.status == "done" or any(v is not None for v in figures)

    @property
    def design(self) -> tuple[int, int, int] | None:
        """(depth, width, heads), when the row has a spec of the paper's image, patch and class sizes."""
        spec = self.spec or {}
        if any(spec.get(k, v) != v for k, v in paper.IMAGE_SIZES.items()) or not {"depth", "width", "heads"} <= set(spec):
            return None
        return spec["depth"], spec["width"], spec["heads"]


@dataclass(frozen=True)
class SweepSource:
    """A sweep: its rows in their order, and notes on what is lacking."""

    artifact: Artifact
    rows: list[Row]
    notes: list[str]
    profiled: dict[str, int] = field(default_factory=dict)
    """Images that a row's latency was measured over, by row name, from the records that are at hand."""

    def reckoned_from(self, row: Row) -> int | None:
        """Images that a row's seconds for 50,000 were reckoned from; None where they were measured over 50,000, or nothing says so."""
        told = PROFILED.search(row.budget.cut) if row.budget is not None else None
        n = self.profiled.get(row.name, int(told[1].replace(",", "")) if told else paper.IMAGES)
        return None if n == paper.IMAGES else n

    @property
    def name(self) -> str:
        """What the sweep calls itself, else its folder's name."""
        info = self.artifact.manifest.info
        return str(info.get("label") or info.get("name") or self.artifact.path.resolve().name)

    def having(self, *names: str) -> list[Row]:
        """Rows that have all these values ("quality_value", "latency_50k_s" …)."""
        return [row for row in self.rows if all(getattr(row, name) is not None for name in names)]


def read_sweep(artifact: Artifact) -> SweepSource:
    """The rows of a "sweep" artifact.

    Raises:
        ArtifactError: no `rows.json`, or one that is no list of rows; the row and the field are named.
    """
    file = artifact.file(ROWS_FILE)
    again = "make it again with `edgedit sweep`, which resumes where it was"
    try:
        body: Any = json.loads(file.read_bytes())
    except ValueError as error:
        raise ArtifactError(f"{file} is not JSON", saw=error, fix=again) from error
    if not isinstance(body, list):
        raise ArtifactError(f"{file} is not a list of rows", saw=type(body).__name__, fix=again)
    rows: list[Row] = []
    for k, values in enumerate(body, 1):
        try:
            row = Row.model_validate(values)
            rows.append(row.model_copy(update={"why": row.why.removeprefix(f"{row.status}: ")}))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ArtifactError(f"{file}: row {k} cannot be read", saw=f"{where}: {first['msg']}", fix=again) from error
    if len({row.name for row in rows}) < len(rows):
        raise ArtifactError(f"{file} names a row twice", saw=sorted(row.name for row in rows), fix=again)
    if len({row.precision for row in rows}) > 1:
        rows = [row.model_copy(update={"tell_precision": True}) for row in rows]
    data = {name for p in _pairs(artifact.manifest.parents) if (name := p.label.rpartition("/")[2].strip()) and "/" in p.label}
    if len(data) == 1:
        rows = [row.model_copy(update={"data_set": min(data)}) for row in rows]
    return SweepSource(artifact, rows, [] if rows else [f"{ROWS_FILE} holds no row"])


def _pairs(parents: Sequence[Parent]) -> Iterator[Parent]:
    """Every set of pairs among the ancestors; their labels are TEACHER/DATA SET."""
    for p in parents:
        if p.kind == "pairs":
            yield p
        yield from _pairs(p.parents)
