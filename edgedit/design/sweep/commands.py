"""Nested settings as the options and --set of a verb."""

from __future__ import annotations

import json
from typing import Any

OPTIONS = {
    "train": {"lpips_weights", "init"},
    "evaluate": {"metrics", "reference", "count", "reference_count", "data", "extractor_weights", "tap", "classifier", "guidance", "seed",
                 "pairs", "weights", "lpips_weights", "start", "labels", "device", "provider", "threads"},
    "export": {"calibrate"},
    "profile": {"runtime", "provider", "threads", "engine"},
}
"""Settings that a verb takes as an option of that name, not with --set."""
FREE = ("device", "threads", "loaders", "log_every", "sample_every", "checkpoint_every", "keep_last", "compile", "loss.lpips.weights",
        "lpips_weights", "data", "classifier", "extractor_weights", "pairs", "minutes", "micro_batch", "provider", "metrics", "reference")
"""Settings that change no result, or that the evaluation itself names: rows need not tell of them."""


def name_of(value: Any) -> str:
    """Of a setup or loss: its name, or the mapping that has one."""
    return str(value.get("name", "")) if isinstance(value, dict) else str(value)


def arguments(verb: str, settings: dict[str, Any]) -> list[str]:
    """Nested settings as a verb's options and --set."""
    out: list[str] = []
    for key, value in settings.items():
        if key in OPTIONS[verb]:
            text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            out += [f"--{key.replace('_', '-')}", text]
        else:
            out += [part for item in flat({key: value}) for part in ("--set", item)]
    return out


def flat(tree: dict[str, Any], prefix: str = "") -> list[str]:
    """ "section.key=value" of a nested mapping, values as TOML."""
    out: list[str] = []
    for key, value in tree.items():
        if isinstance(value, dict):
            out += flat(value, f"{prefix}{key}.")
        else:
            out.append(f"{prefix}{key}={'none' if value is None else value if _bare(value) else json.dumps(value, ensure_ascii=False)}")
    return out


def _bare(value: Any) -> bool:
    return isinstance(value, str) and value.isidentifier() and value not in ("true", "false", "inf", "nan")
