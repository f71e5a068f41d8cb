from __future__ import annotations

import pickle
import socket
from pathlib import Path

import pytest
import torch
from lpips_kit import NETS, package

from edgedit.core.errors import ArtifactError, MissingError
from edgedit.distill.lpips import Lpips
from edgedit.distill.lpips_weights import find_net
from edgedit.distill.settings import LpipsSettings


def load(weights: Path) -> Lpips:
    return Lpips.load(LpipsSettings(net="squeeze", weights=weights))


def test_without_weights_and_network_the_error_says_what_to_do(monkeypatch, tmp_path):
    def no_network(*args, **kwargs):
        raise OSError("network is unreachable")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(socket, "create_connection", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    with pytest.raises(MissingError) as caught:
        Lpips.load(LpipsSettings(net="squeeze"))
    assert "squeezenet1_1-b8a52dc0.pth" in caught.value.fix
    assert "--lpips-weights" in caught.value.fix and "--loss l1" in caught.value.fix


def test_weights_that_are_no_trunk(tmp_path):
    with pytest.raises(MissingError, match="not there"):
        load(tmp_path / "no.pth")
    rubbish = tmp_path / "rubbish.pth"
    rubbish.write_bytes(b"rubbish" * 50)
    with pytest.raises(ArtifactError, match="cannot be read"):
        load(rubbish)
    other = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(1)}, other)
    with pytest.raises(ArtifactError, match=r"not torchvision's squeeze trunk[\s\S]*weight: \(1,\), needed \(64, 3, 3, 3\)"):
        load(other)
    truncated = tmp_path / "short.pth"
    torch.save(package("squeeze")[1], other)
    truncated.write_bytes(other.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match="cannot be read"):
        load(truncated)


def test_a_weights_file_that_is_code_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "trap.pth").write_bytes(pickle.dumps(Trap(), protocol=2))
    torch.save({"features.0.weight": Trap()}, tmp_path / "trap2.pth")
    for name in ("trap.pth", "trap2.pth"):
        with pytest.raises(ArtifactError):
            load(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_the_net_is_told_from_its_weights_or_from_what_is_cached(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    assert find_net(None) is None
    for net in NETS:
        torch.save(package(net)[1], tmp_path / "some.pth")
        assert find_net(tmp_path / "some.pth") == net
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ArtifactError, match="fits none"):
        find_net(tmp_path / "other.pth")
    with pytest.raises(MissingError):
        find_net(tmp_path / "no.pth")
    cached = tmp_path / "home" / "hub" / "checkpoints"
    cached.mkdir(parents=True)
    (cached / "alexnet-owt-7be5be79.pth").touch()
    assert find_net(None) == "alex"
