from __future__ import annotations

import socket
import warnings
from pathlib import Path

import pytest
import torch
from distill_kit import tiny
from torch import nn

from edgedit.core.errors import ArtifactError, MissingError, UsageError
from edgedit.core.settings import resolve
from edgedit.core.spec import DiTSpec
from edgedit.distill.losses import SMALLEST, TAPS, Lpips, load_heads, make_loss, unit
from edgedit.distill.settings import LpipsSettings, TrainSettings

SHARED = Path(__file__).parents[3] / "shared" / "data"
SQUEEZE = SHARED / "squeezenet1_1_from_ncnn_fp16.pth"
CPU = torch.device("cpu")
NETS = ["squeeze", *(pytest.param(net, marks=pytest.mark.slow) for net in ("alex", "vgg"))]


def reference(net: str):
    """The package's own metric with a random trunk, and that trunk under torchvision's names."""
    lpips = pytest.importorskip("lpips")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    trunk = {f"features.{name.split('.', 1)[1]}": t for name, t in metric.net.state_dict().items()}
    return metric, trunk


def images(side: int, count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(1)
    return tuple(torch.rand(count, 3, side, side, generator=chance) * 2 - 1 for _ in range(2))


@pytest.fixture(scope="module")
def squeeze():
    metric, trunk = reference("squeeze")
    return metric, trunk, Lpips("squeeze", trunk, load_heads("squeeze")[0])


@pytest.mark.parametrize("net", NETS)
def test_equals_the_package(net, squeeze):
    metric, trunk = squeeze[:2] if net == "squeeze" else reference(net)
    own = Lpips(net, trunk, load_heads(net)[0])
    a, b = images(40)
    expected = metric(a, b).flatten()
    assert expected.min() > 1e-3
    assert torch.allclose(own.distances(a, b), expected, atol=1e-5, rtol=1e-5)
    assert own.distances(a, a).abs().max() == 0


@pytest.mark.skipif(not SQUEEZE.is_file(), reason="../shared/data is not here")
def test_equals_the_package_with_real_weights():
    own = Lpips.load(LpipsSettings(net="squeeze", weights=SQUEEZE, resolution=None))
    metric = reference("squeeze")[0]
    trunk = torch.load(SQUEEZE, weights_only=True)
    metric.net.load_state_dict({n: trunk["features." + n.split(".", 1)[1]] for n in metric.net.state_dict()})
    a, b = images(32)
    near = a + 0.02 * b
    for x, y in ((a, b), (a, near)):
        assert torch.allclose(own.distances(x, y), metric(x, y).flatten(), atol=1e-5, rtol=1e-5)
    assert own.distances(a, near).max() < own.distances(a, b).min()
    assert own.facts()["heads_sha256"] == "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76"


def test_gradient_at_zero_features_is_finite_where_the_package_gives_nan():
    lpips = pytest.importorskip("lpips")
    for normalise, finite in ((unit, True), (lpips.normalize_tensor, False)):
        x = torch.zeros(1, 4, 2, 2, requires_grad=True)
        normalise(x).sum().backward()
        assert bool(torch.isfinite(x.grad).all()) is finite
    x = torch.randn(2, 8, 3, 3)
    assert torch.allclose(unit(x), lpips.normalize_tensor(x), atol=1e-6)


def test_gradient_of_constant_images_is_finite(squeeze):
    a = torch.full((1, 3, 32, 32), -0.08, requires_grad=True)
    squeeze[2](a, torch.zeros(1, 3, 32, 32)).backward()
    assert torch.isfinite(a.grad).all()


def test_training_mode_of_a_parent_changes_nothing_and_nothing_is_trainable(squeeze):
    own = squeeze[2]
    a, b = images(32)
    before = own(a, b)
    nn.ModuleList([own]).train()
    assert torch.equal(own(a, b), before) and torch.equal(own(a, b), before)
    assert not any(p.requires_grad for p in own.parameters())
    assert not any(isinstance(m, nn.Dropout) for m in own.modules())
    assert all((own.get_buffer(f"head{i}") >= 0).all() for i in range(len(TAPS["squeeze"])))


def test_gradient_reaches_the_prediction_only(squeeze):
    a, b = (x.requires_grad_() for x in images(32))
    squeeze[2](a, b).backward()
    assert a.grad is not None and a.grad.abs().max() > 0 and b.grad is None


def test_resolution_is_a_bilinear_resize_and_grey_is_repeated(squeeze):
    metric, trunk, native = squeeze
    a, b = images(32)
    big = [nn.functional.interpolate(x, size=(64, 64), mode="bilinear", align_corners=False) for x in (a, b)]
    resized = Lpips("squeeze", trunk, load_heads("squeeze")[0], 64)
    assert torch.allclose(resized.distances(a, b), metric(*big).flatten(), atol=1e-5)
    grey = a[:, :1], b[:, :1]
    assert torch.equal(native.distances(*grey), native.distances(*(x.expand(-1, 3, -1, -1) for x in grey)))


@pytest.mark.parametrize("net", NETS)
def test_least_side_is_what_the_trunk_takes_and_less_is_refused(net, squeeze):
    own = squeeze[2] if net == "squeeze" else Lpips(net, reference(net)[1], load_heads(net)[0])
    assert torch.isfinite(own(*images(SMALLEST[net])))
    with pytest.raises((RuntimeError, ValueError)):
        own(*images(SMALLEST[net] - 1))
    settings = tiny(loss__name="lpips", loss__lpips__net=net, loss__lpips__resolution="native").loss
    with pytest.raises(UsageError, match="at least"):
        make_loss(settings, DiTSpec(1, 8, 2, image=14), CPU)


@pytest.mark.parametrize(("name", "expected"), [("l1", 0.5), ("l2", 0.25)])
def test_pixel_losses(name, expected):
    loss = make_loss(resolve(TrainSettings, sets=[f"loss={name}"]).loss, DiTSpec(1, 8, 2), CPU)
    x = torch.zeros(2, 3, 4, 4)
    assert loss(x, x + 0.5).item() == expected
    assert loss.facts() == {"name": name}


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


def test_weights_that_are_no_trunk(tmp_path, squeeze):
    with pytest.raises(MissingError, match="not there"):
        Lpips.load(LpipsSettings(net="squeeze", weights=tmp_path / "no.pth"))
    rubbish = tmp_path / "rubbish.pth"
    rubbish.write_bytes(b"rubbish" * 50)
    with pytest.raises(ArtifactError, match="cannot be read"):
        Lpips.load(LpipsSettings(net="squeeze", weights=rubbish))
    other = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(1)}, other)
    with pytest.raises(ArtifactError, match=r"not torchvision's squeeze trunk[\s\S]*weight: \(1,\), needed \(64, 3, 3, 3\)"):
        Lpips.load(LpipsSettings(net="squeeze", weights=other))
    truncated = tmp_path / "short.pth"
    torch.save(squeeze[1], other)
    truncated.write_bytes(other.read_bytes()[:1000])
    with pytest.raises(ArtifactError, match="cannot be read"):
        Lpips.load(LpipsSettings(net="squeeze", weights=truncated))


def test_a_weights_file_that_is_code_is_not_run(tmp_path):
    import pickle

    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "trap.pth").write_bytes(pickle.dumps(Trap(), protocol=2))
    torch.save({"features.0.weight": Trap()}, tmp_path / "trap2.pth")
    for name in ("trap.pth", "trap2.pth"):
        with pytest.raises(ArtifactError):
            Lpips.load(LpipsSettings(net="squeeze", weights=tmp_path / name))
    assert not (tmp_path / "ran").exists()
