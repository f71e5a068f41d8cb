"""`edgedit quickstart`: the other verbs, one after another, with sizes that a CPU finishes in minutes."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgedit import __version__
from edgedit.cli.console import Console, duration
from edgedit.core.artifact import MANIFEST, read_manifest

SHIPPED = {"cifar10": "dit-nano-cifar10", "digits": "dit-nano-digits"}
"""Trained models that come with a checkout, in `engines/`, the first to be shown first: bundles, student, and for CIFAR-10 pairs to
distil from."""

LOG = "quickstart.jsonl"
"""In the folder: a line a run."""

DIGITS = {
    "pairs": ["--count", "24000", "--image", "16"],
    "train": ["--preset", "digits"],
    "short": ["--preset", "digits", "--steps", "500"],
    "profile": ["--images", "50000"],
}
"""A student of 16×16 digits learns to draw them in about two minutes on two cores; `short` is what half of that gives."""

_MUON = ["--set", "optimizer.name=muon", "--set", "optimizer.lr=1e-2", "--set", "optimizer.schedule=cosine"]

CIFAR = {
    "pairs": ["--count", "1024"],
    "train": ["--preset", "dit-nano-0.42m", "--loss", "l1", "--batch", "16", "--steps", "600", *_MUON],
    "short": ["--preset", "dit-nano-0.42m", "--loss", "l1", "--batch", "16", "--steps", "400", *_MUON],
    "profile": ["--images", "2560"],
}
"""The same path on 32×32 colour images: in a minute, outlines. At equal images small batches are worth most (docs/recipes/cifar10.md)."""


def find_shipped(data: str) -> Path | None:
    """The folder of the trained model that comes with this checkout for `data`; None where there is none (a plain `pip install`)."""
    folder = Path(__file__).resolve().parents[2] / "engines" / SHIPPED.get(data, "")
    return folder if data in SHIPPED and (folder / "bundle-fp32" / MANIFEST).is_file() else None


def usual_data(out: Path) -> str:
    """What quickstart is about when nothing is said: what it was about in this folder before; else CIFAR-10 where a trained model came
    with pairs of it, or digits."""
    try:
        return str(json.loads((out / LOG).read_text().splitlines()[-1])["data"])
    except (OSError, ValueError, LookupError, TypeError):
        pass  # nothing was finished here
    if (out / "pairs" / MANIFEST).is_file():
        return "digits"  # begun with pairs of its own
    cifar = find_shipped("cifar10")
    return "cifar10" if cifar is not None and (cifar / "pairs" / MANIFEST).is_file() else "digits"


def commands(out: Path, data: str, steps: int | None, shipped: Path | None = None) -> list[tuple[str, list[str]]]:
    """(stage, arguments) of every command, in order.

    With a shipped model its images come first, and the student is distilled for a minute only, from the model's pairs where they came too.
    """
    size = DIGITS if data == "digits" else CIFAR
    student, fp32, fp16, parity, record = (str(out / name) for name in ("student", "bundle-fp32", "bundle-fp16", "parity", "record"))
    length = ["--steps", str(steps)] if steps else []
    guided = ["--batch", "128", "--guidance", _guidance(shipped)]
    grid = ["--count", "100", "--all-classes", "--out"]
    pairs, recipe, records = str(out / "pairs"), _recipe(out / "student", size, shipped), [record]
    before: list[tuple[str, list[str]]] = []
    if shipped is not None:
        ready, records = str(shipped / "bundle-fp32"), [str(out / "record-shipped"), record]
        before = [("shipped: generate", ["generate", ready, *grid, str(out / "samples-shipped.png")]),
                  ("shipped: profile", ["profile", ready, *size["profile"], "--out", records[0], "--replace"])]
    if shipped is not None and (shipped / "pairs" / MANIFEST).is_file():
        pairs = str(shipped / "pairs")
    else:
        before.append(("pairs", ["pairs", "--teacher", "ideal", "--data", data, *size["pairs"], "--out", pairs]))
    return [
        *before,
        ("train", ["train", "--pairs", pairs, *recipe, *length, "--out", student]),
        ("export", ["export", student, "--out", fp32, "--precision", "fp32", "--attention", "ort", *guided]),
        ("export fp16", ["export", student, "--out", fp16, "--precision", "fp16", "--attention", "pattern", *guided]),
        ("compare", ["compare", student, fp32, fp16, "--images", "128", "--out", parity]),
        ("generate", ["generate", fp32, *grid, str(out / "samples.png")]),
        ("profile", ["profile", fp32, *size["profile"], "--out", record, "--replace"]),
        ("report", ["report", *records, parity, student, "--out", str(out / "report.html")]),
    ]


def _guidance(shipped: Path | None) -> str:
    """The shipped bundle's, so that both records can be compared; without one, the paper's."""
    return "1.5" if shipped is None else str(read_manifest(shipped / "bundle-fp32").settings["guidance_scale"])


def _recipe(student: Path, size: dict[str, list[str]], shipped: Path | None) -> list[str]:
    """How to train: for a minute beside a shipped model, unless a longer run lies there, which is then gone on with."""
    short = size["short"]
    if shipped is None:
        return size["train"]
    before = read_manifest(student).settings.get("steps") if (student / MANIFEST).is_file() else None
    return size["train"] if before is not None and before > int(short[short.index("--steps") + 1]) else short


def run(out: Path, *, data: str, steps: int | None, ui: Console) -> dict[str, Any]:
    """Run all commands, each in a process of its own, as a user would; returns the paths made and the seconds of each stage.

    The seconds are also appended to `quickstart.jsonl` in `out`, a line a run.

    Args:
        out: folder for everything.
        data: as for `edgedit pairs --data`.
        steps: training steps, or None for the preset's.
        ui: where to say what is being done.

    Raises:
        SystemExit: a command failed, with its exit status; it has said why.
    """
    seconds: dict[str, float] = {}
    shipped = find_shipped(data)
    for stage, arguments in commands(out, data, steps, shipped):
        ui.note(f"\n$ edgedit {shlex.join(arguments)}")
        start = time.monotonic()
        status = _run([sys.executable, "-m", "edgedit", *arguments])
        if status:
            ui.note(f"quickstart stopped at '{stage}'; the same command goes on from there")
            raise SystemExit(status)
        seconds[stage] = round(time.monotonic() - start, 2)
    ui.note("\n" + "\n".join(f"{stage:<18} {duration(s):>12}" for stage, s in seconds.items())
            + f"\n{'together':<18} {duration(sum(seconds.values())):>12}")
    note = {"utc": datetime.now(timezone.utc).isoformat(timespec="seconds"), "edgedit": __version__, "data": data, "seconds": seconds}
    with (out / LOG).open("a") as log:
        log.write(json.dumps(note) + "\n")
    names = {"student": "student", "bundle": "bundle-fp32", "parity": "parity", "record": "record",
             "samples": "samples.png", "report": "report.html"}
    made = {"pairs": str(shipped / "pairs") if shipped and (shipped / "pairs").is_dir() else str(out / "pairs"),
            **{key: str(out / name) for key, name in names.items()}}
    if shipped is not None:
        made |= {"shipped": str(shipped), "samples_shipped": str(out / "samples-shipped.png")}
    return {"seconds": seconds, **made}


def _run(command: list[str]) -> int:
    """Exit status of a command whose output goes to stderr; on Ctrl-C it is given time to save."""
    with subprocess.Popen(command, stdout=sys.stderr) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            return process.wait() or 130
