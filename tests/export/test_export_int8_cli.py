"""`edgedit export --precision int8` and `--trt` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgedit.cli import main
from edgedit.cli.perceptual import find_lpips
from edgedit.core.errors import MissingError, UsageError
from edgedit.core.spec import DiTSpec

SPEC = DiTSpec(1, 32, 4, image=8, classes=3)
SHARED = Path(__file__).parents[3] / "shared" / "data"
QUICK = ["--set", "int8.images=48", "--set", "int8.gate.images=12", "--set", "int8.gate.psnr_db=20", "--set", "int8.gate.mean_levels=20"]


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    return int(stopped.value.code or 0)


@pytest.fixture(scope="module")
def made(make_student, make_pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    return make_student(folder / "student", SPEC), make_pairs(folder / "pairs", SPEC)


def test_export_says_what_was_kept_and_promises_no_speed(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "nothing"))
    assert run("export", made[0], "--precision", "int8", "--calibrate", made[1], "--batch", 4, "--out", tmp_path / "b", *QUICK) == 0
    out, err = capsys.readouterr()
    assert "INT8 in all blocks; from FP32's images (onnxruntime " in out and "often slower" in out
    assert "LPIPS weights are not here" in err


def test_export_without_pairs(made, tmp_path, capsys):
    assert run("export", made[0], "--precision", "int8", "--out", tmp_path / "b") == 2
    assert "--calibrate PAIRS" in capsys.readouterr().err


def test_trt_without_tensorrt_gives_the_next_command(made, tmp_path, capsys, monkeypatch):
    def refuse(*_, **__):
        raise MissingError("TensorRT's Python package is not there")

    monkeypatch.setattr("edgedit.device.trt.build.build", refuse)
    assert run("export", made[0], "--batch", 2, "--out", tmp_path / "b", "--trt") == 0
    out = capsys.readouterr().out
    assert "no engine was built here: TensorRT's Python package is not there" in out
    assert f"next: edgedit deploy USER@BOARD {tmp_path / 'b'}, or on the board: edgedit build b" in out


def test_trt_with_tensorrt_names_the_engine(made, tmp_path, capsys, monkeypatch):
    engine = type("Engine", (), {"path": tmp_path / "engine"})()
    monkeypatch.setattr("edgedit.device.trt.build.build", lambda *_, **__: engine)
    assert run("export", made[0], "--batch", 2, "--out", tmp_path / "b", "--trt", "--json") == 0
    assert json.loads(capsys.readouterr().out)["engine"] == str(tmp_path / "engine")


def test_lpips_of_given_weights():
    weights = SHARED / "squeezenet1_1_from_ncnn_fp16.pth"
    if not weights.is_file():
        pytest.skip("no LPIPS weights beside this repository")
    pytest.importorskip("lpips")
    distance = find_lpips(weights, lambda event: None)
    images = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 1), np.uint8)
    noisy = np.clip(images.astype(int) + 40, 0, 255).astype(np.uint8)
    assert distance(images, images) == 0 and distance(noisy, images) > 0.001


def test_weights_of_something_else_are_refused(tmp_path):
    import torch

    pytest.importorskip("lpips")
    torch.save({"w": torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises(UsageError, match="fits none"):
        find_lpips(tmp_path / "w.pth", lambda event: None)
    with pytest.raises(MissingError):
        find_lpips(tmp_path / "none.pth", lambda event: None)
