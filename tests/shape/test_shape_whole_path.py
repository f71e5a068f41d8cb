"""Every verb in a row, as the README shows them, at the smallest sizes: what each prints, and that running again changes nothing."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgedit.cli import main, quickstart
from edgedit.cli.quickstart import commands, usual_data
from edgedit.core.artifact import create

SMALL = ["--set", "model.depth=1", "--set", "model.width=16", "--set", "model.heads=2", "--set", "model.patch=4", "--set", "threads=1"]


Made = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("path")


@pytest.fixture(scope="module")
def made(path: Path) -> Made:
    """What every verb printed, run in a row."""
    return {name: verb(*arguments) for name, arguments in steps(path).items()}


def verb(*arguments: object) -> dict[str, Any]:
    """Run one verb with --json and parse what it printed."""
    with redirect_stdout(StringIO()) as out:
        try:
            main([*map(str, arguments), "--json"])
        except SystemExit as stop:
            assert stop.code in (0, None), out.getvalue()
    return json.loads(out.getvalue())


def steps(p: Path) -> dict[str, list[object]]:
    pairs, student, bundle, half, record = (p / n for n in ("pairs", "student", "bundle", "half", "record"))
    return {
        "pairs": ["pairs", "--data", "digits", "--count", 40, "--image", 8, "--workers", 1, "--out", pairs],
        "train": ["train", "--pairs", pairs, "--preset", "digits", "--steps", 4, "--batch", 8, *SMALL, "--out", student],
        "export": ["export", student, "--batch", 8, "--attention", "ort", "--out", bundle],
        "half": ["export", student, "--batch", 8, "--precision", "fp16", "--attention", "pattern", "--out", half],
        "compare": ["compare", student, bundle, half, "--images", 10, "--out", p / "parity"],
        "generate": ["generate", bundle, "--count", 20, "--class", "3", "--out", p / "threes.png", "--npz", p / "threes.npz"],
        "profile": ["profile", bundle, "--images", 60, "--warmup", 1, "--idle", 0, "--power", "none", "--out", record],
        "report": ["report", record, p / "parity", student, "--out", p / "report.html"],
        "show": ["show", record],
    }


def test_the_path(path: Path, made: Made) -> None:
    assert made["train"]["complete"] and made["train"]["step"] == 4
    assert made["compare"]["ok"]
    assert made["profile"]["protocol"]["batches"] == 8 and made["profile"]["protocol"]["last_batch"] == 4
    assert [(k["kind"], k["status"]) for k in made["show"]["links"]] == [
        (kind, "verified") for kind in ("record", "bundle", "student", "pairs")]
    assert "ideal/digits" in (path / "report.html").read_text()
    assert Image.open(path / "threes.png").size[0] > 32
    threes = np.load(path / "threes.npz")
    assert threes["images"].shape == (20, 8, 8, 1) and set(threes["labels"]) == {3}


def test_again_changes_nothing(path: Path, made: Made) -> None:
    before = {name: (path / name / "manifest.json").read_bytes() for name in ("pairs", "student", "bundle", "half", "record")}
    for name in ("pairs", "train", "export", "half", "generate", "profile"):
        verb(*steps(path)[name])
    assert {name: (path / name / "manifest.json").read_bytes() for name in before} == before


def test_torch_runs_the_student_of_a_bundle(path: Path, made: Made) -> None:
    got = verb("generate", path / "bundle", "--count", 20, "--class", "3", "--runtime", "torch", "--npz", path / "torch.npz")
    assert got["provider"] == "torch-cpu"
    ours, theirs = np.load(path / "threes.npz")["images"], np.load(path / "torch.npz")["images"]
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= 1
    got = verb("profile", path / "bundle", "--images", 20, "--warmup", 0, "--idle", 0, "--power", "none", "--runtime", "torch",
               "--out", path / "torch-record")
    assert got["protocol"]["runtime"] == "torch"


def test_a_student_trained_further_is_exported_anew(path: Path, made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    train = [6 if a == 4 else a for a in steps(path)["train"]]
    assert verb(*train)["step"] == 6
    before = (path / "bundle" / "manifest.json").read_bytes()
    verb(*steps(path)["export"])
    assert (path / "bundle" / "manifest.json").read_bytes() != before
    links = verb_of_changed(capsys, path)
    assert [k["status"] for k in links][:2] == ["verified", "changed"]


def verb_of_changed(capsys: pytest.CaptureFixture[str], path: Path) -> list[dict[str, Any]]:
    """`show` of the old record: its bundle is another now, and the exit status says so."""
    with pytest.raises(SystemExit) as stop:
        main(["show", str(path / "record"), "--json"])
    assert stop.value.code == 3
    return json.loads(capsys.readouterr().out)["links"]


def test_quickstart_stays_with_what_it_was_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quickstart, "find_shipped", lambda data: tmp_path / "model")
    assert usual_data(tmp_path / "new") == "digits"  # a model without pairs
    (tmp_path / "model" / "pairs").mkdir(parents=True)
    (tmp_path / "model" / "pairs" / "manifest.json").touch()
    assert usual_data(tmp_path / "new") == "cifar10"
    assert usual_data(tmp_path / "model") == "digits"  # pairs of its own lie there
    (tmp_path / "old").mkdir()
    runs = '{"data": "cifar10"}\n{"data": "my/images"}\n'
    for text, data in ((runs, "my/images"), ("", "cifar10"), ("[1]\n", "cifar10"), ("{", "cifar10")):
        (tmp_path / "old" / "quickstart.jsonl").write_text(text)
        assert usual_data(tmp_path / "old") == data


def test_the_quickstart_is_made_of_these_verbs(tmp_path: Path) -> None:
    for folder in ("alone", "with-pairs"):
        with create(tmp_path / folder / "bundle-fp32", "bundle") as draft:
            draft.settings = {"guidance_scale": 1.0}
    (tmp_path / "with-pairs" / "pairs").mkdir()
    (tmp_path / "with-pairs" / "pairs" / "manifest.json").touch()
    for data in ("digits", "cifar10"):
        names = [arguments[0] for _, arguments in commands(Path("x"), data, None)]
        assert names == ["pairs", "train", "export", "export", "compare", "generate", "profile", "report"]
        assert commands(Path("x"), data, None)[2][1][-2:] == ["--guidance", "1.5"]
        given = commands(Path("x"), data, None, tmp_path / "alone")
        assert given[4][1][-2:] == ["--guidance", "1.0"]  # as the model that comes with the checkout
        assert [arguments[0] for _, arguments in given] == ["generate", "profile", *names]
        assert given[3][1][:3] == ["train", "--pairs", "x/pairs"] and "x/record-shipped" in given[-1][1]
        given = commands(Path("x"), data, None, tmp_path / "with-pairs")
        assert [arguments[0] for _, arguments in given] == ["generate", "profile", *names[1:]]
        assert given[2][1][:3] == ["train", "--pairs", str(tmp_path / "with-pairs" / "pairs")]
