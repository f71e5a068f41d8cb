"""Where something is missing the bindings are not had, and the reason says what."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.contract import bindings
from tests.contract.bindings import VERSIONS, real_bindings, real_wheel


@pytest.fixture
def empty(monkeypatch, tmp_path):
    """A cache with nothing in it, and no memory of earlier failures."""
    monkeypatch.setattr(bindings, "CACHE", tmp_path)
    monkeypatch.setattr(bindings, "_failed", {})
    return tmp_path


def reason(make):
    with pytest.raises(pytest.skip.Exception) as skipped:
        make()
    return str(skipped.value)


def test_no_registry(empty, monkeypatch):
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    text = reason(lambda: real_bindings(VERSIONS[0]))
    assert text.startswith("TensorRT 10.3.0: ") and "No matching distribution found for tensorrt-cu12-bindings==10.3.0" in text
    monkeypatch.setattr(bindings, "_call", None)
    assert reason(lambda: real_bindings(VERSIONS[0])) == text, "the second test must not ask the registry again"
    assert not [path for path in empty.rglob("*") if path.is_dir() and path.parent != empty], "half a folder is left"


def test_no_compiler(empty, monkeypatch):
    wheel = empty / "wheel"
    (wheel / "tensorrt_bindings").mkdir(parents=True)
    monkeypatch.setattr(bindings, "_make_wheel", lambda requirement: wheel)
    monkeypatch.setattr(bindings.shutil, "which", lambda name: None)
    assert reason(lambda: real_bindings(VERSIONS[-1])) == (
        "TensorRT 11.4.0.106: gcc is not installed, so the stub libraries cannot be compiled")


def test_no_pip(empty, monkeypatch):
    monkeypatch.setattr(bindings.importlib.util, "find_spec", lambda name: None)
    assert reason(lambda: real_wheel("cuda-bindings==13.2.0")) == "cuda-bindings==13.2.0: pip is not installed in this environment"


def test_many_at_once_make_one_folder(empty):
    """Four ask together, as test processes do; one makes the folder, the others wait and find it whole."""
    folder, together = empty / "thing", threading.Barrier(4)

    def make(number):
        together.wait()
        with bindings._once(folder) as draft:
            if draft is not None:
                time.sleep(0.05)  # long enough for the others to reach the lock
                (draft / "file").write_text(str(number))
            return draft is not None, folder.is_dir() or draft is not None

    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(make, range(4)))
    assert sum(made for made, _ in told) == 1 and all(there for _, there in told)
    assert int((folder / "file").read_text()) == [made for made, _ in told].index(True)
    assert sorted(path.name for path in empty.iterdir()) == ["thing", "thing.lock"]
