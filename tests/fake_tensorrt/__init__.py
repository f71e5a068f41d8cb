"""Puts a double of TensorRT on the path of a test and of its child processes; `site/` holds it.

    tests.fake_tensorrt.install(monkeypatch, version="10.16.1.11")
    import tensorrt as trt

What the double cannot show stands at the top of `site/tensorrt_double/__init__.py`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest

from tests.contract.bindings import real_bindings

SITE = Path(__file__).resolve().parent / "site"
ORIN_NANO = {"name": "Orin", "compute_capability": [8, 7], "sm_count": 8, "memory_mb": 7620, "integrated": True}
"""Orin Nano 8 GB as CUDA names it (jetson.md §2)."""


def install(monkeypatch: pytest.MonkeyPatch, version: str = "10.3.0", gpu: dict[str, Any] | Literal[False] | None = None,
            **knobs: Any) -> Path:
    """Make `import tensorrt` give the double, here and in child processes, until the test ends.

    Args:
        monkeypatch: undoes everything.
        version: one of tests.contract.bindings.VERSIONS; the test is skipped where its bindings cannot be had.
        gpu: facts of the GPU; None keeps those that are set, an Orin Nano when there are none; False means there is no GPU.
        knobs: EDGEDIT_FAKE_TRT, e.g. build="kill".

    Returns:
        the folder that is on the path.
    """
    monkeypatch.setenv("EDGEDIT_FAKE_TENSORRT", str(real_bindings(version)))
    monkeypatch.setenv("EDGEDIT_FAKE_TRT", json.dumps(knobs))
    if gpu is not None or "EDGEDIT_FAKE_GPU" not in os.environ:
        monkeypatch.setenv("EDGEDIT_FAKE_GPU", json.dumps(ORIN_NANO if gpu is None else gpu or None))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(p for p in (str(SITE), os.environ.get("PYTHONPATH", "")) if p))
    monkeypatch.syspath_prepend(str(SITE))
    _forget()
    monkeypatch.setitem(_AtEnd(), "tensorrt", None)
    return SITE


class _AtEnd(dict[str, None]):
    """monkeypatch takes its entry away when the test ends: then the double's modules go too."""

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        _forget()


def _forget() -> None:
    """Drop the double's modules, and those of ours that hold one, so that the next import is fresh."""
    for name in [n for n in sys.modules if n.split(".")[0] in ("tensorrt", "tensorrt_double")]:
        del sys.modules[name]
    for name, module in list(sys.modules.items()):
        held = getattr(module, "trt", None) if name.startswith("edgedit.device.trt") else None
        if isinstance(held, ModuleType) and held.__name__ == "tensorrt":
            del sys.modules[name]
            parent, _, child = name.rpartition(".")
            if hasattr(sys.modules.get(parent), child):
                delattr(sys.modules[parent], child)
