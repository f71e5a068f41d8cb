"""Importing TensorRT: each way it can be missing has its own message and fix. Folders stand for installed packages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgedit.core.errors import MissingError
from edgedit.device.python_facts import PythonFacts
from edgedit.device.trt import module as subject
from edgedit.device.trt.module import import_tensorrt


@pytest.fixture(autouse=True)
def no_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is imported yet, and what these tests import does not stay."""
    for name in [n for n in sys.modules if n == "tensorrt" or n.startswith("tensorrt.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not (Path(p) / "tensorrt").exists()])


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    (folder / "site" / "tensorrt").mkdir(parents=True)
    (folder / "site" / "tensorrt" / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(str(folder / "site"))


def board(folder: Path, release: str = "# R36 (release), REVISION: 4.3") -> Path:
    root = folder / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "nv_tegra_release").write_text(release + "\n")
    (root / "proc" / "device-tree").mkdir(parents=True)
    (root / "proc" / "device-tree" / "compatible").write_text("nvidia,p3768-0000+p3767-0003\0nvidia,tegra234\0")
    return root


def missing(root: Path) -> MissingError:
    with pytest.raises(MissingError) as raised:
        import_tensorrt(root)
    assert raised.value.fix
    return raised.value


def test_a_host_without_it_is_sent_to_the_board(tmp_path):
    error = missing(tmp_path)
    assert "not there" in error.what and "edgedit deploy user@board BUNDLE" in (error.fix or "")


def test_a_board_without_it_is_told_the_package(tmp_path):
    assert missing(board(tmp_path)).fix == "sudo apt install python3-libnvinfer python3-libnvinfer-dev"


@pytest.mark.parametrize("facts, words, fix", [
    (PythonFacts((3, 10), virtual=True, system_site=False), "hides", "python3 -m venv --system-site-packages .venv"),
    (PythonFacts((3, 11), virtual=True, system_site=True), "another Python", "use JetPack's own python3"),
])
def test_installed_for_the_system_but_not_seen(tmp_path, monkeypatch, facts, words, fix):
    root = board(tmp_path)
    (root / "usr/lib/python3.10/dist-packages/tensorrt").mkdir(parents=True)
    monkeypatch.setattr(subject, "read_python", lambda: facts)
    error = missing(root)
    assert words in error.what and error.fix == fix and "dist-packages" in (error.saw or "")


@pytest.mark.parametrize("release, fix", [
    ("# R36 (release), REVISION: 5.0", "sudo apt install nvidia-l4t-dla-compiler"),
    ("# R39 (release), REVISION: 2.1", "use JetPack's own 10.16.2; there are no -igpu containers for JetPack 7"),
])
def test_libnvdla_is_told_from_other_libraries(tmp_path, monkeypatch, release, fix):
    install(monkeypatch, tmp_path, "raise ImportError('libnvdla_compiler.so: cannot open shared object file: No such file')")
    error = missing(board(tmp_path, release))
    assert error.fix == fix and "libnvdla_compiler.so" in (error.saw or "")


def test_another_library_is_named(tmp_path, monkeypatch):
    install(monkeypatch, tmp_path, "raise OSError('libnvinfer.so.10: cannot open shared object file')")
    assert "libnvinfer.so.10 is missing" in missing(tmp_path).what


def test_no_binary_for_this_python(tmp_path, monkeypatch):
    install(monkeypatch, tmp_path, "from .tensorrt import *")
    assert "another Python" in missing(tmp_path).what


def test_an_import_that_fails_otherwise_keeps_its_reason(tmp_path, monkeypatch):
    install(monkeypatch, tmp_path, "import a_package_that_is_not_there")
    error = missing(tmp_path)
    assert "cannot be imported" in error.what and "a_package_that_is_not_there" in (error.saw or "")


@pytest.mark.parametrize("version", ["8.5.2.2", "8.6.2", "10.0.1", "10.2.0"])
def test_too_old_names_the_jetpack_to_install(tmp_path, monkeypatch, version):
    install(monkeypatch, tmp_path, f"__version__ = '{version}'")
    error = missing(board(tmp_path, "# R36 (release), REVISION: 3.0"))
    assert version in error.what and "JetPack 6.2" in (error.fix or "") and "JetPack 6.0" in (error.saw or "")


def test_too_new_is_not_guessed_at(tmp_path, monkeypatch):
    install(monkeypatch, tmp_path, "__version__ = '12.0.1'")
    assert "newer than this edgedit knows" in missing(tmp_path).what


@pytest.mark.parametrize("version", ["10.3.0", "10.16.1.11", "11.4.0.106"])
def test_what_is_claimed_is_taken(tmp_path, monkeypatch, version):
    install(monkeypatch, tmp_path, f"__version__ = '{version}'")
    assert subject.tensorrt_version(import_tensorrt(tmp_path)) == version
