"""edgedit: tiny one-step diffusion transformers, from a teacher to the edge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgedit.design.predict import predict
    from edgedit.design.stage import design
    from edgedit.design.sweep.run import sweep
    from edgedit.report.stage import report

__all__ = ["design", "predict", "report", "sweep"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`edgedit.design(…)`, `predict`, `sweep` and `report`, imported when they are asked for."""
    from importlib import import_module

    if name in ("design", "report"):  # rooms that can be called: Python binds their names as soon as anything inside is imported
        return import_module(f"edgedit.{name}")
    if name == "predict":
        return import_module("edgedit.design.predict").predict
    if name == "sweep":
        return import_module("edgedit.design.sweep.run").sweep
    raise AttributeError(f"module 'edgedit' has no attribute '{name}'")
