"""A new machine: only the base package with its CPU runtime, no torch, no onnx; a bundle arrives and is used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from edgedit.core.artifact import seal
from edgedit.core.spec import DiTSpec

REPO = Path(__file__).parents[2]
SPEC = DiTSpec(1, 16, 2, patch=4, image=16, channels=1, classes=3)


def run(*command: str | Path, **extra: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")} | extra
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, env=environment, cwd="/")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of an untrained student whose weights all matter."""
    import torch

    from edgedit.export.bundle import ExportSettings, export
    from edgedit.model.checkpoint import KIND, WEIGHTS, save_weights
    from edgedit.model.dit import DiT

    folder = tmp_path_factory.mktemp("bundle")
    model = DiT(SPEC)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    (folder / "student").mkdir()
    save_weights(folder / "student" / WEIGHTS, SPEC, model.state_dict())  # names come from the manifest
    seal(folder / "student", KIND, [WEIGHTS], spec=SPEC.to_dict(), info={"label": SPEC.label, "class_names": ["a", "b", "c"]})
    export(folder / "student", folder / "bundle", ExportSettings(precision="fp32", attention="pattern", batch=8))
    return folder / "bundle"


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with `edgedit[cpu]` alone, installed from a wheel."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    built = run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, REPO)
    installed = built if built.returncode else run(
        python, "-m", "pip", "install", "--quiet", f"{next(folder.glob('edgedit-*.whl'))}[cpu]")
    if installed.returncode:
        pytest.skip(f"the package registry cannot be reached: {installed.stderr.strip().splitlines()[-1][:200]}")
    return folder / "venv" / "bin"


def test_the_base_holds_no_host_package(clean: Path) -> None:
    have = {p["name"].lower() for p in json.loads(run(clean / "python", "-m", "pip", "list", "--format", "json").stdout)}
    assert "edgedit" in have and "onnxruntime" in have
    assert not have & {"torch", "onnx", "lpips", "safetensors", "scikit-learn", "matplotlib"}


def test_help_doctor_and_version(clean: Path) -> None:
    assert "profile" in run(clean / "edgedit", "--help").stdout
    assert run(clean / "edgedit", "--version").stdout.startswith("edgedit ")
    got = run(clean / "edgedit", "doctor", "--json")
    assert got.returncode == 0, got.stderr
    assert {"level", "title"} <= json.loads(got.stdout)["findings"][0].keys()


def test_generate_profile_report_show(clean: Path, bundle: Path, tmp_path: Path) -> None:
    got = run(clean / "edgedit", "generate", bundle, "--count", "20", "--class", "b", "--out", tmp_path / "b.png", "--json")
    assert got.returncode == 0, got.stderr
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    got = run(clean / "edgedit", "profile", bundle, "--images", "100", "--warmup", "1", "--idle", "0", "--out", tmp_path / "r", "--json")
    assert got.returncode == 0, got.stderr
    record = json.loads(got.stdout)
    assert record["complete"] and record["protocol"]["images"] == 100 and record["protocol"]["last_batch"] == 4
    got = run(clean / "edgedit", "report", tmp_path / "r", "--out", tmp_path / "report.html")
    assert got.returncode == 0, got.stderr
    assert "(1,16,2)" in (tmp_path / "report.html").read_text()
    assert "bundle" in run(clean / "edgedit", "show", tmp_path / "r").stdout


def test_host_verbs_name_the_extra(clean: Path, tmp_path: Path) -> None:
    got = run(clean / "edgedit", "pairs", "--out", tmp_path / "p")
    assert got.returncode == 4 and "edgedit[host]" in got.stderr and "Traceback" not in got.stderr


def test_a_missing_runtime_names_the_extra(clean: Path, bundle: Path, tmp_path: Path) -> None:
    """An installation without any runtime: onnxruntime hidden by an import hook, the rest as installed."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nclass Hide:\n    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'onnxruntime': raise ModuleNotFoundError(name=name)\nsys.meta_path.insert(0, Hide())\n")
    got = run(clean / "edgedit", "generate", bundle, "--out", tmp_path / "x.png", PYTHONPATH=str(tmp_path))
    assert got.returncode == 0 and "edgedit[cpu]" in got.stderr, got.stderr  # NumPy ran it
    got = run(clean / "edgedit", "generate", bundle, "--runtime", "ort", "--out", tmp_path / "y.png", PYTHONPATH=str(tmp_path))
    assert got.returncode == 4 and "edgedit[cpu]" in got.stderr
