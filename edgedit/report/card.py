"""Model cards: one Markdown file for one model, from the chain of its manifests alone, and the check that it still agrees.

A card ends with a note, hidden in its page, of the folders and of what was told by hand (licence, title, pictures): with it the same
card can be made, or checked, without typing them again. Nothing in a card depends on when or where it was made, but for paths
relative to its own folder.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from edgedit.core.errors import ArtifactError, OutputError
from edgedit.core.files import output_error, write_atomic
from edgedit.core.say import Event, Say, silent
from edgedit.core.settings import Settings
from edgedit.report import card_facts
from edgedit.report.card_chain import Chain
from edgedit.report.card_commands import Defaults, commands
from edgedit.report.card_lead import lead, warnings
from edgedit.report.card_quality import quality
from edgedit.report.card_sources import read_chain
from edgedit.report.card_text import card_text
from edgedit.report.card_use import run, sample
from edgedit.report.page import check_file

NOTE = "<!-- edgedit card: "
END = " -->"


class CardSettings(Settings):
    """What no manifest says, told by whoever makes the card."""

    title: str = ""
    """Heading; made from the facts when empty."""
    licence: str = ""
    """Of the weights: an SPDX identifier."""
    data_licence: str = ""
    """What is known of the data set's licence, in words."""
    samples: tuple[str, ...] = ()
    """Pictures to show (PNG), each a path relative to the card's folder."""
    notes: tuple[str, ...] = ()
    """Sentences for the limits, marked as said by hand."""


@dataclass(frozen=True)
class Card:
    """A card that was made: its file, its facts (plain JSON), its text."""

    file: Path
    facts: dict[str, Any]
    text: str


def make_card(folders: Sequence[Path], file: Path, settings: CardSettings | None = None, *, defaults: Defaults | None = None,
              say: Say = silent) -> Card:
    """Read the folders and put the card together; nothing is written.

    Args:
        folders: a student, teacher or bundles, and what belongs to it, in any order.
        file: where the card lies or will lie: paths in it are relative to its folder.
        settings: see `CardSettings`.
        defaults: of the stages' settings, so that the commands name what differs from them.
        say: warned of folders and pictures that do not lie beside the card.

    Raises:
        UsageError: no model, two models, or folders and pictures that do not belong together (both sides are shown).
        ArtifactError: a folder that is missing, altered or of another kind; a picture that is not a PNG.
    """
    settings, base = settings or CardSettings(), Path(file).absolute().parent.resolve()
    say(Event("reading and checking the folders", 0, len(folders), unit="folders"))
    chain = read_chain(folders)
    say(Event("reading and checking the folders", len(folders), len(folders), unit="folders"))
    places = {a.manifest.digest: _relative(a.path, base) for a in _artifacts(chain)}
    for place in [*places.values(), *settings.samples]:
        if not _beside(place):
            say(Event(f"{place} does not lie beside the card: readers elsewhere will not have it", level="warning"))
    try:
        facts = _facts(chain, places, settings, base, defaults or {})
        text = card_text(facts)
    except (TypeError, ValueError, AttributeError, KeyError, ZeroDivisionError) as error:
        raise ArtifactError("a manifest among the folders holds a value of the wrong type", saw=f"{type(error).__name__}: {error}",
                            fix="make it again with the command that made it") from error
    note = {"folders": sorted(places.values()), **{k: v for k, v in settings.model_dump(mode="json").items() if v}}
    hidden = json.dumps(note, ensure_ascii=False, sort_keys=True).replace("<", "\\u003c").replace(">", "\\u003e").replace("--", "-\\u002d")
    return Card(Path(file), facts, f"{text}{NOTE}{hidden}{END}\n")


def write_card(folders: Sequence[Path], out: Path, settings: CardSettings | None = None, *, defaults: Defaults | None = None,
               say: Say = silent) -> Card:
    """Make a card and write it, whole or not at all. The same folders and settings give the same bytes.

    Raises:
        As `make_card`. OutputError: `out` cannot be written, or is a text that was not made by this.
    """
    out = Path(out)
    check_file(out)
    if out.exists() and read_note(out) is None:
        raise OutputError(f"{out} is a text that edgedit did not make; nothing there was touched", fix="choose another --out, or remove it")
    card = make_card(folders, out, settings, defaults=defaults, say=say)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise output_error(out, error) from error
    write_atomic(out, card.text)
    return card


def check_card(file: Path, folders: Sequence[Path] = (), *, defaults: Defaults | None = None, say: Say = silent) -> Card:
    """Make a card again from the folders (those that it names, when none are given) and compare.

    Raises:
        As `make_card`. ArtifactError: the text differs (the first difference is shown), or is not a card.
    """
    told = told_of(file)
    card = make_card(list(folders) or told[0], file, told[1], defaults=defaults, say=say)
    there = _text(file)
    if there != card.text:
        changes = [line for line in difflib.unified_diff(there.splitlines(), card.text.splitlines(), lineterm="", n=0)
                   if line[:1] in "+-" and line[:3] not in ("+++", "---")]
        shown = "\n       ".join(["- in the card, + by the folders", *(line[:200] for line in changes[:4] or ["line ends"])])
        raise ArtifactError(f"{file} does not agree with its folders", saw=shown, fix=f"edgedit card --out {file} makes it again")
    return card


def told_of(file: Path) -> tuple[list[Path], CardSettings]:
    """The folders that a card was made from, and what was told by hand; ArtifactError when it is not a card."""
    note = read_note(file)
    if note is None:
        raise ArtifactError(f"{file} is not a card that edgedit made", fix="edgedit card FOLDER… --out README.md makes one")
    folders = [Path(os.path.normpath(Path(file).absolute().parent.resolve() / str(f))) for f in note.pop("folders", [])]
    known = {k: v for k, v in note.items() if k in CardSettings.model_fields}
    try:
        return folders, CardSettings.model_validate(known)
    except ValueError as error:
        raise ArtifactError(f"the note at the end of {file} cannot be read", saw=error) from error


def read_note(file: Path) -> dict[str, Any] | None:
    """The note at the end of a card; None where there is none."""
    last = (_text(file).rstrip().splitlines() or [""])[-1]
    if not (last.startswith(NOTE) and last.endswith(END)):
        return None
    try:
        note = json.loads(last[len(NOTE) : -len(END)])
    except ValueError:
        return None
    return note if isinstance(note, dict) else None


def _text(file: Path) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{file} cannot be read", saw=error) from error


def _artifacts(chain: Chain) -> list[Any]:
    subject = [] if chain.subject is None else [chain.subject]
    return [*subject, *chain.bundles, *chain.teachers, *chain.pairs, *chain.others, *(e.artifact for e in chain.evaluations),
            *(p.artifact for p in chain.parities if p.artifact), *(a for a, _ in chain.records)]


def _relative(path: Path, base: Path) -> str:
    return Path(os.path.relpath(path.resolve(), base)).as_posix()


def _beside(place: str) -> bool:
    """Whether a path from the card's folder stays in that folder or one next to it: what is shipped together."""
    return not place.startswith(("../..", "/"))


def _names(places: dict[str, str]) -> dict[str, str]:
    """How folders are called, by digest: by their path beside the card, else by as many last parts as tell them apart."""
    def short(place: str, parts: int) -> str:
        return place if _beside(place) else "/".join(place.split("/")[-parts:])

    longest = max((place.count("/") + 1 for place in places.values()), default=1)
    for parts in range(1, longest + 1):
        names = {digest: short(place, parts) for digest, place in places.items()}
        if len(set(names.values())) == len(names):
            return names
    return dict(places)


def _facts(chain: Chain, places: dict[str, str], settings: CardSettings, base: Path, defaults: Defaults) -> dict[str, Any]:
    """Everything that the card says, as plain JSON."""
    names = _names(places) | {digest: PurePosixPath(places[digest]).name for digest in chain.bare}
    model, data = card_facts.model(chain), card_facts.data(chain)
    trained = card_facts.training(chain.subject.manifest, chain) if chain.subject is not None else None
    kind = str(chain.head.manifest.info.get("name") or "teacher") if chain.of == "teacher" else ""
    speed = [card_facts.record(a, r, names) for a, r in chain.records]
    facts: dict[str, Any] = {
        "schema": 1, "kind": "card", "of": chain.of, "licence": card_facts.licence(chain, settings.licence),
        "data_licence": settings.data_licence, "notes": list(settings.notes), "model": model, "data": data,
        "teacher_kind": {"kind": kind, "what": card_facts.TEACHERS.get(kind)} if kind else None,
        "teacher": card_facts.teacher(chain), "pairs": card_facts.pairs(chain), "training": trained,
        "commands": commands(chain, names, defaults), "quality": quality(chain.of, chain.evaluations, names),
        "bundles": [card_facts.bundle(b, names[b.manifest.digest], chain.parities) for b in chain.bundles], "speed": speed,
        "chain": card_facts.chain_table(chain, {d: p if _beside(p) else "" for d, p in places.items()}),
        "samples": [sample(name, base, chain) for name in settings.samples],
        "run": run(chain, names),
        "beside": _beside(places[chain.head.manifest.digest])}
    subject = f"{model['label'] or kind}, {data['name'] or 'data not recorded'}"
    facts["title"] = settings.title or (f"DiT-Nano {subject}" if chain.of == "student" else f"Teacher {model['label'] or subject}")
    facts["tags"] = ["image-generation", "class-conditional", "diffusion",
                     *(["dit", "distillation", "one-step"] if chain.of == "student" else ["teacher"]), *(["onnx"] if chain.bundles else [])]
    return facts | {"warnings": warnings(facts), "lead": lead(facts)}
