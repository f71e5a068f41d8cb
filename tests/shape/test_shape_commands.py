"""What the README and the docs tell people to type exists, and the command line behaves at its edges."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from edgedit.cli import app, main

REPO = Path(__file__).parents[2]
TEXTS = [REPO / "README.md", *sorted((REPO / "docs").rglob("*.md"))]
GROUP = typer.main.get_command(app)


def typed_commands() -> list[tuple[str, str]]:
    """(file, command) of every `edgedit …` line in a fenced block, continued lines joined."""
    found = []
    for file in TEXTS:
        for block in re.findall(r"^```(?:sh|bash|console)?\n(.*?)^```", file.read_text(), re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                line = line.strip().removeprefix("$ ").removeprefix(".venv/bin/")
                if line.startswith("edgedit "):
                    found.append((file.name, line.split("  #")[0].strip()))
    return found


def test_there_are_commands_to_check() -> None:
    assert len(typed_commands()) >= 9


@pytest.mark.parametrize(("file", "command"), typed_commands(), ids=lambda x: x[:60])
def test_every_documented_command_parses(file: str, command: str) -> None:
    arguments = shlex.split(command)[1:]
    verb, name = GROUP, ""
    while arguments and arguments[0] in getattr(verb, "commands", {}):
        name = arguments.pop(0)
        verb = verb.commands[name]  # type: ignore[attr-defined]
    assert name, f"{command}: no such verb"
    context = verb.make_context(name, arguments, resilient_parsing=False)
    assert context.params


def verbs(group: Any, path: str = "") -> dict[str, Any]:
    """Every verb by its words; a group that takes options is one too."""
    found = {}
    for name, verb in group.commands.items():
        words = f"{path} {name}".strip()
        if not hasattr(verb, "commands") or len(verb.params) > 1:
            found[words] = verb
        found |= verbs(verb, words) if hasattr(verb, "commands") else {}
    return found


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (REPO / "Makefile").read_text(), re.M))
    named = set(re.findall(r"`?make ([\w-]+)`?", (REPO / "README.md").read_text()))
    assert {"quickstart", "test"} <= named <= targets


def test_every_verb_teaches() -> None:
    assert {"pairs", "pairs import get", "teacher convert", "teacher train", "teacher sample", "evaluate"} <= verbs(GROUP).keys()
    for name, verb in verbs(GROUP).items():
        text = verb.help or ""
        assert len(text) > 100, name
        assert all(p.help for p in verb.params if p.param_type_name == "option"), name


def test_relative_links_in_the_docs_lead_somewhere() -> None:
    for file in TEXTS:
        for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", file.read_text()):
            assert (file.parent / target).exists(), f"{file.name}: {target}"


def test_every_symbol_of_the_paper_map_exists() -> None:
    """`file.py`: `Symbol`, `other` → each is defined in that file."""
    text, seen = (REPO / "docs" / "paper-map.md").read_text(), 0
    for file, names in re.findall(r"\]\(\.\./(edgedit/[\w/]+\.py)\): ((?:`[\w.]+`(?:, )?)+)", text):
        source = (REPO / file).read_text()
        for name in re.findall(r"`([\w.]+)`", names):
            for part in name.split("."):
                assert re.search(rf"^\s*(?:def|class) {part}\b", source, re.M), f"{file}: {name}"
            seen += 1
    assert seen > 20


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "edgedit", *arguments], capture_output=True, text=True, cwd=REPO)


def test_an_unknown_option_names_the_nearest() -> None:
    got = run("profile", "x", "--imges", "3", "--out", "y")
    assert got.returncode == 2 and "--images" in got.stderr


def test_errors_have_what_saw_fix_and_no_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["show", str(tmp_path / "no")])
    assert stop.value.code == 3
    with pytest.raises(SystemExit) as stop:
        main(["train", "--pairs", str(tmp_path / "no"), "--out", str(tmp_path / "o"), "--preset", "dit-nano-0.24m"])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and "did you mean 'dit-nano-0.42m'" in err and "Traceback" not in err


def test_json_errors_are_json_on_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["show", str(tmp_path / "no"), "--json"])
    assert "not there" in json.loads(capsys.readouterr().out)["error"]["what"]


@pytest.mark.parametrize(("arguments", "words"), [
    (["generate", "--json"], "Missing argument"), (["generate", "b", "--nope", "--json"], "No such option"),
    (["profile", "b", "--out", "o", "--threads", "0", "--json"], "--threads")])
def test_a_mistyped_command_is_json_too(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    error = json.loads(capsys.readouterr().out)["error"]
    assert stop.value.code == 2 and words in error["what"] and error["fix"] == f"edgedit {arguments[0]} --help"


def test_doctor_json_lists_findings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["doctor", "--json"])
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert {"level", "title", "saw", "fix"} <= findings[0].keys()
