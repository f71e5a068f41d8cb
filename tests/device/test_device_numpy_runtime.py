"""NumPy as a runtime: bundles of every kind against ONNX Runtime, the choice of it, and a machine without any other runtime."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bundle_kit import expected, graph, make_bundle, small_spec
from numpy_kit import SPEC, exported
from PIL import Image

from edgedit.core.errors import ArtifactError, MissingError, UsageError
from edgedit.core.noise import labels as balanced
from edgedit.core.noise import noise
from edgedit.device.bundle import Bundle
from edgedit.device.numpy_graph.runtime import NumpyRuntime
from edgedit.device.profile import ProfileSettings, profile
from edgedit.device.runtime import RuntimeChoice, describe, open_runtime, opened, runtime_names, settle
from edgedit.export.int8 import Int8Settings

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "engines/dit-nano-digits"


def both(bundle: Bundle, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The same images by NumPy and by ONNX Runtime, as whole numbers; `count` of a full batch where the batch is fixed."""
    rows = count if bundle.dynamic else bundle.batch
    z, c = noise(3, range(rows), bundle.noise_shape), balanced(3, range(rows), bundle.spec.rows)
    made = []
    for name in ("numpy", "ort"):
        with opened(bundle, name) as ready:
            made.append(ready.infer(z, c)[:count].astype(np.int32))
    assert made[1].std() > 20, "a test image has to have contrast"
    return made[0], made[1]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.square(a - b).mean(), 1e-9)))


def bundle_of(folder: Path, model: bytes, **settings) -> Bundle:
    return Bundle.open(make_bundle(folder, spec=SPEC, model=model, batch=4, class_names=("a", "b", "c"), **settings))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return Bundle.open(make_bundle(tmp_path_factory.mktemp("numpy") / "b", dynamic=True))


@pytest.mark.parametrize(("attention", "opset"), [("ort", None), ("ort", 17), ("pattern", None), ("pattern", 17), ("onnx", None)])
@pytest.mark.parametrize(("guidance", "dynamic"), [(1.5, False), (1.5, True), (1.0, False)])
def test_fp32_images_are_onnx_runtimes(tmp_path, attention, opset, guidance, dynamic):
    model = exported("fp32", attention, opset=opset, guidance=guidance, batch=None if dynamic else 4)
    mine, theirs = both(bundle_of(tmp_path / "b", model, dynamic=dynamic), 4)
    assert np.abs(mine - theirs).max() <= 1 and (mine != theirs).mean() < 0.005


@pytest.mark.parametrize("attention", ["ort", "pattern", "onnx"])
def test_fp16_images_are_onnx_runtimes_within_its_rounding(tmp_path, attention):
    """ONNX Runtime leaves out the rounding between operators that it runs in float32, so values differ by units of FP16."""
    mine, theirs = both(bundle_of(tmp_path / "b", exported("fp16", attention)), 4)
    assert np.abs(mine - theirs).max() <= 3 and (np.abs(mine - theirs) > 1).mean() < 0.01 and psnr(mine, theirs) > 50


@pytest.mark.parametrize("settings", [Int8Settings(), Int8Settings(attention=True, residual=True)])
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_int8_images_are_onnx_runtimes(tmp_path, settings, precision):
    """In FP32 graphs a whole number now and then falls to the other side of a half; in FP16 ones many do."""
    mine, theirs = both(bundle_of(tmp_path / "b", exported(precision, int8=settings)), 4)
    assert psnr(mine, theirs) > (45 if precision == "fp32" else 32)


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="engines/dit-nano-digits is not in this checkout")
@pytest.mark.parametrize(("name", "most", "beyond_one", "least_psnr"), [
    ("fp32", 1, 0.0, 80), ("fp16", 2, 0.001, 55), ("int8", 255, 0.4, 38)])
def test_the_shipped_bundles(name, most, beyond_one, least_psnr):
    """INT8 moves images by its own rounding: NumPy's are as near to FP32's as ONNX Runtime's are."""
    mine, theirs = both(Bundle.open(SHIPPED / f"bundle-{name}"), 16)
    away = np.abs(mine - theirs)
    assert away.max() <= most and (away > 1).mean() <= beyond_one and psnr(mine, theirs) > least_psnr
    whole = both(Bundle.open(SHIPPED / "bundle-fp32"), 16)[1]
    assert abs(psnr(np.clip(mine, 0, 255), whole) - psnr(theirs, whole)) < 1.5 or psnr(theirs, whole) > 55


def test_a_dynamic_graph_takes_any_batch_and_gives_images_away(plain):
    with opened(plain, "numpy") as ready:
        assert (ready.name, ready.provider, ready.version, ready.batch, ready.threads) == ("numpy", "numpy", np.__version__, None, None)
        kept = []
        for n in (1, 3, 8):
            labels = np.arange(n, dtype=np.int32) % 4
            kept.append((ready.infer(noise(5, range(n), plain.noise_shape), labels), labels))
            assert ready.phases.compute_s > 0
        for images, labels in kept:
            assert images.flags.c_contiguous and images.dtype == np.uint8
            np.testing.assert_array_equal(images, expected(plain, 5, range(len(labels)), labels))


def test_inputs_stay_as_they_are_and_are_checked(plain):
    with opened(plain, "numpy") as ready:
        z, c = noise(1, range(2), plain.noise_shape), np.array([0, 1], np.int32)
        kept = z.copy()
        ready.infer(z, c)
        np.testing.assert_array_equal(z, kept)
        with pytest.raises(UsageError, match="noise must be float32"):
            ready.infer(z[:, :2], c)
    with pytest.raises(UsageError, match="call load first"):
        ready.infer(z, c)


@pytest.mark.parametrize("model", [graph(small_spec(), 4, output="pictures"), graph(small_spec(), 8), graph(small_spec(image=16), 4)])
def test_a_graph_that_contradicts_the_manifest(tmp_path, model):
    with pytest.raises(ArtifactError, match="does not take and give what the manifest says"):
        open_runtime(Bundle.open(make_bundle(tmp_path / "b", model=model)), "numpy")


def test_a_model_that_is_rubbish(tmp_path):
    with pytest.raises(ArtifactError, match=r"not an ONNX file(.|\n)*edgedit export"):
        open_runtime(Bundle.open(make_bundle(tmp_path / "b", model=b"not onnx at all")), "numpy")


# --- choice -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "says"), [
    ({"provider": "cpu"}, "provider"), ({"threads": 2}, "threads"), ({"fallback": True}, "fallback"),
    ({"provider_options": {"a": "b"}}, "provider"), ({"engine": Path("e")}, "engine is TensorRT's")])
def test_options_of_other_runtimes_are_refused(plain, options, says):
    with pytest.raises(UsageError, match=says):
        open_runtime(plain, "numpy", **options)


@pytest.fixture
def without_ort(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)


def test_auto_is_numpy_where_nothing_else_is_and_says_so(plain, without_ort):
    said = []
    choice = settle(plain, "auto", say=said.append)
    assert isinstance(choice, RuntimeChoice) and choice.name == "numpy" and describe(choice)["name"] == "numpy"
    assert [e.level for e in said] == ["warning"] and "edgedit[cpu]" in said[0].text
    ready = open_runtime(plain)
    assert isinstance(ready, NumpyRuntime)


@pytest.mark.parametrize("options", [{"provider": "cpu"}, {"threads": 1}, {"fallback": True}])
def test_auto_with_onnx_runtimes_options_asks_for_it(plain, without_ort, options):
    with pytest.raises(MissingError, match=r"ONNX Runtime is not installed"):
        open_runtime(plain, **options)


def test_a_runtime_asked_for_by_name_warns_of_nothing(plain, without_ort):
    said = []
    assert settle(plain, "numpy", say=said.append).name == "numpy" and settle(plain, "ort", say=said.append).name == "ort" and not said


def test_auto_stays_onnx_runtime_where_it_is(plain):
    said = []
    assert settle(plain, "auto", say=said.append).name == "ort" and not said and "numpy" in runtime_names()


def test_a_record_says_numpy(plain, tmp_path):
    record = profile(plain.path, "numpy", tmp_path / "r", ProfileSettings(images=16, warmup_batches=1, idle_s=0, power="none"))
    assert (record.protocol.runtime, record.protocol.provider, record.complete) == ("numpy", "numpy", True)


# --- the base installation --------------------------------------------------------------------------------------------------

ALONE = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

BLOCKED = {"onnx", "onnxruntime", "torch", "scipy", "sklearn", "google", "safetensors"}
sys.meta_path.insert(0, Absent())
from edgedit.cli import main
main(sys.argv[1:])
"""


def alone(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line with the base dependencies only."""
    return subprocess.run([sys.executable, "-c", ALONE, *map(str, arguments)], env=os.environ | {"PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(not SHIPPED.is_dir(), reason="engines/dit-nano-digits is not in this checkout")
def test_generate_works_right_after_the_installation_and_warns(tmp_path):
    out = tmp_path / "d.png"
    done = alone("generate", SHIPPED / "bundle-fp32", "--count", 16, "--all-classes", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "warning: ONNX Runtime is not installed, so NumPy runs the graph" in done.stderr and "edgedit[cpu]" in done.stderr
    made = json.loads(out.with_name("d.png.json").read_bytes())
    assert made["made"]["runtime"] == made["made"]["provider"] == made["request"]["runtime"]["name"] == "numpy"
    assert np.asarray(Image.open(out)).std() > 30
    again = alone("generate", SHIPPED / "bundle-fp32", "--count", 16, "--all-classes", "--out", tmp_path / "e.png", "--runtime", "numpy")
    assert again.returncode == 0 and "warning" not in again.stderr
    np.testing.assert_array_equal(np.asarray(Image.open(out)), np.asarray(Image.open(tmp_path / "e.png")))


def test_wrong_options_on_the_command_line(plain, tmp_path):
    done = alone("generate", plain.path, "--out", tmp_path / "d.png", "--runtime", "numpy", "--threads", 2)
    assert done.returncode == UsageError.code and "NumPy has none of them" in done.stderr and "fix:" in done.stderr
    done = alone("generate", plain.path, "--out", tmp_path / "d.png", "--runtime", "ort")
    assert done.returncode == MissingError.code and "edgedit[cpu]" in done.stderr
