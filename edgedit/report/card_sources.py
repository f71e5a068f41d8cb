"""What a model card is made from: folders of one chain, each checked to the last byte, and that they are of one chain.

Of what a model was made from (pairs, teachers, other students) the manifest alone will do, in a folder with none of its files: what
is too large to be kept is still named, with its settings, and held to its digest.

A card is about a student (or the bundles of one), else about a teacher. Every other folder must hang on it: by a digest that it
names or that names it, or, for pairs and their evaluations, by the teacher's weights. What does not is refused, both sides shown.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgedit.core.artifact import MANIFEST, Artifact, Parent, open_artifact, read_manifest
from edgedit.core.errors import ArtifactError, UsageError
from edgedit.core.record import Record, load_record
from edgedit.report.card_chain import (
    MODEL_FILE,
    Chain,
    Evaluation,
    data_name,
    lineage,
    mapping,
    same_teacher,
    student_of,
    teacher_of,
    walk,
    weights_of,
)
from edgedit.report.sources import read_parity

KINDS = ("teacher", "pairs", "student", "bundle", "evaluation", "parity", "record")
BARE = ("teacher", "pairs", "student")
"""Kinds of which the manifest alone will do."""
EVALUATION_FILE = "evaluation.json"
FIX = f"give folders of kind {', '.join(KINDS)} that belong to one model"


def read_chain(paths: Sequence[Path]) -> Chain:
    """Open and check every folder, find the model among them, and hang the rest on it.

    Raises:
        UsageError: a folder given twice, no model, two models, or a folder of another model's chain.
        ArtifactError: a folder that is missing, altered, of another kind, or unreadable; the model's own without its files.
    """
    if len({p.resolve() for p in paths}) < len(paths):
        raise UsageError("the same folder is given twice", saw=", ".join(map(str, paths)))
    found: dict[str, list[Artifact]] = {kind: [] for kind in KINDS}
    for artifact in sorted(map(_open, paths), key=_order):
        if artifact.manifest.kind not in found:
            raise ArtifactError(f"{artifact.path} is of kind '{artifact.manifest.kind}'; a card takes {', '.join(KINDS)}", fix=FIX)
        found[artifact.manifest.kind].append(artifact)
    chain = _model(found)
    if chain.subject is not None and chain.subject.manifest.digest in chain.bare:
        open_artifact(chain.subject.path, fix=FIX)  # says which file is missing
    chain.pairs.extend(_hang(chain, a, _pairs_fit(chain, a)) for a in sorted(found["pairs"], key=lambda a: len(lineage(a))))
    chain.teachers.extend(_hang(chain, a, _teacher_fits(chain, a)) for a in found["teacher"] if a is not chain.subject)
    chain.teachers.sort(key=lambda a: (_taught(chain, a), len(lineage(a))))
    chain.others.extend(_hang(chain, a, a.manifest.digest in chain.ancestors) for a in found["student"] if a is not chain.subject)
    chain.parities.extend(read_parity(_hang(chain, a, chain.digest in lineage(a))) for a in found["parity"])
    for a in found["record"]:
        chain.records.append(_record(chain, a))
    chain.evaluations.extend(_evaluation(chain, a) for a in found["evaluation"])
    return chain


def _open(path: Path) -> Artifact:
    """A folder, checked to the last byte, or to its manifest where none of the files is there."""
    if (path / MANIFEST).is_file() and _is_bare(found := Artifact(path, read_manifest(path, fix=FIX))):
        return found
    return open_artifact(path, fix=FIX)


def _is_bare(artifact: Artifact) -> bool:
    m = artifact.manifest
    return m.kind in BARE and not any((artifact.path / name).exists() for name in m.files)


def _order(artifact: Artifact) -> tuple[Any, ...]:
    settings = artifact.manifest.settings
    kind, precision = artifact.manifest.kind, str(settings.get("precision", ""))
    rank = {"fp32": 0, "fp16": 1, "int8": 2}.get(precision, 3)
    return KINDS.index(kind) if kind in KINDS else len(KINDS), rank, str(settings.get("attention", "")), artifact.manifest.digest


def _model(found: dict[str, list[Artifact]]) -> Chain:
    """The one model among the folders."""
    students, bundles, teachers = found["student"], found["bundle"], found["teacher"]
    if not students and not bundles and not teachers:
        raise UsageError("there is no model among the folders", saw=", ".join(k for k, v in found.items() if v) or "no folder",
                         fix="give a student, a teacher or a bundle")
    candidates = students or ([] if bundles else teachers)
    named = {d for a in candidates for d in lineage(a)}
    heads = [a for a in candidates if a.manifest.digest not in named]
    if len(heads) > 1:
        raise UsageError("a card is about one model, and two were given", saw="; ".join(_named(a) for a in heads[:2]), fix=FIX)
    subject = heads[0] if heads else None
    wanted = subject.manifest.digest if subject is not None else student_of(bundles[0]) if bundles else ""
    for bundle in bundles:
        if student_of(bundle) != wanted:
            raise UsageError(f"{bundle.path} was made from another student", fix=FIX,
                             saw=f"it names student {student_of(bundle)[:12]}; "
                                 + (f"given is {_named(subject)}" if subject is not None else f"{bundles[0].path} names {wanted[:12]}"))
    bare = frozenset(a.manifest.digest for kind in BARE for a in found[kind] if _is_bare(a))
    ancestors: dict[str, Parent] = {}
    for artifact in ([subject] if subject is not None else []) + bundles:
        for parent in walk(artifact.manifest.parents):
            if subject is None or parent.digest != subject.manifest.digest:
                ancestors.setdefault(parent.digest, parent)
    return Chain("student" if students or bundles else "teacher", subject, ancestors, bundles, bare=bare)


def _named(artifact: Artifact) -> str:
    m = artifact.manifest
    return f"{artifact.path} ({m.kind} {m.info.get('label', '')}, {m.digest[:12]})"


def _hang(chain: Chain, artifact: Artifact, fits: bool) -> Artifact:
    """The artifact, if it hangs on the model; UsageError with both sides otherwise."""
    if fits:
        return artifact
    m = artifact.manifest
    names = ", ".join(f"{p.role} {p.label} {p.digest[:12]}" for p in m.parents) or "no parents"
    made_of = ", ".join(f"{p.kind} {p.label} {p.digest[:12]}" for p in chain.ancestors.values()) or "nothing"
    raise UsageError(f"{artifact.path} does not belong to {chain.head.path}", fix=FIX,
                     saw=f"it is {m.kind} {m.digest[:12]}, of {names}; the model is {chain.of} {chain.digest[:12]}, made from {made_of}")


def _pairs_fit(chain: Chain, pairs: Artifact) -> bool:
    if chain.of == "teacher":
        return chain.digest in lineage(pairs) or same_teacher(teacher_of(pairs), weights_of(chain.head))
    return pairs.manifest.digest in chain.ancestors or same_teacher(teacher_of(pairs), teacher_of(chain.head))


def _teacher_fits(chain: Chain, teacher: Artifact) -> bool:
    if teacher.manifest.digest in chain.ancestors:
        return True
    return _taught(chain, teacher)


def _taught(chain: Chain, teacher: Artifact) -> bool:
    """Whether it is the teacher of the student's own pairs."""
    return chain.of == "student" and same_teacher(weights_of(teacher), teacher_of(chain.head))


def _record(chain: Chain, artifact: Artifact) -> tuple[Artifact, Record]:
    """A record of one of the bundles, or of a bundle of the student that is not among the folders."""
    record = load_record(artifact.path)
    given = next((b for b in chain.bundles if b.manifest.digest == record.subject.bundle_digest), None)
    named = lineage(artifact)
    _hang(chain, artifact, chain.of == "student" and (given is not None or chain.digest in named))
    if given is not None and given.manifest.files.get(MODEL_FILE, {}).get("sha256") != record.subject.onnx_sha256:
        raise UsageError(f"{artifact.path} is a record of another ONNX file than {given.path} holds", fix=FIX,
                         saw=f"{record.subject.onnx_sha256[:16]} there, {str(given.manifest.files.get(MODEL_FILE))[:60]} here")
    return artifact, record


def _evaluation(chain: Chain, artifact: Artifact) -> Evaluation:
    """An evaluation with whose images they are."""
    file = artifact.file(EVALUATION_FILE)
    try:
        body = json.loads(file.read_bytes())
        if not isinstance(body["source"], dict) or not all(isinstance(m["name"], str) for m in body["metrics"]):
            raise TypeError("source or metrics are of the wrong type")
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{file} cannot be read as an evaluation", saw=f"{type(error).__name__}: {error}",
                            fix="make it again with `edgedit evaluate`") from error
    source, kind, who = body["source"], body["source"].get("kind"), "bundle"
    digest, known = str(source.get("digest", "")), data_name(chain)
    made_of = lineage(artifact, digest)
    if kind == "images" and source.get("split") and known in (None, source.get("name")):
        return Evaluation(artifact, body, "real")
    if kind == "pairs":
        ours = weights_of(chain.head) if chain.of == "teacher" else teacher_of(chain.head)
        fits = digest in chain.ancestors or same_teacher(mapping(source.get("teacher")), ours)
        _hang(chain, artifact, fits or (chain.of == "teacher" and chain.digest in made_of))
        return Evaluation(artifact, body, "teacher", digest in chain.ancestors)
    own = digest in {b.manifest.digest for b in chain.bundles}
    if chain.of == "student" and digest == chain.digest:
        who = "student"
    elif digest and digest in chain.ancestors:
        who = chain.ancestors[digest].role
    else:
        _hang(chain, artifact, chain.of == "student" and (own or chain.digest in made_of))
    return Evaluation(artifact, body, who, own)
