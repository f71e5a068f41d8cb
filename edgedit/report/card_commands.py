"""The commands that made a model, put together again from the settings in its manifests.

What decides a result is named; where it ran, how often it was saved and told of is not. Paths become names: those of the folders
beside the card, else the last part, so that nothing of a machine is left in a card. With a stage's defaults, settings that equal
them are left out; without, all are named.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from edgedit.core.artifact import Artifact, Manifest, Parent
from edgedit.report.card_chain import Chain, mapping

Defaults = Mapping[str, Mapping[str, Any]]
"""Default settings of the stages "teacher", "pairs" and "train", nested as in manifests."""
SILENT = {"device", "threads", "loaders", "keep_last", "checkpoint_every", "sample_every", "log_every", "sample_guidance", "workers"}
"""Settings that do not change what a step or an image becomes. (`micro_batch` does where there is dropout: pieces have other masks.)"""
OPTIONS = {
    "teacher": {"data": "--data", "image": "--image", "steps": "--steps", "minutes": "--minutes", "batch": "--batch"},
    "pairs": {"teacher": "--teacher", "data": "--data", "count": "--count", "seed": "--seed", "image": "--image", "guidance": "--guidance",
              "precision": "--precision"},
    "train": {"setup.name": "--setup", "loss.name": "--loss", "steps": "--steps", "epochs": "--epochs", "minutes": "--minutes",
              "batch": "--batch", "loss.lpips.weights": "--lpips-weights"},
}
ALWAYS = {"teacher": {"data", "steps", "batch"}, "pairs": {"teacher", "data", "count", "seed"},
          "train": {"loss.name", "steps", "epochs", "batch"}}
"""Named even where they equal the default: what a reader looks for first."""
_PATHS = {"data", "teacher", "loss.lpips.weights", "setup.teacher", "setup.assistant", "setup.student"}


def commands(chain: Chain, names: Mapping[str, str], defaults: Defaults) -> list[str]:
    """One line a stage, from the teacher to the bundles, for those whose manifests are among the folders.

    Args:
        names: how a folder is called, by digest.
        defaults: see `Defaults`; a stage that is not there has all its settings named.
    """
    lines = []
    for teacher in [*chain.teachers, *([chain.subject] if chain.of == "teacher" and chain.subject else [])]:
        lines.append(_teacher(teacher, names, defaults.get("teacher", {})))
    lines += [_pairs(a, names, defaults.get("pairs", {})) for a in chain.pairs]
    for student in [*chain.others, *([chain.subject] if chain.of == "student" and chain.subject else [])]:
        lines.append(_train(student, names, defaults.get("train", {})))
    return lines + [_export(a, names) for a in chain.bundles]


def name_of(parent: Parent | None, names: Mapping[str, str], otherwise: str) -> str:
    """A parent's name: that of the folder given, else the last part of where it lay."""
    if parent is None:
        return otherwise
    return names.get(parent.digest) or PurePosixPath(parent.path).name or parent.label or otherwise


def _teacher(artifact: Artifact, names: Mapping[str, str], defaults: Mapping[str, Any]) -> str:
    m, out = artifact.manifest, names[artifact.manifest.digest]
    if "unet" not in m.settings:
        source = str(mapping(m.info.get("source")).get("name") or "FILE.pkl")
        return _line("edgedit", "teacher", "convert", source, "--out", out)
    words = ["teacher", "train", *_options("teacher", m.settings, defaults, names)]
    return _line(*_runner(m), *words, *_init(m, names), "--out", out)


def _pairs(artifact: Artifact, names: Mapping[str, str], defaults: Mapping[str, Any]) -> str:
    m, out = artifact.manifest, names[artifact.manifest.digest]
    if set(m.settings) == {"first"}:
        whole = name_of(next((p for p in m.parents if p.role == "pairs"), None), names, "pairs")
        return _line("edgedit", "pairs", "take", whole, "--count", str(m.settings["first"]), "--out", out)
    if m.info.get("noise") == "stored":
        sets = [word for key, value in sorted(_flat(m.settings).items()) for word in ("--set", f"{key}={_text(key, value, names)}")]
        return _line("edgedit", "pairs", "import", "get", "--from", "FOLDER", "--out", out, *sets)
    settings = dict(m.settings)
    parent = next((p for p in m.parents if p.role == "teacher"), None)
    if parent is not None:
        settings["teacher"] = name_of(parent, names, str(settings.get("teacher", "")))
    return _line("edgedit", "pairs", *_options("pairs", settings, defaults, names), "--out", out)


def _train(artifact: Artifact, names: Mapping[str, str], defaults: Mapping[str, Any]) -> str:
    m = artifact.manifest
    setup = m.settings.get("setup", "get")
    settings = {**m.settings, "setup": {"name": setup} if isinstance(setup, str) else setup}
    for parent in m.parents:  # what a setup reads lies under its role: teacher, assistant, source
        for key in ("teacher", "assistant", "student"):
            if {"source": "student"}.get(parent.role, parent.role) == key and mapping(settings["setup"]).get(key):
                settings["setup"] = {**settings["setup"], key: name_of(parent, names, key)}
    pairs = name_of(next((p for p in m.parents if p.role == "pairs"), None), names, "pairs")
    words = ["train", "--pairs", pairs, *_options("train", settings, {**defaults, "setup": {"name": "get"}}, names), *_init(m, names)]
    return _line(*_runner(m), *words, "--out", names[m.digest])


def _export(artifact: Artifact, names: Mapping[str, str]) -> str:
    m = artifact.manifest
    s, by_role = m.settings, {p.role: p for p in m.parents}
    words = ["export", name_of(by_role.get("student"), names, "student")]
    for key, option in (("precision", "--precision"), ("attention", "--attention"), ("batch", "--batch"), ("guidance_scale", "--guidance")):
        if s.get(key) is not None:
            words += [option, _text(key, s[key], names)]
    words += ["--dynamic"] if s.get("dynamic") else []
    words += ["--calibrate", name_of(by_role["pairs"], names, "pairs")] if "pairs" in by_role else []
    rest = {k: s[k] for k in ("head_size", "int8", "opset") if s.get(k) is not None}
    words += [w for k, v in sorted(_flat(rest).items()) if v is not None for w in ("--set", f"{k}={_text(k, v, names)}")]
    return _line("edgedit", *words, "--out", names[m.digest])


def _options(stage: str, settings: Mapping[str, Any], defaults: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """Options first, in their order, then --set for what is left and differs from the default."""
    flat, usual, options = _flat(settings), _flat(defaults), OPTIONS[stage]
    if flat.get("steps") is not None:
        flat.pop("epochs", None)  # steps win
    if "lpips" not in str(flat.get("loss.name", "lpips")).split("+") and flat.get("setup.name") == "get":
        flat = {k: v for k, v in flat.items() if not k.startswith("loss.lpips.")}
    told = {k: v for k, v in flat.items()
            if k not in SILENT and (k in ALWAYS[stage] or k not in usual or v != usual[k]) and not (v is None and usual.get(k) is None)}
    words = [w for key in options if told.get(key) is not None for w in (options[key], _text(key, told[key], names))]
    rest = sorted(k for k in told if k not in options or told[k] is None)
    return words + [w for key in rest for w in ("--set", f"{key}={_text(key, told[key], names)}")]


def _init(manifest: Manifest, names: Mapping[str, str]) -> list[str]:
    parent = next((p for p in manifest.parents if p.role == "init"), None)
    return [] if parent is None else ["--init", name_of(parent, names, "init")]


def _runner(manifest: Manifest) -> list[str]:
    processes = manifest.info.get("processes")
    several = isinstance(processes, int) and processes > 1
    return ["torchrun", "--nproc-per-node", str(processes), "-m", "edgedit"] if several else ["edgedit"]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return out


def _text(key: str, value: Any, names: Mapping[str, str]) -> str:
    """A value as --set and options read it; a path's last part, unless it is the name of a folder."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return PurePosixPath(value).name if key in _PATHS and value not in names.values() else value
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else json.dumps(value)


def _line(*words: str) -> str:
    return shlex.join(words)
