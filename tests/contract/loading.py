"""A package from a folder, under a name of its own: so that several versions of one module live side by side in a process."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def load_folder(folder: Path) -> ModuleType:
    """The `tensorrt` package in a folder made by real_bindings, as module `real_tensorrt_<version>`; loaded once a process."""
    name = "real_tensorrt_" + "".join(c if c.isalnum() else "_" for c in folder.name)
    if name in sys.modules:
        return sys.modules[name]
    _run_file("preload_" + name, folder / "tensorrt_libs" / "__init__.py")
    return _run_file(name, folder / "tensorrt" / "__init__.py")


def _run_file(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=[str(path.parent)])
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
