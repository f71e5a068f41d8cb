"""Whether the noise of an evaluation was trained on, told from manifests: the student's, its pairs', and those of the pairs in question.

A student has seen the pairs of every training in its lineage: its own, of the student that it began from, of its assistant. Pairs
are the same where their set is the same, where one set is the first part of the other, and where both have noise of one seed and
their stretches of it overlap: image i of a seed has the same noise and, in balanced sets, the same class, whoever made it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedit.core.artifact import MANIFEST, Manifest, Parent, read_manifest
from edgedit.core.errors import ArtifactError
from edgedit.evaluate.generated import GeneratedSource

HELD_OUT, TRAINED_ON, UNKNOWN = "held out", "trained on", "unknown"
_USES = {"bundle": "calibrated on"}
"""What an artifact of a kind does with its pairs; all others are trained on them."""


@dataclass(frozen=True)
class _Asked:
    """The noise in question.

    Attributes:
        pairs: the set it is of, or None.
        rows: int64 (n,): numbers in that set; of noise by seed alone its indices.
        seed, start: of the set's noise; None for noise that is stored.
    """

    pairs: Manifest | None
    rows: NDArray[np.int64]
    seed: int | None
    start: int


def training_noise(source: GeneratedSource, chosen: NDArray[np.int64]) -> dict[str, Any]:
    """For the record: how much of the source's noise its student has seen.

    Returns:
        "verdict": "held out", "trained on" (all or some), or "unknown" (nothing is known to be seen, and some set cannot be told);
        "images": how many were asked for; "seen": how many of them are known to be trained on; "sets": each set in the lineage, with
        its own "seen" (None: cannot be told, with "why").
    """
    rows = np.asarray(chosen, np.int64) + source.start
    if source.pairs is None:
        asked = _Asked(None, rows, source.seed, 0)
    else:
        info = source.pairs.info
        asked = _Asked(source.pairs.artifact.manifest, rows, _seed(info), int(info.get("start", 0)))
    sets, seen = list[dict[str, Any]](), np.zeros(len(rows), bool)
    own = _students(source.parents)
    for parent, child in _sets(source.parents):
        use = _USES.get(child.kind, TRAINED_ON)
        found, why = _compare(asked, parent, child, source.taught if child.digest in own else {})
        sets.append({"label": parent.label, "digest": parent.digest, "path": parent.path, "use": use,
                     "by": f"{child.role} {child.label}".strip(), "seen": None if found is None else int(found.sum()),
                     **({"why": why} if why else {})})
        if found is not None and use == TRAINED_ON:
            seen |= found
    sets += [{"label": bare.label, "digest": bare.digest, "path": bare.path, "use": TRAINED_ON, "by": bare.role, "seen": None,
              "why": "what these weights were trained on is not recorded"} for bare in _bare(source.parents)]
    trained = [s for s in sets if s["use"] == TRAINED_ON]
    verdict = TRAINED_ON if seen.any() else HELD_OUT if trained and all(s["seen"] is not None for s in trained) else UNKNOWN
    return {"verdict": verdict, "images": len(rows), "seen": int(seen.sum()), "sets": sets}


def seen_notes(found: dict[str, Any], *, paired: bool) -> list[str]:
    """What a reader must know of it.

    Args:
        found: of `training_noise`.
        paired: whether images are compared with a teacher's; if not, unknown is not worth a word.
    """
    n, seen, notes = found["images"], found["seen"], list[str]()
    if found["verdict"] == TRAINED_ON:
        what = "pairs were" if paired else "images have noise that was"
        other = "held out are pairs of another seed, or those after the ones trained on (--start)" if paired else "--seed takes other noise"
        notes.append(f"{seen:,} of the {n:,} {what} trained on: this is no held-out measurement; {other}")
    elif found["verdict"] == UNKNOWN and paired:
        reasons = [f"{s['label'] or 'pairs'} {s['digest'][:12]}: {s['why']}" for s in found["sets"] if "why" in s]
        notes.append(f"whether these pairs were trained on cannot be told: {'; '.join(reasons) or 'the student names no pairs'}")
    used = [s for s in found["sets"] if s["use"] != TRAINED_ON and s["seen"]]
    return notes + [f"{s['seen']:,} of the {n:,} images have noise that the {s['by']} was {s['use']}" for s in used]


def _students(parents: tuple[Parent, ...]) -> set[str]:
    """Digests of the students whose images are asked for: those of the source itself, or of its bundle. `taught` is theirs alone: a
    student that they began from, were assisted or guided by has other pairs."""
    near = (parent for top in parents for parent in ((top,) if top.kind == "student" else top.parents))
    return {parent.digest for parent in near if parent.kind == "student" and parent.role == "student"}


def _sets(parents: tuple[Parent, ...], child: Parent | None = None) -> Iterator[tuple[Parent, Parent]]:
    """Every (pairs, artifact made from them) of a lineage, once; what pairs themselves were cut from is not counted."""
    known = set()
    for parent in parents:
        found = _sets(parent.parents, parent) if parent.kind != "pairs" else [] if child is None else [(parent, child)]
        for one, of in found:
            if (one.digest, of.digest) not in known:
                known.add((one.digest, of.digest))
                yield one, of


def _bare(parents: tuple[Parent, ...]) -> Iterator[Parent]:
    """Weights in a lineage that came as a file, without a manifest."""
    for parent in parents:
        if parent.kind == "weights":
            yield parent
        yield from _bare(parent.parents)


def _compare(asked: _Asked, used: Parent, child: Parent, taught: dict[str, Any]) -> tuple[NDArray[np.bool_] | None, str]:
    """bool (n,): which rows are in the set that was used; or None, and why that cannot be told."""
    every = np.ones(len(asked.rows), bool)
    if asked.pairs is not None and (asked.pairs.digest == used.digest or _comes_from(asked.pairs.parents, used.digest)):
        return every, ""
    manifest = _find(used, child)
    if asked.pairs is not None and _comes_from(used.parents, asked.pairs.digest):
        count = (taught if manifest is None else manifest.info).get("count")
        return (asked.rows < int(count), "") if count is not None else (None, "how many of these pairs it holds is not recorded")
    facts = taught if manifest is None else manifest.info
    if "noise" not in facts:
        return None, "its manifest is not at hand"
    seed = _seed(facts)
    if seed is None and asked.seed is None:
        return None, "both have stored noise"
    if seed != asked.seed:
        return ~every, ""
    first = int(facts.get("start", 0))
    index = asked.rows + asked.start
    return (index >= first) & (index < first + int(facts["count"])), ""


def _seed(info: dict[str, Any]) -> int | None:
    """Seed of the noise; None for stored noise."""
    return int(info["seed"]) if info.get("noise") == "seed" else None


def _comes_from(parents: tuple[Parent, ...], digest: str) -> bool:
    """Whether pairs were cut from the set `digest`."""
    return any(p.kind == "pairs" and (p.digest == digest or _comes_from(p.parents, digest)) for p in parents)


def _find(parent: Parent, child: Parent) -> Manifest | None:
    """Its manifest, from where it lay or from beside its child, if that is still the same."""
    for folder in (Path(parent.path), Path(child.path).parent / Path(parent.path).name) if parent.path else ():
        if not (folder / MANIFEST).is_file():
            continue
        try:
            manifest = read_manifest(folder)
        except ArtifactError:
            continue
        if manifest.digest == parent.digest:
            return manifest
    return None
