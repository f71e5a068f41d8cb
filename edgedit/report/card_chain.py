"""The chain of one model, as a card tells it: which folder is what, and what its manifests say of teacher and data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgedit.core.artifact import Artifact, Parent
from edgedit.core.errors import ArtifactError
from edgedit.core.record import Record
from edgedit.report.sources import ParitySource

TEACHER_WEIGHTS = "teacher.safetensors"
MODEL_FILE = "model.onnx"


@dataclass(frozen=True)
class Evaluation:
    """An evaluation and whose images it is of.

    Attributes:
        who: "student", "bundle", "teacher" (its pairs), "real", or an ancestor's role ("assistant", "init" …).
        own: of pairs: those that the student was trained on; of a bundle: one of the bundles given.
    """

    artifact: Artifact
    body: dict[str, Any]
    who: str
    own: bool = True

    @property
    def source(self) -> dict[str, Any]:
        """Facts of the images."""
        return mapping(self.body.get("source"))


@dataclass(frozen=True)
class Chain:
    """The folders of one model, each list in an order that does not depend on how they were given.

    Attributes:
        of: "student" or "teacher".
        subject: the student or teacher; None where only bundles of a student were given.
        ancestors: everything that the subject and the bundles were made from, by digest, nearest first.
        teachers: the student's own last; what a teacher began from comes before it.
        bare: digests of the folders that hold a manifest and none of its files.
    """

    of: str
    subject: Artifact | None
    ancestors: dict[str, Parent]
    bundles: list[Artifact] = field(default_factory=list)
    teachers: list[Artifact] = field(default_factory=list)
    pairs: list[Artifact] = field(default_factory=list)
    others: list[Artifact] = field(default_factory=list)
    """Students that are ancestors: an assistant, a source, a start."""
    evaluations: list[Evaluation] = field(default_factory=list)
    parities: list[ParitySource] = field(default_factory=list)
    records: list[tuple[Artifact, Record]] = field(default_factory=list)
    bare: frozenset[str] = frozenset()

    @property
    def head(self) -> Artifact:
        """The folder that says what the model is: the subject, or the first bundle."""
        return self.subject if self.subject is not None else self.bundles[0]

    @property
    def digest(self) -> str:
        """Digest of the student or teacher, at hand or not."""
        return self.subject.manifest.digest if self.subject is not None else student_of(self.bundles[0])

    def parent(self, role: str) -> Parent | None:
        """The subject's own parent in a role, from its manifest or as the bundle repeats it."""
        parents = self.subject.manifest.parents if self.subject is not None else self.ancestors[self.digest].parents
        return next((p for p in parents if p.role == role), None)


def mapping(value: Any) -> dict[str, Any]:
    """A JSON object, or an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def walk(parents: Sequence[Parent]) -> Iterator[Parent]:
    """Parents and theirs, depth first."""
    for parent in parents:
        yield parent
        yield from walk(parent.parents)


def student_of(bundle: Artifact) -> str:
    """Digest of the student that a bundle was made from; ArtifactError when it names none."""
    for parent in bundle.manifest.parents:
        if parent.role == "student":
            return parent.digest
    raise ArtifactError(f"{bundle.path} does not name the student that it was made from", fix="edgedit export STUDENT --out FOLDER")


def teacher_of(artifact: Artifact) -> dict[str, Any]:
    """The teacher's identity as pairs, students and bundles carry it; empty when they do not."""
    info = artifact.manifest.info
    return mapping(info.get("teacher") if artifact.manifest.kind == "pairs" else mapping(info.get("data")).get("teacher"))


def same_teacher(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two identities name one teacher: the weights of a network, else the kind and data of one that needs none."""
    if a.get("weights_sha256") or b.get("weights_sha256"):
        return a.get("weights_sha256") == b.get("weights_sha256")
    return bool(a.get("data_sha256")) and (a.get("teacher"), a.get("data_sha256")) == (b.get("teacher"), b.get("data_sha256"))


def data_name(chain: Chain) -> str | None:
    """Name of the data set that the model was taught with, by way of its teacher."""
    told = chain.head.manifest.info.get("data") if chain.of == "teacher" else teacher_of(chain.head).get("data")
    name = mapping(told).get("name") if isinstance(told, dict) else told
    return str(name) if name else None


def weights_of(teacher: Artifact) -> dict[str, Any]:
    """A teacher's artifact as the identity that pairs carry."""
    return {"weights_sha256": mapping(teacher.manifest.files.get(TEACHER_WEIGHTS)).get("sha256")}


def lineage(artifact: Artifact, digest: str | None = None) -> set[str]:
    """Digests of all that an artifact was made from; with `digest`, of that parent and what it was made from."""
    parents = [p for p in artifact.manifest.parents if digest is None or p.digest == digest]
    return {p.digest for p in walk(parents)}
