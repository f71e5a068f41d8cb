"""The commands of a card make the same settings again, parse as they stand, and name nothing of the machine; the verb itself."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main

from edgedit.cli import app
from edgedit.cli import card as verb
from edgedit.core.artifact import Parent, open_artifact
from edgedit.core.errors import ArtifactError, UsageError
from edgedit.core.settings import resolve
from edgedit.distill.settings import TrainSettings, preset
from edgedit.report.card import make_card
from edgedit.report.card_commands import SILENT
from edgedit.teach.settings import PairSettings
from edgedit.teach.unet_settings import TeacherSettings, unet_preset
from tests.report.test_report_card import Made, made, put, put_student  # noqa: F401

GROUP = typer.main.get_command(app)
TEACHER = Path(__file__).parents[2] / "engines" / "teacher-unet-small"


def parsed(command: str) -> dict[str, Any]:
    """Options of a command as its verb takes them."""
    words = shlex.split(command)[1:]
    found, name = GROUP, ""
    while words and words[0] in getattr(found, "commands", {}):
        name = words.pop(0)
        found = found.commands[name]  # type: ignore[attr-defined]
    return dict(found.make_context(name, words, resilient_parsing=False).params)


def commands(*folders: Path) -> list[str]:
    return list(make_card(folders, folders[0].parent / "README.md", defaults=verb.stage_defaults()).facts["commands"])


def plain(settings: Any) -> dict[str, Any]:
    return {k: v for k, v in settings.model_dump(mode="json").items() if k not in SILENT}


@pytest.mark.parametrize("change", [
    {"base": preset("digits")}, {"base": preset("dit-nano-5m"), "options": {"epochs": 3.0, "batch": 64}},
    {"options": {"loss.name": "l2", "steps": 7, "optimizer.grad_clip": 0.5, "seed": 5}},
    {"sets": ["loss.lpips.net=squeeze", "loss.lpips.resolution=none", "ema_warmup=false", "label_dropout=0", "compile=true"]},
    {"options": {"setup.name": "mi1", "loss.name": "l1"}, "sets": ["setup.mapped=3"]},
    {"sets": ["optimizer.betas=[0.5, 0.9]", "optimizer.schedule=linear", "precision=bf16"], "options": {"steps": 9}},
    {"options": {"loss.name": "l1+lpips", "minutes": 2.5}, "sets": ["loss.weights.l1=0.5"]},
    {"base": preset("digits"), "sets": ["micro_batch=16"]}], ids=str)
def test_train_made_again(made: Made, change: dict[str, Any], tmp_path: Path) -> None:  # noqa: F811
    settings = resolve(TrainSettings, **change)
    info = {**made.student.manifest.info, "processes": 1}
    run = put(made.home / "run", "student", {"student.safetensors": b"w"}, parents=[made.pairs.as_parent("pairs")], info=info,
              settings=settings.model_dump(mode="json"), spec=True)
    p = parsed(commands(run.path)[-1])
    assert p["preset"] is None and p["out"] == Path("run") and p["pairs"] == Path("pairs")
    again = resolve(TrainSettings, sets=p["sets"] or (), options={
        "setup.name": p["setup"], "loss.name": p["loss"], "steps": p["steps"], "epochs": p["epochs"], "minutes": p.get("minutes"),
        "batch": p["batch"]})
    skipped = () if "lpips" in settings.loss.name or settings.setup.name != "get" else ("lpips",)
    one, two = plain(settings), plain(again)
    for values in (one, two):
        values["loss"] = {k: v for k, v in values["loss"].items() if k not in skipped}
        values.pop("epochs" if settings.steps else "steps")
    assert one == two and one["micro_batch"] == settings.micro_batch


@pytest.mark.parametrize("change", [{"sigma_min": 0.01, "steps": 24}, {"teacher": "ideal", "data": "digits", "image": 8},
                                    {"teacher": "ideal", "data": "/home/x/cifar-10-batches-py", "count": 9, "start": 4}], ids=str)
def test_pairs_made_again(made: Made, change: dict[str, Any]) -> None:  # noqa: F811
    settings = PairSettings(**{"teacher": "engines/teacher", "guidance": 1.5, "precision": "bf16", "device": "cpu", "seed": 6} | (
        change if change.get("teacher") != "ideal" else {"guidance": 1.0, "precision": "fp32", **change}))
    network = settings.teacher != "ideal"
    pairs = put(made.home / "p", "pairs", {"images-00000.npy": b"x"}, info={**made.pairs.manifest.info},
                settings=settings.identity(), parents=[made.teacher.as_parent("teacher")] if network else [])
    line = commands(put_student(made.home / "s", pairs).path, pairs.path)[0]
    p = parsed(line)
    keys = ("teacher", "data", "count", "seed", "image", "guidance", "precision", "device")
    again = resolve(PairSettings, sets=p["sets"] or (), options={k: p[k] for k in keys})
    expected = settings.identity() | ({"teacher": "teacher"} if network else {"data": Path(settings.data).name})
    assert {**again.identity(), "device": "cpu"} == {**expected, "device": "cpu"} and "/home" not in line


@pytest.mark.parametrize("stored", [False, True])
def test_a_part_of_pairs_is_taken_again(made: Made, stored: bool) -> None:  # noqa: F811
    info = {**made.pairs.manifest.info, "count": 7, **({"noise": "stored"} if stored else {})}
    part = put(made.home / "few", "pairs", {"images-00000.npy": b"x"}, info=info, settings={"first": 7},
               parents=[made.pairs.as_parent("pairs")])
    lines = commands(put_student(made.home / "s", part).path, part.path)
    assert lines[0] == "edgedit pairs take pairs --count 7 --out few"
    p = parsed(lines[0])
    assert (p["source"], p["count"], p["out"]) == (Path("pairs"), 7, Path("few"))


@pytest.mark.parametrize("name", ["unet-small", "unet-base", "unet-digits"])
def test_teacher_made_again(tmp_path: Path, name: str) -> None:
    settings = resolve(TeacherSettings, base=unet_preset(name), sets=["flips=false", "optimizer.lr=2e-4"])
    info = {"name": "unet", "label": "t", "processes": 4}
    folder = put(tmp_path / "t", "teacher", {"teacher.safetensors": b"w"}, info=info, settings=settings.model_dump(mode="json"),
                 parents=[Parent("init", "teacher", "ab" * 32, "/far/away/start", "t0")]).path
    line = commands(folder)[0]
    assert line.startswith("torchrun --nproc-per-node 4 -m edgedit teacher train ") and "--init start" in line and "/far" not in line
    p = parsed(line.replace("torchrun --nproc-per-node 4 -m ", ""))
    again = resolve(TeacherSettings, base=unet_preset(p["preset"]), sets=p["sets"] or (),
                    options={k: p[k] for k in ("data", "image", "steps", "batch")})
    assert plain(again) == plain(settings)


def test_bundles_made_again(made: Made) -> None:  # noqa: F811
    last = commands(made.student.path, *(b.path for b in made.bundles))[-1]
    p = parsed(last)
    assert (p["precision"], p["attention"], p["batch"], p["guidance"], p["student"], p["out"]) == (
        "int8", "pattern", 64, 1.5, Path("student"), Path("bundle-int8"))
    assert p["sets"] == ["head_size=8", "opset=20"]


def test_every_command_of_a_card_parses(made: Made) -> None:  # noqa: F811
    text = make_card(made.folders, made.home / "README.md", defaults=verb.stage_defaults()).text
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    assert len(lines) == 2 + 3 + 3 and all(parsed(line) for line in lines)
    assert max(len(line) for block in blocks for line in block.splitlines()) < 130


def test_without_defaults_everything_is_named(made: Made) -> None:  # noqa: F811
    line = make_card([made.student.path], made.home / "README.md").facts["commands"][-1]
    assert "--set optimizer.lr=0.002" in line and "--set seed=3" in line and "ema_warmup=true" in line


# --- the verb ---------------------------------------------------------------------------------------------------------------


def call(**options: Any) -> None:
    verb.card(**{"folders": None, "out": None, "samples": None, "licence": None, "data_licence": None, "title": None, "notes": None,
                 "check": None, "json": False} | options)


def test_the_verb_writes_makes_again_and_checks(made: Made, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    file = made.home / "README.md"
    call(folders=made.folders, out=file, licence="Apache-2.0", title="Nano")
    assert f"edgedit card --check {file}" in capsys.readouterr().out
    before = file.read_text()
    call(out=file)
    assert file.read_text() == before and "# Nano" in before
    call(out=file, title="Nano 2")
    assert "# Nano 2" in file.read_text() and "license: apache-2.0" in file.read_text()
    call(check=file)
    call(check=file, folders=made.folders, json=True)
    assert json.loads(capsys.readouterr().out.split("agrees with its folders\n")[-1])["agrees"] is True
    with pytest.raises(ArtifactError, match="does not agree"):
        call(check=file, folders=made.folders[:3])
    with pytest.raises(UsageError, match="as it is"):
        call(check=file, licence="MIT")


def test_the_verb_without_folders_or_out(made: Made, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    with pytest.raises(UsageError, match="needs folders"):
        call(out=made.home / "README.md")
    with pytest.raises(UsageError, match="needs --out"):
        call(folders=made.folders)
    call(folders=made.folders, json=True)
    assert json.loads(capsys.readouterr().out)["model"]["digest"] == made.student.manifest.digest


def test_far_folders_are_warned_of(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    call(folders=[made.student.path], out=tmp_path / "a" / "b" / "c" / "README.md")
    text = (tmp_path / "a" / "b" / "c" / "README.md").read_text()
    assert "does not lie beside the card" in capsys.readouterr().err and "elsewhere, checked" in text
    assert "Not beside this card: this model (2,32,4)" in text and "edgedit export student --out my-bundle" in text


# --- real folders -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not TEACHER.is_dir(), reason="engines/teacher-unet-small is not here")
def test_the_shipped_teacher() -> None:
    card = make_card([TEACHER], TEACHER / "README.md", defaults=verb.stage_defaults())
    m = open_artifact(TEACHER).manifest
    assert card.facts["data"]["sha256"] == m.info["data"]["sha256"] and m.digest in card.text
    if not m.info["complete"]:
        assert f"step {m.info['step']:,} of {m.info['steps']:,}" in card.text.split("A diffusion teacher")[0]
    p = parsed(card.facts["commands"][0])
    again = resolve(TeacherSettings, base=unet_preset(p["preset"]), sets=p["sets"] or (),
                    options={k: p[k] for k in ("steps", "minutes", "batch")})
    same = TeacherSettings.model_validate(m.settings)
    assert {k: v for k, v in plain(again).items() if k != "data"} == {k: v for k, v in plain(same).items() if k != "data"}
