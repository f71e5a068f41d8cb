"""What the page says: titles, tiles, verdicts, sections. Plain values; the template and the Markdown writer lay them out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgedit.core import paper
from edgedit.core.artifact import Artifact
from edgedit.core.record import Record
from edgedit.report import ancestors, derived, plots, sweep_content, tables
from edgedit.report.sources import RecordSource, StudentSource
from edgedit.report.sweeps import SweepSource
from edgedit.report.words import count, listing, missing, number, plural, seconds


@dataclass(frozen=True)
class Tile:
    """A key figure: large value, its unit, and a line on how it was come by."""

    name: str
    value: str
    unit: str = ""
    note: str = ""
    figure: bool = True


def names(sources: Sequence[RecordSource]) -> list[str]:
    """A short name for each record: its folder's; made unique with the parent folder's or a number."""
    plain = [s.artifact.path.resolve().name for s in sources]
    twice = {n for n, k in Counter(plain).items() if k > 1}
    longer = [f"{s.artifact.path.resolve().parent.name}/{n}" if n in twice else n for s, n in zip(sources, plain, strict=True)]
    again = {n for n, k in Counter(longer).items() if k > 1}
    return [f"{n} ({k})" if n in again else n for k, n in enumerate(longer, 1)]


def title(records: Sequence[Record], sweeps: Sequence[SweepSource] = ()) -> str:
    """The page's heading."""
    if sweeps:
        return listing([f"Sweep {s.name}: {sweep_content.progress(s)}" for s in sweeps])
    if len(records) == 1:
        r = records[0]
        return f"DiT {r.subject.label}: {number(r.images_per_s)} images/s at batch {count(r.protocol.batch)}"
    designs = sorted({r.subject.label for r in records})
    return f"{plural(len(records), 'record')} of DiT {listing(designs) if len(designs) < 4 else plural(len(designs), 'design')}"


def lead(names_: Sequence[str], records: Sequence[Record], sweeps: Sequence[SweepSource] = ()) -> str:
    """The result in one line."""
    if sweeps:
        return " ".join(sweep_content.lead(s) for s in sweeps)
    if len(records) == 1:
        return derived.circumstances(records[0])
    name, best = max(zip(names_, records, strict=True), key=lambda pair: pair[1].images_per_s)
    caution = " The records were not made in the same way: see Compared." if derived.differences(records) else ""
    return f"Highest rate: {name}. {derived.headline(best)}.{caution}"


def summary(records: Sequence[Record], sweeps: Sequence[SweepSource] = ()) -> str:
    """The result in one line, for the console."""
    if sweeps:
        told = [f"{s.name}, {sweep_content.progress(s)}" for s in sweeps]
        return "; ".join([*told, *([plural(len(records), "record")] if records else [])])
    best = max(records, key=lambda r: r.images_per_s)
    return (
        derived.headline(best)
        if len(records) == 1
        else f"{plural(len(records), 'record')}; highest rate: {derived.headline(best)}"
    )


def tiles(record: Record) -> list[Tile]:
    """The key figures of one record."""
    time50, p, d = derived.fifty(record), record.power, record.batch_ms
    found = [Tile("Rate", number(record.images_per_s), "images/s", f"{count(derived.images_done(record))} images in "
                  f"{seconds(record.wall_s)}")]
    if time50 is not None:
        found.append(Tile("50,000 images", number(time50.wall_s, 4), "s", time50.how))
    if d.count:
        found.append(Tile(f"Batch of {record.protocol.batch}, median", number(d.median, 4), "ms",
                          f"99\u00a0% within {number(d.p99, 4)} ms, CoV\u00a0{number(d.cov_percent, 2)}\u00a0%"))
    if p is not None:
        value, unit = tables.energy(p.mj_per_image).split("\u00a0")
        net = "net of idle not measured" if p.net_mj_per_image is None else f"net of idle {tables.energy(p.net_mj_per_image)}"
        found.append(Tile("Energy per image", value, unit, f"{net}; {p.source}, {p.total_rail}"))
    else:
        found.append(Tile("Energy per image", "not measured", "", "see Power and energy", figure=False))
    if record.peak_memory_mb is not None:
        found.append(Tile("Peak memory", number(record.peak_memory_mb), "MB", "of the process"))
    return found


def record_section(number_: int, name: str, source: RecordSource) -> dict[str, Any]:
    """Everything about one record."""
    record = source.record
    where, unrecorded = tables.environment(record)
    built, blocks = ancestors.built(record)
    powers = [*([record.power] if record.power else []), *record.power_others]
    return {
        "anchor": f"record-{number_}",
        "name": name,
        "heading": f"Measurement: {name}",
        "headline": derived.headline(record),
        "notes": source.notes,
        "latency": tables.latency(record),
        "phases": tables.phases(record),
        "phases_figure": plots.phases(record),
        "distribution": plots.distribution(source),
        "series": plots.series(source),
        "energies": tables.energies(powers) if powers else None,
        "rails": [tables.rails(p) for p in powers if len(p.rails) > 1],
        "power_figure": plots.power_trace(source),
        "no_power": derived.no_power(record),
        "subject": tables.subject(record, source.artifact.manifest.digest),
        "environment": where,
        "unrecorded": unrecorded,
        "engine": [*ancestors.engine(record), *built],
        "engine_blocks": blocks,
        "gate": ancestors.gate(source),
        "settings": settings_text(source.artifact),
    }


def paper_section(names_: Sequence[str], records: Sequence[Record]) -> dict[str, Any]:
    """Published values for the records' designs; designs that the paper has not are named."""
    designs: dict[tuple[paper.Design, ...], list[tuple[str, Record]]] = {}
    for name, r in zip(names_, records, strict=True):
        designs.setdefault(derived.published(r), []).append((name if len(records) > 1 else "", r))
    without = sorted({r.subject.label for _, r in designs.pop((), [])})
    made = [tables.beside(*zip(*group, strict=True)) for group in designs.values()]
    return {
        "paper_tables": made,
        "paper_without": [f"The paper has no design {label}." for label in without],
        "landscape": plots.landscape(names_, records),
        "paper_title": paper.TITLE,
        "paper_author": paper.AUTHOR,
    }


def student_section(source: StudentSource, records: Sequence[RecordSource]) -> dict[str, Any]:
    """A training run: how long, the loss, and whether a record of this report was made from it."""
    m = source.artifact.manifest
    digests = {link.digest for r in records for _, link in tables.chain("record", r.artifact.manifest, "")}
    linked = ("A record of this report was made from this run." if m.digest in digests
              else "No record of this report names this run among its ancestors.")
    told = {k.replace("_", " ").capitalize(): tables.spoken(v) for k, v in m.info.items() if k not in ("label", "class_names")}
    if source.steps:
        text = (f"{count(int(source.steps[-1]), 'steps')}; last logged loss {number(source.loss[-1])}, "
                f"lowest {number(min(source.loss))}. {linked}")
    else:
        text = f"Loss {missing('no step was logged')}. {linked}"
    return {
        "name": str(m.info.get("label") or source.artifact.path.resolve().name), "text": text, "figure": plots.loss(source),
        "facts": [(k, v) for k, v in told.items() if v], "notes": source.notes, "settings": settings_text(source.artifact),
    }


def settings_text(artifact: Artifact) -> str:
    values = artifact.manifest.settings
    return json.dumps(values, indent=1, ensure_ascii=False, sort_keys=True) if values else ""
