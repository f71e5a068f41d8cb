"""What the double was told from outside: the real module, the GPU, the wishes of a test."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tensorrt_double.loading import load_folder

_folder = os.environ.get("EDGEDIT_FAKE_TENSORRT", "")
if not _folder:
    raise ImportError("EDGEDIT_FAKE_TENSORRT must name a folder with the real bindings: call tests.fake_tensorrt.install")

real = load_folder(Path(_folder))
"""NVIDIA's module, over stub libraries."""
VERSION = tuple(int(part) for part in real.__version__.split("."))
INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = (
    getattr(real.ILogger.Severity, name) for name in ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"))


def gpu() -> dict[str, Any] | None:
    """The GPU of EDGEDIT_FAKE_GPU, read anew at each call; None where there is none."""
    return json.loads(os.environ.get("EDGEDIT_FAKE_GPU") or "null") or None


def knob(name: str, usual: Any) -> Any:
    """One entry of EDGEDIT_FAKE_TRT."""
    return json.loads(os.environ.get("EDGEDIT_FAKE_TRT") or "{}").get(name, usual)


def log(logger: Any, severity: Any, text: str) -> None:
    """Say something through the user's logger, as the library does."""
    logger.log(severity, text)


def need_gpu(logger: Any) -> None:
    """What the factories do without a CUDA device: complain, return null."""
    if gpu() is None:
        log(logger, ERROR, "createInferRuntime: Error Code 6: API Usage Error (CUDA initialization failure with error: 100. "
                           "Please check your CUDA installation.)")
        raise TypeError("pybind11::init(): factory function returned nullptr")
