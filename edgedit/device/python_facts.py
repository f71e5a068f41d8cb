"""What the running Python has: packages, modules, environment variables. Looked up without importing any of them."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgedit.device.board import PACKAGES, package_versions

MODULES = ("numpy", "onnxruntime", "tensorrt", "pycuda", "cuda", "torch", "onnx", "lpips", "pynvml")


@dataclass(frozen=True)
class PythonFacts:
    """The Python side of a diagnosis; tests make their own.

    Attributes:
        version: (major, minor).
        packages: distribution → version.
        modules: importable module → its folder.
        environ: environment variables.
        virtual: inside a virtual environment.
        system_site: the environment also sees the system's packages.
    """

    version: tuple[int, int]
    packages: Mapping[str, str] = field(default_factory=dict)
    modules: Mapping[str, Path | None] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict)
    virtual: bool = False
    system_site: bool = True


def read_python() -> PythonFacts:
    """The facts of this process."""
    virtual = sys.prefix != sys.base_prefix
    modules = {name: folder for name in MODULES if (folder := _folder(name)) is not None}
    return PythonFacts(sys.version_info[:2], package_versions(PACKAGES), modules, dict(os.environ), virtual,
                       not virtual or _sees_system_packages(Path(sys.prefix)))


def _folder(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or ())
    return Path(places[0]) if places else Path(spec.origin or ".").parent


def _sees_system_packages(prefix: Path) -> bool:
    try:
        text = (prefix / "pyvenv.cfg").read_text()
    except OSError:
        return True
    lines = ("".join(line.lower().split()) for line in text.splitlines())
    return "include-system-site-packages=true" in lines
