"""deploy to a board with TensorRT: build, generate and profile there through the doubles of TensorRT and of the CUDA driver.

Real: ssh, rsync, pip, edgedit, pycuda, the engine cache. Not: TensorRT itself, a GPU, any time that is measured.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from edgedit.core.artifact import open_artifact
from edgedit.remote import deploy as deploy_module
from edgedit.remote.deploy import DeploySettings, deploy
from edgedit.remote.wheel import own_wheel
from tests import fake_cuda, fake_tensorrt
from tests.device.engine_kit import attention_bundle
from tests.remote.fake_board import FakeBoard, need_ssh

DOUBLES = ("PYTHONPATH", "LD_LIBRARY_PATH", "PYCUDA_CACHE_DIR", "EDGEDIT_FAKE_GPU", "EDGEDIT_FAKE_TENSORRT", "EDGEDIT_FAKE_TRT",
           "EDGEDIT_FAKE_KERNELS", "EDGEDIT_FAKE_CUDA_LAZY", "PATH")


@pytest.mark.slow
def test_engine_images_and_record_come_from_the_board(tmp_path, monkeypatch):
    need_ssh()
    fake_tensorrt.install(monkeypatch, "10.3.0")
    fake_cuda.install(monkeypatch)
    bundle = attention_bundle(tmp_path / "bundle", dynamic=True)
    (tmp_path / "wheel").mkdir()
    wheel = own_wheel(tmp_path / "wheel")
    monkeypatch.setattr(deploy_module, "own_wheel", lambda folder: Path(shutil.copy(wheel, folder)))
    settings = DeploySettings(profile=True, images=24, generate=10, batch=4, patience_s=10)
    (tmp_path / "board").mkdir()
    board = FakeBoard(tmp_path / "board", {name: os.environ[name] for name in DOUBLES if name in os.environ})
    try:
        first = deploy(board.target, bundle, tmp_path / "out", settings)
        assert first.board["tensorrt"] and first.steps["build"] == "done" and first.engine is not None
        assert list((board.home / ".cache/edgedit/engines").iterdir()), "the engine is in the board's cache"
        assert first.measured is not None and first.measured["protocol"]["runtime"] == "trt" and first.measured["complete"]
        record = open_artifact(tmp_path / "out/record", "record")
        with np.load(tmp_path / "out/images/images.npz") as images:
            assert images["images"].shape == (10, 8, 8, 3) and images["images"].any()
        said: list[str] = []
        again = deploy(board.target, bundle, tmp_path / "out", settings, say=lambda event: said.append(event.text))
        assert again.engine is not None and again.engine["digest"] == first.engine["digest"], "built once"
        assert open_artifact(tmp_path / "out/record").manifest.digest == record.manifest.digest
    finally:
        board.stop()
