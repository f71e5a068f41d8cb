"""TensorRT runtime: images through real pycuda and the TensorRT double are ONNX Runtime's; what is refused and what is freed."""

from __future__ import annotations

import gc
import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from bundle_kit import expected, small_spec
from trt_kit import board, bundle, engine, graph, refusal

from edgedit.core.errors import ArtifactError, EdgeditError, MissingError, UsageError
from edgedit.core.noise import labels as balanced
from edgedit.core.noise import noise
from edgedit.core.record import load_record
from edgedit.device import runtime as room
from edgedit.device.cuda.device import Device, import_pycuda
from edgedit.device.generate import GenerateSettings, generate
from edgedit.device.measure import ProfileSettings
from edgedit.device.pipeline import Source, run, split
from edgedit.device.profile import profile
from edgedit.device.runtime import RuntimeChoice, describe, open_runtime, settle
from tests.fake_cuda import H100, ORIN_NANO

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return bundle(tmp_path_factory.mktemp("trt") / "b")


@pytest.fixture(params=[ORIN_NANO, H100], ids=["orin", "h100"])
def gpu(request):
    """Every stream, event and graph is closed before the context is, one by one."""
    with board(request.param) as double:
        left = double.state()["left"]
        yield double
        assert double.state()["left"] == left


@pytest.fixture
def orin():
    with board() as double:
        yield double


def source(made, count, batch=4, first=0, seed=7):
    return Source(seed, made.noise_shape, batch, lambda i: balanced(0, i, 4), split(first, count, batch))


def images_of(ready, made, count, **options):
    got = []
    assert run(ready, source(made, count, **options), got.append, overlap=True)
    return np.concatenate([b.images for b in got]), got


def same_pictures(seen, wanted):
    """At most one grey level apart (last bits of log and cos before a cut to whole levels), in at most 0.1 % of the values."""
    away = np.abs(seen.astype(int) - wanted.astype(int))
    return seen.shape == wanted.shape and away.max() <= 1 and np.count_nonzero(away) <= max(1, away.size // 1000)


# --- images -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graphs", [True, False], ids=["graph", "plain"])
@pytest.mark.parametrize("device_noise", [True, False], ids=["gpu-noise", "host-noise"])
def test_images_are_those_of_onnx_runtime(gpu, made, tmp_path, graphs, device_noise):
    """Queued work runs only when it is waited for: a result read or a buffer reused too early would show."""
    folder = engine(tmp_path / "e", made)
    ready = open_runtime(made, "trt", engine=folder, cuda_graph=graphs, device_noise=device_noise)
    try:
        before = gpu.state()["calls"].get("cuGraphLaunch", 0)
        seen, batches = images_of(ready, made, 30)
        assert gpu.state()["calls"].get("cuGraphLaunch", 0) - before == (8 if graphs else 0)
        wanted = expected(made, 7, range(30), balanced(0, range(30), 4))
        assert same_pictures(seen, wanted) and (device_noise or (seen == wanted).all())
        assert ready.options["noise"] == ("gpu" if device_noise else "host: as asked")
        assert ready.options["cuda_graph"] == ("captured" if graphs else "off: as asked")
        assert all((b.phases.noise_s is not None) is device_noise and b.phases.compute_s > 0 for b in batches)
    finally:
        ready.close()


def test_ragged_batches_shuffled_indices_and_high_numbers(gpu, made, tmp_path):
    ready = open_runtime(made, "trt", engine=engine(tmp_path / "e", made))
    try:
        where = [np.array([3, 1, 1]), np.array([(1 << 48) - 1]), np.array([5, 0, 9, 2])]
        got = []
        run(ready, Source((1 << 64) - 1, made.noise_shape, 4, lambda i: balanced(0, i, 4), where), got.append)
        for batch, indices in zip(got, where, strict=True):
            assert same_pictures(batch.images, expected(made, (1 << 64) - 1, indices, balanced(0, indices, 4)))
    finally:
        ready.close()


def test_infer_takes_given_noise_between_runs(gpu, made, tmp_path):
    ready = open_runtime(made, "trt", engine=engine(tmp_path / "e", made))
    try:
        z, labels = noise(1, range(4), made.noise_shape), balanced(0, range(4), 4)
        first = ready.infer(z, labels)
        images_of(ready, made, 9)
        assert (ready.infer(z, labels) == expected(made, 1, range(4), labels)).all() and ready.phases.noise_s is None
        kept = first.copy()
        ready.infer(-z, labels)
        assert (first == kept).all()
        with pytest.raises(UsageError, match=r"\(4, 3, 8, 8\)"):
            ready.infer(z[:3], labels[:3])
    finally:
        ready.close()


def test_batches_overlap_on_the_device(made, tmp_path):
    """The next batch is launched before the last one is collected, and never more than that."""
    with board() as _:
        ready = open_runtime(made, "trt", engine=engine(tmp_path / "e", made))
        got = []
        run(ready, source(made, 40), got.append)
        ahead = [after.start_ns < before.end_ns for before, after in itertools.pairwise(got)]
        assert any(ahead) and [b.end_ns for b in got] == sorted(b.end_ns for b in got)
        assert all(after.start_ns > before.end_ns for before, after in zip(got, got[2:], strict=False))
        ready.close()


def test_a_dynamic_engine_takes_batches_up_to_its_own(orin, tmp_path):
    made = bundle(tmp_path / "b", dynamic=True)
    ready = open_runtime(made, "trt", engine=engine(tmp_path / "e", made))
    try:
        assert ready.batch is None
        for batch in (3, 4, 1):
            seen, _ = images_of(ready, made, 7, batch=batch)
            assert same_pictures(seen, expected(made, 7, range(7), balanced(0, range(7), 4)))
        with pytest.raises(UsageError, match="batches up to 4"):
            images_of(ready, made, 7, batch=5)
    finally:
        ready.close()


@pytest.mark.parametrize("halves", [False, True], ids=["plain", "guided"])
def test_a_plan_with_float_output_is_finished_by_our_kernel(gpu, tmp_path, halves):
    made = bundle(tmp_path / "b")
    model = graph(made.spec, 4, quantised=False, halves=halves)
    ready = open_runtime(made, "trt", engine=engine(tmp_path / "e", made, model=model))
    try:
        seen, _ = images_of(ready, made, 10)
        labels = balanced(0, range(10), 4)
        wanted = expected(made, 7, range(10), labels * (made.guidance_scale if halves else 1))
        assert same_pictures(seen, wanted)
    finally:
        ready.close()


# --- stages -----------------------------------------------------------------------------------------------------------------


def test_generate_gives_the_pictures_of_onnx_runtime(gpu, made, tmp_path):
    choice = RuntimeChoice(name="trt", engine=engine(tmp_path / "e", made))
    for name, runtime in (("trt", choice), ("ort", RuntimeChoice(threads=1))):
        generate(made.path, runtime, npz=tmp_path / f"{name}.npz", settings=GenerateSettings(count=23, seed=3))
    trt, ort = (np.load(tmp_path / f"{name}.npz")["images"] for name in ("trt", "ort"))
    assert same_pictures(trt, ort)


def test_profile_writes_what_ran(gpu, made, tmp_path):
    folder = engine(tmp_path / "e", made)
    settings = ProfileSettings(images=30, power="none", idle_s=0, warmup_batches=2, save=True)
    record = profile(made.path, RuntimeChoice(name="trt", engine=folder), tmp_path / "r", settings)
    facts = json.loads(os.environ["EDGEDIT_FAKE_GPU"])
    options, where = record.protocol.options, record.environment
    assert record == load_record(tmp_path / "r") and record.complete and record.protocol.runtime == "trt"
    assert record.protocol.provider == "TensorRT 10.3.0 on {} (sm_{}{})".format(facts["name"], *facts["compute_capability"])
    assert (options["zero_copy"], options["noise"], options["cuda_graph"]) == (facts["integrated"], "gpu", "captured")
    assert where.sm_count == facts["sm_count"] and where.gpu.startswith(facts["name"])
    assert record.phases_s["noise"] > 0 and record.phases_s["compute"] > 0 and (record.phases_s["upload"] > 0) is not facts["integrated"]
    images = np.load(tmp_path / "r" / "images.npy")
    assert same_pictures(images, expected(made, 0, range(30), balanced(0, range(30), 4)))
    assert profile(made.path, RuntimeChoice(name="trt", engine=folder), tmp_path / "r", settings) == record  # found, not run again


def test_a_profile_at_another_batch_is_refused(orin, made, tmp_path):
    dynamic = bundle(tmp_path / "d", dynamic=True)
    fixed = engine(tmp_path / "e", dynamic, model=graph(dynamic.spec, 4))
    with pytest.raises(UsageError, match="padding would be measured"):
        profile(dynamic.path, RuntimeChoice(name="trt", engine=fixed), tmp_path / "r",
                ProfileSettings(images=9, batch=3, power="none", idle_s=0))
    assert not (tmp_path / "r").exists()


def test_a_smaller_batch_is_padded_for_pictures(orin, tmp_path):
    made = bundle(tmp_path / "d", dynamic=True)
    fixed = engine(tmp_path / "e", made, model=graph(made.spec, 4))
    generate(made.path, RuntimeChoice(name="trt", engine=fixed), npz=tmp_path / "i.npz", settings=GenerateSettings(count=3))
    assert same_pictures(np.load(tmp_path / "i.npz")["images"], expected(made, 0, range(3), [0, 1, 2]))


def test_a_signal_keeps_what_was_measured_and_frees_the_gpu(gpu, made, tmp_path):
    heard = []

    def say(event):
        if event.text == "profile":
            heard.append(event.done)
            if event.done >= 12:
                os.kill(os.getpid(), signal.SIGINT)

    record = profile(made.path, RuntimeChoice(name="trt", engine=engine(tmp_path / "e", made)), tmp_path / "r",
                     ProfileSettings(images=40_000, power="none", idle_s=0, warmup_batches=1), say=say)
    lines = (tmp_path / "r" / "batches.jsonl").read_text().splitlines()
    assert not record.complete and record.verdicts[0].code == "interrupted" and record.batch_ms.count == len(lines) >= 3


def test_an_interrupt_in_the_middle_leaves_a_runtime_that_works(gpu, made, tmp_path):
    ready = open_runtime(made, "trt", engine=engine(tmp_path / "e", made))
    calls = []

    def watch(images):
        calls.append(images)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return False

    try:
        with pytest.raises(KeyboardInterrupt):
            run(ready, source(made, 400), lambda b: None, watch=watch)
        assert not [t for t in threading.enumerate() if t.name.startswith("edgedit-")]
        seen, _ = images_of(ready, made, 12)
        assert same_pictures(seen, expected(made, 7, range(12), balanced(0, range(12), 4)))
    finally:
        ready.close()


# --- choice -----------------------------------------------------------------------------------------------------------------


def test_auto_is_tensorrt_where_an_engine_fits(orin, made, tmp_path, monkeypatch):
    from edgedit.device.trt import engine as engines

    monkeypatch.setattr(engines, "engines_folder", lambda: tmp_path / "cache")
    assert settle(made, "auto").name == "ort"
    engine(tmp_path / "cache" / "there", made, sm_count=4)
    assert settle(made, "auto").name == "ort"
    engine(tmp_path / "cache" / "here", made)
    assert settle(made, "auto").name == describe(settle(made, "auto"))["name"] == "trt"
    assert settle(made, RuntimeChoice(provider="cpu")).name == settle(made, RuntimeChoice(threads=1)).name == "ort"
    ready = open_runtime(made)
    assert ready.name == "trt"
    ready.close()


def test_options_of_onnx_runtime_are_refused(orin, made):
    with pytest.raises(UsageError, match="ONNX Runtime's"):
        open_runtime(made, "trt", provider="cuda")


def test_without_tensorrt_it_says_how_to_get_it(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingError):
        open_runtime(made, "trt")


# --- refusals ---------------------------------------------------------------------------------------------------------------


def test_an_engine_of_another_board_is_refused(orin, made, tmp_path):
    error = refusal(ArtifactError, made, engine=engine(tmp_path / "e", made, sm_count=4))
    assert "SM count" in error.saw and "edgedit build" in error.fix


def test_a_corrupt_plan_shows_what_tensorrt_said(orin, made, tmp_path):
    error = refusal(ArtifactError, made, engine=engine(tmp_path / "e", made, data=b"not a plan"))
    assert "TensorRT 10.3.0 refuses" in error.what and "magic" in error.saw.lower() and "edgedit build" in error.fix


def test_an_altered_plan_never_reaches_tensorrt(orin, made, tmp_path):
    folder = engine(tmp_path / "e", made)
    file = folder / "engine.plan"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert "altered" in refusal(ArtifactError, made, engine=folder).what


def test_a_plan_of_another_signature_is_refused(orin, made, tmp_path):
    other = bundle(tmp_path / "o", spec=small_spec(image=16))
    error = refusal(ArtifactError, made, engine=engine(tmp_path / "e", made, model=other.model.read_bytes()))
    assert "does not take and give" in error.what and "(4, 3, 16, 16)" in error.saw


def test_a_full_gpu_says_what_was_wanted_and_free(orin, made, tmp_path, monkeypatch):
    folder = engine(tmp_path / "e", made)
    monkeypatch.setenv("EDGEDIT_FAKE_GPU", json.dumps({**ORIN_NANO, "free_mb": 0}))
    error = refusal(EdgeditError, made, engine=folder)
    assert "memory is full" in error.what and "free 0 of 7620 MiB" in error.saw and "drop_caches" in error.fix


def test_a_context_that_tensorrt_does_not_give(orin, made, tmp_path, monkeypatch):
    folder = engine(tmp_path / "e", made)
    monkeypatch.setattr(importlib.import_module("tensorrt_double.runtime").Engine, "create_execution_context", lambda *_, **__: None)
    error = refusal(EdgeditError, made, engine=folder)
    assert "no room for the network's activations" in error.what and "TensorRT logged no error" in error.saw


@pytest.mark.parametrize("why", ["signature", "context", "kernels"])
def test_nothing_of_tensorrt_outlives_the_gpus_context(orin, made, tmp_path, monkeypatch, why):
    """TensorRT's objects free GPU memory when they go. Whoever keeps the error keeps its frames, which must not keep them."""
    model = graph(small_spec(image=16), 4) if why == "signature" else graph(made.spec, 4, quantised=why != "kernels")
    folder = engine(tmp_path / "e", made, model=model)
    monkeypatch.setattr("edgedit.device.cuda.kernels.find_nvcc", lambda: None)
    if why == "context":
        monkeypatch.setattr(importlib.import_module("tensorrt_double.runtime").Engine, "create_execution_context", lambda *_, **__: None)
    gc.collect()
    alive: list[str] = []
    close = Device.close

    def watched(self):
        gc.collect()
        alive.extend(type(o).__name__ for o in gc.get_objects() if type(o).__name__ in ("ICudaEngine", "IExecutionContext"))
        close(self)

    monkeypatch.setattr(Device, "close", watched)
    with pytest.raises(EdgeditError) as kept:
        open_runtime(made, "trt", engine=folder)
    assert kept.value.what and not alive


def test_a_process_that_forgets_a_runtime_closes_it_before_the_gpu(orin, made, tmp_path):
    folder = engine(tmp_path / "e", made)
    code = f"""
import atexit
from edgedit.device.bundle import Bundle
from edgedit.device.runtime import open_runtime
ready = open_runtime(Bundle.open({str(made.path)!r}), "trt", engine={str(folder)!r})
plan, device = ready._plan, ready._device
before = device.close
device.close = lambda: (print("engine", plan._engine), before())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "engine None", "")


def test_a_tensorrt_that_does_not_start_says_why(orin, made, tmp_path, monkeypatch):
    folder = engine(tmp_path / "e", made)

    def refuse(self, logger):
        logger.log(logger.ERROR, "CUDA initialization failure with error: 35. Please check your CUDA installation")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(importlib.import_module("tensorrt_double.runtime").Runtime, "__init__", refuse)
    error = refusal(MissingError, made, engine=folder)
    assert "could not start" in error.what and "error: 35" in error.saw and "driver" in error.fix


def test_a_gpu_that_fails_in_the_first_run_has_a_message_of_its_own(orin, made, tmp_path, monkeypatch):
    folder = engine(tmp_path / "e", made)
    cuda = import_pycuda()

    def fail(self):
        raise cuda.LogicError("cuLaunchKernel failed: no kernel image is available for execution on the device")

    monkeypatch.setattr(importlib.import_module("edgedit.device.trt.lanes").TrtLane, "enqueue", fail)
    error = refusal(EdgeditError, made, engine=folder)
    assert "the GPU failed" in error.what and "no kernel image" in error.saw


def test_a_run_that_tensorrt_refuses_keeps_what_was_measured(orin, made, tmp_path, monkeypatch):
    kind = importlib.import_module("tensorrt_double.runtime").Context
    before, calls = kind.execute_async_v3, []

    def refuse(self, stream_handle):
        calls.append(1)
        if len(calls) > 12:
            self.engine_part.complain("enqueueV3: Error Code 1: Cuda Runtime (an illegal memory access was encountered)")
            return False
        return before(self, stream_handle)

    monkeypatch.setattr(kind, "execute_async_v3", refuse)
    record = profile(made.path, RuntimeChoice(name="trt", engine=engine(tmp_path / "e", made), cuda_graph=False), tmp_path / "r",
                     ProfileSettings(images=400, power="none", idle_s=0, warmup_batches=1))
    assert not record.complete and record.verdicts[0].code == "runtime-failed" and "illegal memory access" in record.verdicts[0].text
    assert record.batch_ms.count == 12 - 3 - 1  # three lanes ran once each when they were made, then one warm-up batch


def test_another_thread_is_refused(orin, made, tmp_path):
    ready = open_runtime(made, "trt", engine=engine(tmp_path / "e", made))
    said = []

    def elsewhere():
        try:
            ready.infer(np.zeros((4, 3, 8, 8), np.float32), np.zeros(4, np.int32))
        except UsageError as error:
            said.append(str(error))

    thread = threading.Thread(target=elsewhere, name="other")
    thread.start()
    thread.join()
    ready.close()
    assert said and "thread other" in said[0]


# --- without the extras -----------------------------------------------------------------------------------------------------


def test_without_cuda_python_it_enqueues_and_says_so(orin, made, tmp_path, monkeypatch):
    for name in ("cuda.bindings.driver", "cuda.cuda"):
        monkeypatch.setitem(sys.modules, name, None)
    ready = open_runtime(made, "trt", engine=engine(tmp_path / "e", made))
    seen, _ = images_of(ready, made, 9)
    assert ready.options["cuda_graph"] == "off: cuda-python is not installed"
    assert same_pictures(seen, expected(made, 7, range(9), balanced(0, range(9), 4)))
    ready.close()


def test_work_that_cannot_be_captured_is_enqueued(orin, made, tmp_path, monkeypatch):
    driver = pytest.importorskip("cuda.bindings.driver")
    monkeypatch.setattr(driver, "cuGraphInstantiate", lambda *_: (driver.CUresult.CUDA_ERROR_NOT_SUPPORTED, None))
    ready = open_runtime(made, "trt", engine=engine(tmp_path / "e", made))
    seen, _ = images_of(ready, made, 9)
    assert ready.options["cuda_graph"] == "off: cuGraphInstantiate failed (CUDA_ERROR_NOT_SUPPORTED)"
    assert same_pictures(seen, expected(made, 7, range(9), balanced(0, range(9), 4)))
    ready.close()


def test_without_nvcc_the_host_makes_the_noise_and_the_record_says_so(orin, made, tmp_path, monkeypatch):
    monkeypatch.setattr("edgedit.device.cuda.kernels.find_nvcc", lambda: None)
    ready = open_runtime(made, "trt", engine=engine(tmp_path / "e", made))
    seen, _ = images_of(ready, made, 9)
    assert ready.options["noise"] == "host: nvcc not found"
    assert (seen == expected(made, 7, range(9), balanced(0, range(9), 4))).all()
    ready.close()
    floats = engine(tmp_path / "f", made, model=graph(made.spec, 4, quantised=False))
    assert refusal(MissingError, made, engine=floats).what == "nvcc not found"


def test_registered_names():
    assert room.runtime_names()[:3] == ["auto", "ort", "trt"]


def test_the_command_line_in_a_process_of_its_own(gpu, made, tmp_path, monkeypatch):
    """Children inherit both doubles; there TensorRT's double runs at once, which cannot be captured, and the record says so."""
    from edgedit.device.trt.engine import engines_folder

    monkeypatch.setenv("EDGEDIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EDGEDIT_FAKE_CUDA_LAZY", "0")
    engine(engines_folder() / "e", made)
    options = ["--images", "9", "--power", "none", "--idle", "0", "--set", "save=true", "--out", str(tmp_path / "r")]
    done = subprocess.run([sys.executable, "-m", "edgedit", "profile", str(made.path), *options], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    record = load_record(tmp_path / "r")
    assert record.protocol.runtime == "trt" and record.protocol.options["cuda_graph"] == "off: nothing was captured"
    assert same_pictures(np.load(tmp_path / "r" / "images.npy"), expected(made, 0, range(9), balanced(0, range(9), 4)))
