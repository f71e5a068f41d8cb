"""Real pycuda and real cuda-python on a CUDA driver in software, for a test and its child processes.

    tests.fake_cuda.install(monkeypatch, gpu={"name": "Orin", ...})
    from edgedit.device.cuda.device import read_gpu

`libcuda.cpp` says what the driver can and cannot show. pycuda is compiled from its sdist without cuRAND; our kernels run as the
same source compiled for the host. With nvcc here, pycuda really calls it (and the cubin is thrown away); without, a script stands in.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fake_cuda.making import WORK, driver, pycuda

ORIN_NANO = {"name": "Orin", "compute_capability": [8, 7], "sm_count": 8, "memory_mb": 7620, "integrated": True}
"""Orin Nano 8 GB as CUDA names it (jetson.md §2)."""
H100 = {"name": "NVIDIA H100", "compute_capability": [9, 0], "sm_count": 132, "memory_mb": 81000, "integrated": False, "driver": "13.0"}
NVCC = """#!/bin/sh
# Stands in for nvcc where there is none: the double's driver does not look at the cubin.
[ "$1" = --version ] && echo "nvcc, a stand-in" && exit 0
for last; do :; done
echo cubin > "${last%.cu}.cubin"
"""


class Driver:
    """The loaded double."""

    def __init__(self, library: Path) -> None:
        self.library = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        self.library.double_state.restype = ctypes.c_char_p

    def state(self) -> dict[str, Any]:
        """What is alive (device_blocks, host_blocks, streams, events, modules, graphs, contexts), `calls` by function, and `left`:
        how much was destroyed only with its context, since the process began."""
        return json.loads(self.library.double_state())

    def alive(self) -> dict[str, int]:
        """The counts of what is alive, without those that are 0."""
        return {name: count for name, count in self.state().items() if name not in ("calls", "left") and count}


def install(monkeypatch: pytest.MonkeyPatch, gpu: dict[str, Any] | None = None, *, lazy: bool = False) -> Driver:
    """Make `import pycuda` and cuda-python work on the double, here and in child processes, until the test ends.

    Skips where a real CUDA driver is loaded in this process, or where g++, CUDA's headers or the registry are missing.

    Args:
        gpu: facts; None keeps those that are set, an Orin Nano when there are none.
        lazy: run queued work only when somebody waits for it.
    """
    site, folder = pycuda(), driver()
    loaded = [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/libcuda.so" in line]
    if any(not path.startswith(str(WORK)) for path in loaded):
        pytest.skip(f"a real CUDA driver is loaded in this process: {loaded[0]}")
    if gpu is not None or "EDGEDIT_FAKE_GPU" not in os.environ:
        monkeypatch.setenv("EDGEDIT_FAKE_GPU", json.dumps(ORIN_NANO if gpu is None else gpu))
    monkeypatch.setenv("EDGEDIT_FAKE_KERNELS", str(folder / "kernels.so"))
    monkeypatch.setenv("EDGEDIT_FAKE_CUDA_LAZY", "1" if lazy else "0")
    monkeypatch.setenv("PYCUDA_CACHE_DIR", str(_folder(WORK / "pycuda-cache")))
    monkeypatch.setenv("LD_LIBRARY_PATH", _first(str(folder), "LD_LIBRARY_PATH"))
    monkeypatch.setenv("PYTHONPATH", _first(str(site), "PYTHONPATH"))
    if shutil.which("nvcc") is None:
        script = _folder(WORK / "nvcc-stand-in") / "nvcc"
        script.write_text(NVCC)
        script.chmod(0o755)
        monkeypatch.setenv("PATH", _first(str(script.parent), "PATH"))
    double = Driver(folder / "libcuda.so.1")
    monkeypatch.setattr(sys, "path", [*sys.path, str(site)])
    importlib.invalidate_caches()
    return double


def queue_tensorrt(monkeypatch: pytest.MonkeyPatch, double: Driver) -> None:
    """Let the TensorRT double's runs wait in the stream like everything else, so that they can be late and can be captured.

    Without this it runs at once when it is asked to queue. Call it after tests.fake_tensorrt.install.
    """
    kind = importlib.import_module("tensorrt_double.runtime").Context
    at_once = kind.execute_async_v3
    kept: list[Any] = []

    def execute_async_v3(self: Any, stream_handle: int) -> bool:
        if self.infer_shapes() or not all(self.addresses.get(name) for name in self.engine_part.values):
            return bool(at_once(self, stream_handle))
        addresses, shapes = dict(self.addresses), dict(self.shapes)

        def later(_: Any) -> None:
            now = self.addresses, self.shapes
            self.addresses, self.shapes = addresses, shapes
            at_once(self, stream_handle)
            self.addresses, self.shapes = now

        kept.append(ctypes.CFUNCTYPE(None, ctypes.c_void_p)(later))
        return double.library.cuLaunchHostFunc(ctypes.c_void_p(stream_handle), kept[-1], None) == 0

    monkeypatch.setattr(kind, "execute_async_v3", execute_async_v3)
    monkeypatch.setattr(double, "kept", kept, raising=False)


def _first(entry: str, name: str) -> str:
    return os.pathsep.join(part for part in (entry, os.environ.get(name, "")) if part)


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path
