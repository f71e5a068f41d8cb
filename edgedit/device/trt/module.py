"""The `tensorrt` module, or what stands in its way and what to type. `edgedit doctor` finds the same causes without importing."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

from edgedit.core.errors import MissingError
from edgedit.device.jetpack import Release, read_release, version_numbers
from edgedit.device.python_facts import read_python
from edgedit.device.sysfs import is_jetson

OLDEST = (10, 3)
"""JetPack 6.1's TensorRT: the first with strong typing and a fused attention on Orin (jetson.md §5.1, §5.3)."""
BEYOND = (12,)
"""The first version that nothing here was checked against."""
_ON_A_HOST = ("build on the board: edgedit deploy user@board BUNDLE copies the bundle there and builds it; "
              "for a GPU in this machine: pip install 'edgedit[gpu]'")
_LIBRARY = re.compile(r"(lib[\w.+-]+\.so[\w.]*)")


def import_tensorrt(root: Path = Path("/")) -> ModuleType:
    """Import TensorRT 10.3 … 11.x.

    Args:
        root: root of the file system, for the JetPack release and the system's packages.

    Raises:
        MissingError: not installed; hidden from this virtual environment; installed for another Python; a library that it loads
            is missing (libnvdla_compiler.so first of all, jetson.md §1.3); older than 10.3, or newer than this edgedit knows.
    """
    try:
        module = importlib.import_module("tensorrt")
    except ModuleNotFoundError as error:
        if error.name != "tensorrt":
            raise _broken(error, root) from error
        raise _absent(root) from error
    except (ImportError, OSError) as error:  # the shared libraries are loaded by the import, some by ctypes
        raise _broken(error, root) from error
    _check_version(module, root)
    return module


def tensorrt_version(module: ModuleType) -> str:
    """The version of an imported module, "10.3.0"."""
    return str(module.__version__)


def _absent(root: Path) -> MissingError:
    system = next(iter(sorted(root.glob("usr/lib/python3*/dist-packages/tensorrt"))), None)
    if system is None:
        fix = "sudo apt install python3-libnvinfer python3-libnvinfer-dev" if is_jetson(root) else _ON_A_HOST
        return MissingError("TensorRT's Python package is not there", saw="no module 'tensorrt'", fix=fix)
    facts = read_python()
    if facts.virtual and not facts.system_site:
        return MissingError("TensorRT is installed, but this virtual environment hides it", saw=system,
                            fix="python3 -m venv --system-site-packages .venv")
    return _other_python(str(system))


def _other_python(saw: str) -> MissingError:
    return MissingError("TensorRT is installed for another Python", saw=f"{saw}; this is Python {_dotted(sys.version_info[:2])}",
                        fix="use JetPack's own python3")


def _broken(error: Exception, root: Path) -> MissingError:
    """TensorRT is there and does not load."""
    text, release = str(error), read_release(root)
    if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("tensorrt."):
        return _other_python(text)
    named = _LIBRARY.search(text)
    library = named[1] if named else None
    if library is not None and library.startswith("libnvdla_compiler"):
        if release is not None and release.major > 36:
            return MissingError("this TensorRT is JetPack 6's and does not load on JetPack 7", saw=text,
                                fix=f"use JetPack's own {release.tensorrt or 'TensorRT'}; there are no -igpu containers for "
                                    "JetPack 7")
        return MissingError("JetPack 6's TensorRT does not load without libnvdla_compiler.so, even on boards that have no DLA",
                            saw=text, fix="sudo apt install nvidia-l4t-dla-compiler")
    if library is not None:
        fix = ("sudo apt install --reinstall tensorrt python3-libnvinfer; in a container: --runtime nvidia"
               if is_jetson(root) else "pip install --force-reinstall 'edgedit[gpu]'")
        return MissingError(f"TensorRT is installed, but {library} is missing", saw=text, fix=fix)
    return MissingError("TensorRT is installed, but cannot be imported", saw=f"{type(error).__name__}: {text}",
                        fix="edgedit doctor shows what is missing")


def _check_version(module: ModuleType, root: Path) -> None:
    version = tensorrt_version(module)
    numbers = version_numbers(version)
    if numbers < OLDEST:
        raise MissingError(f"TensorRT {version} is too old: edgedit needs {_dotted(OLDEST)} or newer",
                           saw=_release_line(read_release(root)),
                           fix="install JetPack 6.2 (TensorRT 10.3) or 7.2 (10.16)" if is_jetson(root)
                           else "pip install 'tensorrt>=10.3,<12'")
    if numbers >= BEYOND:
        raise MissingError(f"TensorRT {version} is newer than this edgedit knows (up to {BEYOND[0] - 1}.x)",
                           fix="update edgedit, or pip install 'tensorrt>=10.3,<12'")


def _release_line(release: Release | None) -> str | None:
    if release is None:
        return None
    jetpack = f"JetPack {release.jetpack}" if release.jetpack else "a JetPack that is not in the table"
    return f"{jetpack} (Jetson Linux {release.l4t})"


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
