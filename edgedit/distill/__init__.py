"""Teaching a student: from noise–image pairs to the weights of a one-step DiT. Needs torch, loaded on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgedit.distill.dryrun import plan
    from edgedit.distill.settings import TrainSettings, preset, presets
    from edgedit.distill.training import train

__all__ = ["TrainSettings", "plan", "preset", "presets", "train"]

_HOMES = {"train": "training", "plan": "dryrun", "TrainSettings": "settings", "preset": "settings", "presets": "settings"}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
