"""Sample pictures side by side, and each artifact's line of descent with its hashes."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgedit.report import tables
from edgedit.report.sources import RecordSource, Sources
from edgedit.report.words import number


@dataclass(frozen=True)
class Samples:
    """Pictures made from the same noise, under a heading ("" when there is one picture in all)."""

    title: str
    pictures: tuple[dict[str, str], ...]


def samples(named: Sequence[tuple[str, RecordSource]]) -> list[Samples]:
    """Sample pictures as data URIs, grouped: the same seed by precision or runtime, then the same seed by design.

    Equal seeds are the same noise on every machine, for images of one size; a picture that occurs twice is shown once.
    """
    groups: dict[tuple[Any, ...], list[tuple[str, RecordSource]]] = {}
    for name, s in named:
        spec = s.record.subject.spec
        if s.samples is not None:
            groups.setdefault((s.record.protocol.seed, spec.get("image"), spec.get("channels"), spec.get("classes")), []).append((name, s))
    found: list[Samples] = []
    alone = sum(map(len, groups.values())) == 1
    for (seed, *_), members in groups.items():
        designs: dict[str, list[tuple[str, RecordSource]]] = {}
        for name, s in members:
            designs.setdefault(s.record.subject.label, []).append((name, s))
        for label, same in designs.items():
            if len(same) > 1:
                found.append(Samples(f"Seed {seed}, design {label}: by precision and runtime", _pictures(same, alone)))
        if len(designs) > 1 or not found or len(members) == 1:
            firsts = [same[0] for same in designs.values()]
            title = "" if alone else f"Seed {seed}: by design" if len(firsts) > 1 else f"Seed {seed}"
            if len(firsts) > 1 or len(members) == 1:
                found.append(Samples(title, _pictures(firsts, alone)))
    return found


def _pictures(members: Sequence[tuple[str, RecordSource]], alone: bool) -> tuple[dict[str, str], ...]:
    made: dict[bytes, dict[str, str]] = {}
    for name, s in members:
        r = s.record
        caption = f"{r.subject.label}, {r.subject.precision}, guidance {number(r.subject.guidance_scale, 2)}, seed {r.protocol.seed}"
        if s.samples in made:
            made[s.samples]["caption"] += f". The same bytes: {name}"
        elif s.samples is not None:
            made[s.samples] = {"data": base64.b64encode(s.samples).decode(), "alt": f"Grid of generated samples: {caption}",
                               "caption": caption if alone else f"{name}: {caption}"}
    return tuple(made.values())


def chains(names_: Sequence[str], sources: Sources) -> list[dict[str, Any]]:
    """Each record's line of descent, and what it ends with."""
    found = []
    rows = [(n, "record", s.artifact) for n, s in zip(names_, sources.records, strict=True)]
    rows += [(s.name, "sweep", s.artifact) for s in sources.sweeps]
    rows += [(f"record of {name}", "record", s.artifact) for name, s in sources.attached.items()]
    rows += [(p.artifact.path.resolve().name, "parity", p.artifact) for p in sources.parities if p.artifact]
    for name, role, artifact in rows:
        links = tables.chain(role, artifact.manifest, str(artifact.path))
        kinds = {link.kind for _, link in links}
        end = "" if "pairs" in kinds else "The chain ends before the teacher's pairs: the last artifact names no parents."
        found.append({"name": name, "links": links, "end": "" if role == "sweep" else end, "long": len(links) > 12})
    return found


