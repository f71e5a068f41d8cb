"""What to believe of the figures: the records' own verdicts, the report's, and a sweep's, gravest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgedit.core import paper
from edgedit.core.record import Record
from edgedit.report import checks, derived, sweep_content
from edgedit.report.compare import Comparison, verdict
from edgedit.report.sources import RecordSource
from edgedit.report.sweeps import SweepSource
from edgedit.report.tables import Table
from edgedit.report.words import count, listing

WORDS = {"error": "Error", "warning": "Warning", "note": "Note", "ok": "OK"}
STYLES = {"error": "error", "warning": "warning", "note": "note-level", "ok": "ok"}


@dataclass(frozen=True)
class Said:
    """A verdict as shown: level, sentence, what to do, and the record it is about (when there are several)."""

    level: str
    text: str
    fix: str = ""
    of: str = ""

    @property
    def word(self) -> str:
        """The level as a word, so that colour is not the only sign."""
        return WORDS[self.level]

    @property
    def style(self) -> str:
        """Its class in the style sheet."""
        return STYLES[self.level]


def verdicts(names_: Sequence[str], sources: Sequence[RecordSource], sweeps: Sequence[SweepSource] = (),
             compared: Sequence[Comparison] = ()) -> list[Said]:
    """The sweeps' and the records' own verdicts and the report's, gravest first."""
    several = len(sweeps) + len(sources) > 1
    found = [Said(level, text, fix, name if several else "") for s in sweeps for level, text, fix, name in sweep_content.verdicts(s)]
    records = [s.record for s in sources]
    for name, source, r in zip(names_, sources, records, strict=True):
        of = name if several else ""
        if not r.complete:
            found.append(
                Said(
                    "error",
                    f"Cut short: the run was to make {count(r.protocol.images, 'images')}, the figures cover the "
                    f"{count(derived.images_done(r))} of its finished batches",
                    "run the same profile command again",
                    of,
                )
            )
        time50 = derived.fifty(r)
        if time50 is not None and derived.images_done(r) < paper.IMAGES:
            found.append(Said("note", f"The time for 50,000 images is {time50.how} at their rate; it was not run",
                              "profile with --images 50000", of))
        found += [Said(v.level, v.text[:1].upper() + v.text[1:], v.fix, of) for v in [*r.verdicts, *checks.recompute(source)]]
        if not r.verdicts:
            found.append(Said("note", "The record holds no verdicts on steadiness or power", "", of))
    different = [name for name, _ in derived.differences(records)]
    if different:
        found.append(
            Said(
                "warning",
                f"The records differ in {listing(different)}: figures may be compared only where these agree",
                "profile again with the same settings on the same machine",
            )
        )
    if refused := verdict(compared):
        found.append(Said("note", refused, "profile again with the same settings"))
    return sorted(found, key=lambda v: list(WORDS).index(v.level))


def difference_table(names_: Sequence[str], records: Sequence[Record]) -> Table | None:
    """Where the records' protocols differ, one row a field."""
    rows = derived.differences(records)
    if not rows:
        return None
    return Table("Not the same in all records", ("", *names_), tuple((name, *values) for name, values in rows),
                 "l" * (1 + len(records)))


