"""NVIDIA's real Python bindings of TensorRT, made importable where the libraries behind them are not.

The packages `tensorrt-cu12-bindings` and `tensorrt-cu13-bindings` hold the Python extension alone. It needs three libraries,
of which it calls nine functions: `stubs.c` gives those, compiled under the libraries' names. What Python can then see is real:
every class, method, signature, property, enum member and docstring. What it cannot do is anything that needs the libraries.

Folders are kept in `.work/tensorrt-bindings` and `.work/wheels` of the checkout (ignored by git); removing them is harmless.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from tests.contract.loading import load_folder

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = ROOT / ".work"
PACKAGES = {
    "10.3.0": "tensorrt-cu12-bindings==10.3.0",
    "10.16.1.11": "tensorrt-cu12-bindings==10.16.1.11",
    "11.4.0.106": "tensorrt-cu13-bindings==11.4.0.106",
}
VERSIONS = tuple(PACKAGES)
"""JetPack 6.1/6.2, the newest 10.x on the registry (JetPack 7.2 carries 10.16.2), the newest 11.x."""
LIBRARIES = ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser")
PYTHON = sysconfig.get_config_var("py_version_nodot") or "".join(map(str, sys.version_info[:2]))

PRELOAD = '''"""Loads the stub libraries. The wheel's own __init__ imports a package of this name before its extension."""

import ctypes
from pathlib import Path

for _library in {libraries!r}:
    ctypes.CDLL(str(Path(__file__).resolve().parent / _library), ctypes.RTLD_GLOBAL)
'''


class UnavailableError(Exception):
    """Something outside the checkout is missing; the text is the reason a test skips with."""


_failed: dict[str, str] = {}


def version_tuple(version: str) -> tuple[int, ...]:
    """"10.16.1.11" → (10, 16, 1, 11)."""
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def real_bindings(version: str) -> Path:
    """A folder that, put on sys.path, makes `import tensorrt` give NVIDIA's module of this version.

    It holds `tensorrt/` (the wheel's files, unchanged) and `tensorrt_libs/` (the stub libraries and what loads them).
    Skips the running test, with the reason, where pip, the registry or gcc is missing.
    """
    return _or_skip(f"TensorRT {version}", lambda: _make_bindings(version))


def real_wheel(requirement: str) -> Path:
    """A folder with the unpacked wheel of "name==version" for the running Python; skips where it cannot be fetched."""
    return _or_skip(requirement, lambda: _make_wheel(requirement))


def load_real(version: str) -> ModuleType:
    """NVIDIA's module of this version in this process, under a name of its own, so that versions live side by side."""
    return load_folder(real_bindings(version))


def _or_skip(what: str, make: Callable[[], Path]) -> Path:
    if what not in _failed:
        try:
            return make()
        except UnavailableError as error:
            _failed[what] = f"{what}: {error}"
    pytest.skip(_failed[what])


def _make_bindings(version: str) -> Path:
    folder = CACHE / "tensorrt-bindings" / f"{version}-py{PYTHON}"
    with _once(folder) as draft:
        if draft is not None:
            wheel = _make_wheel(PACKAGES[version])
            shutil.copytree(wheel / "tensorrt_bindings", draft / "tensorrt")
            _compile_stubs(draft / "tensorrt_libs", version_tuple(version)[0])
    return folder


def _compile_stubs(folder: Path, major: int) -> None:
    if shutil.which("gcc") is None:
        raise UnavailableError("gcc is not installed, so the stub libraries cannot be compiled")
    folder.mkdir()
    names = [f"{library}.so.{major}" for library in LIBRARIES]
    for name in names:
        _call(["gcc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{name}", "-o", str(folder / name), str(HERE / "stubs.c")])
    (folder / "__init__.py").write_text(PRELOAD.format(libraries=names))


def _make_wheel(requirement: str) -> Path:
    folder = CACHE / "wheels" / f"{requirement.replace('==', '-')}-py{PYTHON}"
    with _once(folder) as draft:
        if draft is not None:
            if importlib.util.find_spec("pip") is None:
                raise UnavailableError("pip is not installed in this environment")
            with tempfile.TemporaryDirectory() as download:
                _call([sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--retries", "1",
                       "--timeout", "20", "--only-binary", ":all:", "--dest", download, requirement])
                (archive,) = Path(download).glob("*.whl")
                with zipfile.ZipFile(archive) as files:
                    files.extractall(draft)
    return folder


@contextmanager
def _once(folder: Path) -> Iterator[Path | None]:
    """Yield a draft folder to fill (renamed to `folder` at the end), or None where `folder` exists; one process at a time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.is_dir():
        yield None
        return
    with open(folder.with_name(folder.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            yield None
            return
        draft = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            yield draft
            os.rename(draft, folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _call(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"`{command[0]} …` took over 240 s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise UnavailableError(lines[-1].strip() if lines else f"{command[0]} ended with {done.returncode}")
