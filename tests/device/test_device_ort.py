"""ONNX Runtime: same images at any batch, providers checked, telemetry off, plain errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from bundle_kit import expected, graph, make_bundle, small_spec

from edgedit.core.errors import ArtifactError, EdgeditError, MissingError, UsageError
from edgedit.core.noise import noise
from edgedit.device import ort as room
from edgedit.device.bundle import Bundle
from edgedit.device.ort import CPU, OrtRuntime

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def fixed(tmp_path_factory):
    return Bundle.open(make_bundle(tmp_path_factory.mktemp("ort") / "fixed"))


def loaded(bundle, **options):
    ready = OrtRuntime(threads=1, **options)
    ready.load(bundle)
    return ready


def test_images_are_those_of_the_graph(fixed):
    ready = loaded(fixed)
    labels = np.array([3, 0, 2, 4], np.int32)
    images = ready.infer(noise(5, range(4), fixed.noise_shape), labels)
    np.testing.assert_array_equal(images, expected(fixed, 5, range(4), labels))
    assert images.dtype == np.uint8 and images.shape == (4, 8, 8, 3)
    assert (ready.batch, ready.provider, ready.version) == (4, CPU, onnxruntime.__version__)
    assert ready.phases.compute_s > 0 and ready.phases.upload_s == ready.phases.download_s == 0
    ready.close()
    ready.close()


def test_the_result_is_the_callers(fixed):
    ready = loaded(fixed)
    first = ready.infer(noise(1, range(4), fixed.noise_shape), np.zeros(4, np.int32))
    copy = first.copy()
    ready.infer(noise(2, range(4), fixed.noise_shape), np.ones(4, np.int32))
    np.testing.assert_array_equal(first, copy)


def test_a_dynamic_graph_takes_any_batch(tmp_path):
    bundle = Bundle.open(make_bundle(tmp_path / "d", dynamic=True))
    ready = loaded(bundle)
    assert ready.batch is None
    for n in (1, 3, 8):
        labels = np.arange(n, dtype=np.int32) % 4
        images = ready.infer(noise(5, range(n), bundle.noise_shape), labels)
        np.testing.assert_array_equal(images, expected(bundle, 5, range(n), labels))


def test_wrong_shape_and_no_bundle(fixed):
    with pytest.raises(UsageError, match="noise must be float32"):
        loaded(fixed).infer(np.zeros((5, 3, 8, 8), np.float32), np.zeros(5, np.int32))
    with pytest.raises(UsageError, match="call load first"):
        OrtRuntime().infer(np.zeros((4, 3, 8, 8), np.float32), np.zeros(4, np.int32))


# --- providers --------------------------------------------------------------------------------------------------------------


def test_an_unknown_provider_suggests():
    with pytest.raises(UsageError, match="did you mean 'cuda'"):
        OrtRuntime("cude")


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this build has CUDA")
@pytest.mark.parametrize("name", ["cuda", "tensorrt", "TRT", "CUDAExecutionProvider"])
def test_a_provider_that_is_not_built_in_names_the_extra(fixed, name):
    with pytest.raises(MissingError, match=r"(CUDA|Tensorrt)ExecutionProvider(.|\n)*edgedit\[gpu\]"):
        loaded(fixed, provider=name)


class FakeSession:
    """A session that ran on another provider than the one asked for."""

    def __init__(self, real, providers, elsewhere=()):
        self._real, self._providers, self._elsewhere = real, providers, elsewhere

    def __getattr__(self, name):
        return getattr(self._real, name)

    def get_providers(self):
        return self._providers

    def get_provider_graph_assignment_info(self):
        nodes = [SimpleNamespace(op_type=op) for op in self._elsewhere]
        return [SimpleNamespace(ep_name=CPU, get_nodes=lambda: nodes)] if nodes else []


def pretend_cuda(monkeypatch, providers, elsewhere=()):
    """ONNX Runtime as on a machine whose build has CUDA; sessions really run on the CPU."""
    real = onnxruntime

    def session(path, options, providers_asked=None, **rest):
        assert rest.pop("providers")[0][0] == "CUDAExecutionProvider"
        assert rest == {"enable_fallback": 0, "disabled_optimizers": room._faulty_optimizers(real.__version__)}
        plain = real.SessionOptions()
        plain.intra_op_num_threads = 1
        return FakeSession(real.InferenceSession(path, plain, providers=[CPU]), providers, elsewhere)

    same = {name: getattr(real, name) for name in ("__version__", "SessionOptions", "GraphOptimizationLevel", "OrtValue")}
    fake = SimpleNamespace(**same, InferenceSession=session,
                           get_available_providers=lambda: ["CUDAExecutionProvider", CPU])
    monkeypatch.setattr(room, "import_onnxruntime", lambda: fake)


def test_a_silent_fall_back_to_the_cpu_is_an_error(fixed, monkeypatch):
    pretend_cuda(monkeypatch, [CPU])
    with pytest.raises(MissingError, match="fell back to CPUExecutionProvider"):
        loaded(fixed, provider="cuda")


def test_a_fall_back_that_was_asked_for_is_recorded(fixed, monkeypatch):
    pretend_cuda(monkeypatch, [CPU])
    assert loaded(fixed, provider="cuda", fallback=True).provider == CPU


def test_attention_left_on_the_cpu_is_an_error_unless_asked_for(fixed, monkeypatch):
    pretend_cuda(monkeypatch, ["CUDAExecutionProvider", CPU], ["Attention", "Attention", "Shape"])
    with pytest.raises(MissingError, match="Attention ×2"):
        loaded(fixed, provider="cuda")


def test_shape_arithmetic_on_the_cpu_is_only_noted(fixed, monkeypatch):
    pretend_cuda(monkeypatch, ["CUDAExecutionProvider", CPU], ["Shape", "Gather"])
    monkeypatch.setattr(room, "_DeviceBinding", lambda ort, session: None)
    assert loaded(fixed, provider="cuda").options["nodes_elsewhere"] == {"Shape": 1, "Gather": 1}


def test_bound_inputs_and_outputs_give_the_same_images_and_timed_copies(fixed):
    session = loaded(fixed)._session
    binding = room._DeviceBinding(onnxruntime, session, device="cpu")
    labels = np.arange(4, dtype=np.int32)
    kept = []
    for first in (0, 4, 8):
        images, phases = binding.infer(noise(3, range(first, first + 4), fixed.noise_shape), labels)
        kept.append((images, first))
        assert min(phases.upload_s, phases.compute_s, phases.download_s) > 0
    for images, first in kept:
        np.testing.assert_array_equal(images, expected(fixed, 3, range(first, first + 4), labels))


# --- loading ----------------------------------------------------------------------------------------------------------------


def test_a_model_that_is_rubbish(tmp_path):
    bundle = Bundle.open(make_bundle(tmp_path / "b", model=b"not onnx at all"))
    with pytest.raises(ArtifactError, match="cannot load"):
        loaded(bundle)


@pytest.mark.parametrize("model", [graph(small_spec(), 4, output="pictures"), graph(small_spec(), 8),
                                   graph(small_spec(image=16), 4)])
def test_a_graph_that_contradicts_the_manifest(tmp_path, model):
    bundle = Bundle.open(make_bundle(tmp_path / "b", model=model))
    with pytest.raises(ArtifactError, match="does not take and give what the manifest says"):
        loaded(bundle)


@pytest.mark.parametrize(("version", "off"), [("1.23.2", True), ("1.9.0", True), ("1.24.0", False), ("1.31.1", False)])
def test_the_fusion_that_old_versions_get_wrong_is_off_there_alone(fixed, monkeypatch, version, off):
    seen, session = [], onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "__version__", version)
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *a, **k: seen.append(k["disabled_optimizers"]) or session(*a, **k))
    runtime = OrtRuntime()
    runtime.load(fixed)
    runtime.close()
    assert seen == [["SkipLayerNormFusion"] if off else []]


def test_an_error_while_running_says_so(fixed):
    ready = loaded(fixed)

    class Broken:
        def run(self, *args):
            raise RuntimeError("device-side assert\nstack")

    ready._session = Broken()
    with pytest.raises(EdgeditError, match=r"failed while running(.|\n)*device-side assert$"):
        ready.infer(np.zeros((4, 3, 8, 8), np.float32), np.zeros(4, np.int32))


def test_without_onnxruntime_the_extra_is_named(fixed, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingError, match=r"pip install 'edgedit\[cpu\]'"):
        loaded(fixed)


def test_telemetry_is_off_before_the_import_and_after_it(tmp_path):
    (tmp_path / "onnxruntime.py").write_text(
        "import os\nseen = os.environ.get('ORT_DISABLE_TELEMETRY')\ncalled = False\n"
        "def disable_telemetry_events():\n    global called\n    called = True\n")
    code = ("from edgedit.device.ort import import_onnxruntime\nimport sys\nassert 'onnxruntime' not in sys.modules\n"
            "ort = import_onnxruntime()\nassert ort.seen == '1' and ort.called, (ort.seen, ort.called)\n")
    env = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    env["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{ROOT}"
    subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=60)


def test_the_device_room_imports_no_runtime_and_nothing_of_the_host():
    code = ("import sys\nimport edgedit.device.profile, edgedit.device.generate, edgedit.device.ort\n"
            "bad = {'torch', 'onnx', 'onnxruntime', 'lpips', 'matplotlib', 'PIL'} & set(sys.modules)\nassert not bad, bad\n")
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, timeout=60)
