"""The GPU through real pycuda and cuda-python on a driver in software: facts, memory, threads, graphs, and every refusal."""

from __future__ import annotations

import ctypes
import functools
import json
import subprocess
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest

from edgedit.core.errors import EdgeditError, MissingError, UsageError
from edgedit.device.cuda import device as room
from edgedit.device.cuda import kernels
from edgedit.device.cuda.device import Device, read_gpu
from edgedit.device.cuda.graph import CapturedGraph, import_driver
from edgedit.device.cuda.kernels import Kernels, find_nvcc
from tests import fake_cuda

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def double(monkeypatch):
    double = fake_cuda.install(monkeypatch, fake_cuda.ORIN_NANO, lazy=True)
    yield double
    assert not double.alive()


@pytest.fixture
def gpu(double):
    device = Device()
    yield device
    device.close()


# --- facts and memory -------------------------------------------------------------------------------------------------------


def test_facts_of_an_orin_nano(double, monkeypatch):
    monkeypatch.setenv("EDGEDIT_FAKE_GPU", json.dumps({**fake_cuda.ORIN_NANO, "free_mb": 5000, "sm_count": 4}))
    facts = read_gpu()
    assert (facts.name, facts.compute_capability, facts.architecture, facts.sm_count) == ("Orin", (8, 7), "sm_87", 4)
    assert (facts.memory_mb, facts.free_mb, facts.integrated, facts.driver) == (7620, 5000, True, "12.6")


def test_memory_is_zero_and_freed_by_close(double):
    device = Device()
    address = device.allocate(1000, "noise")
    back = np.ones(1000, np.uint8)
    device.cuda.memcpy_dtoh(back, address)
    assert not back.any() and double.alive() == {"device_blocks": 1, "contexts": 1}
    other = device.allocate(10, "labels")
    device.free({address})
    assert double.alive()["device_blocks"] == 1 and other != address
    device.close()
    device.close()
    assert not double.alive()


def test_no_context_stays_current_behind_a_closed_device(double):
    """Not even that of somebody else is taken away, and none that is gone is left."""
    current, other = ctypes.c_void_p(), ctypes.c_void_p(4711)
    for below in (None, other.value):
        if below:
            double.library.cuCtxPushCurrent_v2(other)
        read_gpu()
        double.library.cuCtxGetCurrent(ctypes.byref(current))
        assert current.value == below
    double.library.cuCtxPopCurrent_v2(ctypes.byref(current))


@pytest.mark.parametrize("facts, zero_copy", [(fake_cuda.ORIN_NANO, True), (fake_cuda.H100, False)])
def test_host_memory_is_mapped_where_the_gpu_shares_it(double, monkeypatch, facts, zero_copy):
    monkeypatch.setenv("EDGEDIT_FAKE_GPU", json.dumps(facts))
    device = Device()
    shared = device.share((4, 3), np.float32, "noise")
    assert device.zero_copy is zero_copy and bool(shared.address) is zero_copy and shared.array.shape == (4, 3) and not shared.array.any()
    del shared
    device.close()


@pytest.mark.parametrize("facts, fix", [(fake_cuda.ORIN_NANO, "drop_caches"), (fake_cuda.H100, "nvidia-smi")])
@pytest.mark.parametrize("pinned", [True, False])
def test_full_memory_says_wanted_free_and_what_to_do(double, monkeypatch, facts, fix, pinned):
    monkeypatch.setenv("EDGEDIT_FAKE_GPU", json.dumps({**facts, "free_mb": 3}))
    device = Device()
    with pytest.raises(EdgeditError, match="memory is full") as caught:
        if pinned:
            device.share((4 << 20,), np.uint8, "images")
        else:
            device.allocate(4 << 20, "images")
    device.close()
    assert caught.value.saw == f"wanted 4 MiB, free 3 of {facts['memory_mb']} MiB" and "images" in caught.value.what
    assert fix in caught.value.fix and "--batch 32" in caught.value.fix


def test_another_thread_is_told(gpu):
    said = []

    def elsewhere():
        try:
            gpu.check_thread()
        except UsageError as error:
            said.append(error.saw)

    thread = threading.Thread(target=elsewhere, name="other")
    thread.start()
    thread.join()
    assert said == ["thread other"]
    gpu.check_thread()


def test_closing_on_another_thread_frees_the_memory(double):
    device = Device()
    device.allocate(10, "noise")
    thread = threading.Thread(target=device.close)
    thread.start()
    thread.join()
    assert double.alive() == {"contexts": 1}
    device.close()


def test_a_process_that_forgets_to_close_ends_well(double):
    """pycuda aborts a process that ends with a context on its stack."""
    code = ("from edgedit.device.cuda.device import Device\nd = Device()\nd.allocate(10, 'x')\nprint(d.facts.name, flush=True)\n"
            "raise SystemExit(7)\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (7, "Orin", "")


# --- refusals ---------------------------------------------------------------------------------------------------------------


def test_without_pycuda_it_says_how_to_build_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(MissingError, match="pycuda is not installed") as caught:
        read_gpu()
    assert "PATH=/usr/local/cuda/bin" in caught.value.fix and "pip install 'edgedit[jetson]'" in caught.value.fix


@pytest.mark.parametrize("text, what, fix", [
    ("libcuda.so.1: cannot open shared object file: No such file or directory", "no CUDA driver", "--runtime nvidia"),
    ("undefined symbol: cuCtxCreate_v4", "does not load", "--no-cache-dir")])
def test_a_pycuda_that_does_not_load(monkeypatch, tmp_path, text, what, fix):
    (tmp_path / "pycuda").mkdir()
    (tmp_path / "pycuda/__init__.py").write_text("")
    (tmp_path / "pycuda/driver.py").write_text(f"raise ImportError({text!r})")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [n for n in sys.modules if n.split(".")[0] == "pycuda"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingError, match=what) as caught:
        read_gpu()
    assert fix in caught.value.fix and text in caught.value.saw
    for name in [n for n in sys.modules if n.split(".")[0] == "pycuda"]:
        del sys.modules[name]


def test_without_a_gpu_it_says_so():
    """In a process of its own: CUDA is initialised once."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        fake_cuda.install(monkeypatch)
        monkeypatch.setenv("EDGEDIT_FAKE_GPU", "null")
        code = ("from edgedit.device.cuda.device import read_gpu\nfrom edgedit.core.errors import MissingError\n"
                "try: read_gpu()\nexcept MissingError as error: print(error)\n")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "CUDA finds no GPU" in done.stdout and "no CUDA-capable device" in done.stdout and "--runtime ort" in done.stdout


# --- kernels and graphs -----------------------------------------------------------------------------------------------------


def test_nvcc_is_found_where_jetpack_hides_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    (tmp_path / "cuda/bin").mkdir(parents=True)
    monkeypatch.setattr(kernels.os, "access", lambda path, mode: Path(path).is_file() and tmp_path in Path(path).parents)
    assert find_nvcc() is None
    (tmp_path / "cuda/bin/nvcc").write_text("")
    assert find_nvcc() == str(tmp_path / "cuda/bin/nvcc")


def test_without_nvcc_there_are_no_kernels(gpu, monkeypatch):
    monkeypatch.setattr(kernels, "find_nvcc", lambda: None)
    with pytest.raises(MissingError, match="nvcc not found") as caught:
        Kernels(gpu)
    assert "cuda-nvcc-12-6" in caught.value.fix


def test_an_nvcc_that_fails_is_quoted(gpu, monkeypatch, tmp_path):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\n[ \"$1\" = --version ] && echo broken && exit 0\necho 'kernel.cu(1): error: no such thing' >&2\nexit 1\n")
    nvcc.chmod(0o755)
    monkeypatch.setattr(kernels, "find_nvcc", lambda: str(nvcc))
    monkeypatch.setenv("PYCUDA_CACHE_DIR", str(tmp_path))
    with pytest.raises(EdgeditError, match="does not compile") as caught:
        Kernels(gpu)
    assert "error: no such thing" in caught.value.saw


def test_a_captured_graph_runs_as_often_as_it_is_launched(gpu, double):
    driver, stream = import_driver(), gpu.stream()
    source, target = gpu.share((4,), np.int32, "a"), gpu.allocate(16, "b")
    graph = CapturedGraph(driver, stream.handle, functools.partial(gpu.cuda.memcpy_htod_async, target, source.array, stream))
    for value in (3, 4):
        source.array[:] = value
        graph.launch()
        stream.synchronize()
        back = np.zeros(4, np.int32)
        gpu.cuda.memcpy_dtoh(back, target)
        assert (back == value).all()
    graph.close()
    graph.close()
    assert "graphs" not in double.alive()
    del source, stream


def test_work_that_fails_in_capture_leaves_the_stream_usable(gpu):
    driver, stream = import_driver(), gpu.stream()

    def enqueue():
        raise EdgeditError("TensorRT did not start")

    with pytest.raises(EdgeditError, match="did not start"):
        CapturedGraph(driver, stream.handle, enqueue)
    with pytest.raises(EdgeditError, match="nothing was captured"):
        CapturedGraph(driver, stream.handle, lambda: None)
    stream.synchronize()
    with pytest.raises(EdgeditError, match="cuStreamBeginCapture failed") as caught:
        CapturedGraph(driver, 0, lambda: None)
    assert caught.value.saw == "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"
    del stream


@pytest.mark.parametrize("spoil", ["allocate", "copy", "wait"])
def test_work_that_cannot_be_captured_spoils_the_capture_only(gpu, spoil):
    driver, stream = import_driver(), gpu.stream()
    target = gpu.allocate(16, "b")
    ways = {"allocate": lambda: gpu.allocate(16, "c"), "copy": lambda: gpu.cuda.memcpy_htod(target, np.ones(4, np.int32)),
            "wait": stream.synchronize}
    with pytest.raises(gpu.cuda.Error):
        CapturedGraph(driver, stream.handle, ways[spoil])
    stream.synchronize()
    ways[spoil]()
    del stream, ways


def test_older_cuda_python_has_the_driver_under_another_name(monkeypatch):
    old = types.ModuleType("cuda.cuda")
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    monkeypatch.setitem(sys.modules, "cuda.cuda", old)
    assert import_driver() is old


def test_cuda_python_that_finds_no_driver(monkeypatch):
    def no_driver(name):
        raise RuntimeError("Failed to dlopen libcuda.so.1")

    monkeypatch.setattr("edgedit.device.cuda.graph.importlib", types.SimpleNamespace(import_module=no_driver))
    with pytest.raises(MissingError, match="does not load") as caught:
        import_driver()
    assert "libcuda.so.1" in caught.value.saw


def test_reading_the_module_needs_no_pycuda():
    assert room.read_gpu is read_gpu and "pycuda" not in vars(room)
