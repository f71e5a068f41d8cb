"""The verb `card`: a model's card from its folders, and the check that a card still agrees with them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from edgedit.cli.console import Console
from edgedit.cli.options import Json
from edgedit.core.errors import UsageError


def card(
    folders: Annotated[list[Path] | None, typer.Argument(metavar="FOLDER…", help="A student, teacher or bundles, and its evaluations, "
                                                         "parity, records, pairs, in any order; none: those that the card names.")] = None,
    out: Annotated[Path | None, typer.Option(help="The card to write, usually FOLDER/README.md.")] = None,
    samples: Annotated[list[Path] | None, typer.Option(help="A picture to show (PNG); repeatable.")] = None,
    licence: Annotated[str | None, typer.Option("--licence", "--license", help="Of the weights: an SPDX identifier, Apache-2.0.")] = None,
    data_licence: Annotated[str | None, typer.Option("--data-licence", "--data-license", help="What is known of the data's licence; it is "
                                                                                              "never guessed.")] = None,
    title: Annotated[str | None, typer.Option(help="Heading; made from the facts when not given.")] = None,
    notes: Annotated[list[str] | None, typer.Option("--note", help="A sentence for the limits, marked as said by hand; "
                                                                   "repeatable.")] = None,
    check: Annotated[Path | None, typer.Option(metavar="CARD", help="Write nothing: compare this card with its folders. Exit status 3 when "
                                                                    "they do not agree.")] = None,
    json: Json = False,
) -> None:
    """A model card in Markdown, from manifests alone: what it is, how to run it, data, teacher, training, quality, speed, limits.

    Every folder is checked to the last byte, and that all are of one chain. Of what the model was made from, a folder with the
    manifest alone will do. What no manifest says is "not recorded". The same folders give the same bytes; with --out alone a card
    is made again from the folders it names.

    Example: edgedit card runs/student runs/bundle runs/parity runs/record --samples samples.png --licence Apache-2.0 --out README.md
    """
    from edgedit.report.card import CardSettings, check_card, make_card, told_of, write_card

    base = (out or Path("README.md")).absolute().parent.resolve()
    given: dict[str, Any] = {"title": title, "licence": licence, "data_licence": data_licence, "notes": notes,
                             "samples": samples and [Path(os.path.relpath(s.resolve(), base)).as_posix() for s in samples]}
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items() if v is not None}
    with Console(json) as ui:
        if check is not None:
            if given or out is not None:
                raise UsageError("--check takes a card as it is", saw=", ".join([*given, *(["out"] if out else [])]),
                                 fix="leave the rest out")
            made = check_card(check, folders or (), defaults=stage_defaults(), say=ui)
            ui.done(f"{check}: agrees with its folders", data={"card": str(check), "agrees": True, **made.facts})
            return
        if not folders:
            if out is None or not out.is_file():
                raise UsageError("card needs folders", fix="edgedit card STUDENT BUNDLE… --out README.md")
            named, before = told_of(out)
            made = write_card(named, out, before.model_copy(update=given), defaults=stage_defaults(), say=ui)
        elif out is not None:
            made = write_card(folders, out, CardSettings(**given), defaults=stage_defaults(), say=ui)
        elif json:
            made = make_card(folders, Path("README.md"), CardSettings(**given), defaults=stage_defaults(), say=ui)
        else:
            raise UsageError("card needs --out", fix="--out README.md, or --json to print the facts alone")
        ui.done(f"{made.file}: {made.facts['title']}", following=f"edgedit card --check {made.file}", data=made.facts)


def stage_defaults() -> dict[str, dict[str, Any]]:
    """What the stages take when nothing is said, by stage, as manifests would hold it; reading it needs no torch."""
    import json

    from pydantic import BaseModel

    from edgedit.distill.settings import TrainSettings
    from edgedit.teach.settings import PairSettings
    from edgedit.teach.unet_settings import TeacherSettings

    def of(model: type[BaseModel]) -> dict[str, Any]:
        values = {name: field.get_default(call_default_factory=True) for name, field in model.model_fields.items()}
        plain = {k: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for k, v in values.items()}
        made: dict[str, Any] = json.loads(json.dumps(plain))
        return made

    return {"teacher": of(TeacherSettings), "pairs": of(PairSettings), "train": of(TrainSettings)}
