from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lpips_kit import NETS, SQUEEZE, gradient, images, needs_squeeze, off, package
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from edgedit.core.errors import ArtifactError
from edgedit.distill.lpips import Distance, Lpips, inverse_norm
from edgedit.distill.lpips_weights import TAPS, load_heads
from edgedit.distill.settings import LpipsSettings


@pytest.fixture(scope="module")
def squeeze() -> Lpips:
    return Lpips("squeeze", package("squeeze")[1], load_heads("squeeze")[0])


@pytest.mark.parametrize("pooling", ["max", "avg"])
@pytest.mark.parametrize("net", NETS)
def test_equals_the_package(net, pooling):
    metric, trunk = package(net, pooling)
    own = Lpips(net, trunk, load_heads(net)[0], pooling=pooling)
    a, b = images(40)
    expected = metric(a, b).flatten()
    assert expected.min() > 1e-3
    assert torch.allclose(own.distances(a, b), expected, atol=1e-6, rtol=1e-5)
    assert own(a, b).item() == pytest.approx(expected.mean().item(), rel=1e-5)
    assert own.distances(a, a).abs().max() == 0
    assert own.facts()["pooling"] == pooling
    # Where a ReLU or a maximum is a tie to rounding, gradients of equal functions differ: rarely, and in one branch.
    assert off(gradient(own, a, b), gradient(metric, a, b)) < 0.02


@needs_squeeze
def test_equals_the_package_with_real_weights():
    own = Lpips.load(LpipsSettings(net="squeeze", weights=SQUEEZE, resolution=None))
    metric = package("squeeze")[0]
    before = {n: t.clone() for n, t in metric.net.state_dict().items()}
    trunk = torch.load(SQUEEZE, weights_only=True)
    metric.net.load_state_dict({n: trunk["features." + n.split(".", 1)[1]] for n in before})
    a, b = images(32)
    near = a + 0.02 * b
    try:
        for x, y in ((a, b), (a, near)):
            assert torch.allclose(own.distances(x, y), metric(x, y).flatten(), atol=1e-6, rtol=1e-5)
    finally:
        metric.net.load_state_dict(before)
    assert own.distances(a, near).max() < own.distances(a, b).min()
    assert own.facts()["heads_sha256"] == "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76"


@pytest.mark.parametrize("side", [64, 224])
def test_resolution_is_a_bilinear_resize(side):
    metric, trunk = package("squeeze")
    a, b = images(32, 2)
    big = [F.interpolate(x, size=(side, side), mode="bilinear", align_corners=False) for x in (a, b)]
    resized = Lpips("squeeze", trunk, load_heads("squeeze")[0], side)
    assert torch.allclose(resized.distances(a, b), metric(*big).flatten(), atol=1e-6, rtol=1e-5)


def test_grey_is_repeated(squeeze):
    grey = [x[:, :1] for x in images(32)]
    assert torch.equal(squeeze.distances(*grey), squeeze.distances(*(x.expand(-1, 3, -1, -1) for x in grey)))


def test_features_serve_several_predictions(squeeze):
    a, b = images(32)
    kept = squeeze.features(b)
    assert not any(t.requires_grad for t in kept)
    assert torch.equal(squeeze.distances(a, kept), squeeze.distances(a, b))
    assert torch.equal(squeeze.distances(-a, kept), squeeze.distances(-a, b))
    assert torch.equal(gradient(squeeze, a, kept), gradient(squeeze, a, b))
    squared = sum((x - y).square().sum((1, 2, 3)) for x, y in zip(squeeze.features(a), kept, strict=True))
    assert torch.allclose(squared, squeeze.distances(a, b), rtol=1e-5)


def test_gradient_by_hand_is_the_gradient():
    chance = torch.Generator().manual_seed(2)
    x, y = (torch.rand(2, 5, 3, 3, generator=chance, dtype=torch.float64) for _ in range(2))
    w = torch.rand(1, 5, 1, 1, generator=chance, dtype=torch.float64)
    x[0, :, 0, 0] = 0.01
    torch.autograd.gradcheck(lambda t: Distance.apply(t, y, w), x.requires_grad_(), eps=1e-7, atol=1e-6)


def test_gradient_at_zero_features_is_finite_where_the_package_gives_nan():
    lpips = pytest.importorskip("lpips")
    x = torch.zeros(1, 4, 2, 2, requires_grad=True)
    lpips.normalize_tensor(x).sum().backward()
    assert torch.isnan(x.grad).any()
    finite = gradient(lambda t: Distance.apply(t, torch.ones(1, 4, 2, 2), torch.ones(1, 4, 1, 1)), torch.zeros(1, 4, 2, 2))
    assert torch.isfinite(finite).all()
    x = torch.randn(2, 8, 3, 3)
    assert torch.allclose(x * inverse_norm(x), lpips.normalize_tensor(x), atol=1e-6)


def test_gradient_of_constant_images_is_finite(squeeze):
    a = torch.full((1, 3, 32, 32), -0.08)
    assert torch.isfinite(gradient(squeeze, a, torch.zeros(1, 3, 32, 32))).all()


def test_training_mode_of_a_parent_changes_nothing_and_nothing_is_trainable(squeeze):
    a, b = images(32)
    before = squeeze(a, b)
    nn.ModuleList([squeeze]).train()
    assert torch.equal(squeeze(a, b), before) and torch.equal(squeeze(a, b), before)
    assert not any(p.requires_grad for p in squeeze.parameters())
    assert not any(isinstance(m, nn.Dropout) for m in squeeze.modules())
    assert all((squeeze.get_buffer(f"root{i}") >= 0).all() for i in range(len(TAPS["squeeze"])))


def test_heads_with_negative_weights_are_refused():
    heads = [h.clone() for h in load_heads("squeeze")[0]]
    heads[2][0, 0] = -0.1
    with pytest.raises(ArtifactError, match="tap 2"):
        Lpips("squeeze", package("squeeze")[1], heads)


def test_gradient_reaches_the_prediction_only(squeeze):
    a, b = (x.requires_grad_() for x in images(32))
    squeeze(a, b).backward()
    assert a.grad is not None and a.grad.abs().max() > 0 and b.grad is None


def test_backward_computes_no_gradient_of_weights(squeeze):
    masks: list[Any] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.convolution_backward.default:
                masks.append(args[10])
            return func(*args, **(kwargs or {}))

    a, b = images(32)
    loss = squeeze(a.requires_grad_(), b)
    with Watch():
        loss.backward()
    convolutions = sum(isinstance(m, nn.Conv2d) for m in squeeze.modules())
    assert masks == [[True, False, False]] * convolutions  # input, weight, bias; once: the target has no graph


@needs_squeeze
def test_precision_is_of_the_trunk_and_auto_follows_autocast():
    exact, bf16, fp32 = (Lpips.load(LpipsSettings(net="squeeze", weights=SQUEEZE, resolution=64, precision=p))
                         for p in ("auto", "bf16", "fp32"))
    a, b = images(32)
    expected, rounded = exact.distances(a, b), bf16.distances(a, b)
    assert rounded.dtype == torch.float32 and 1e-5 < off(rounded, expected) < 0.02
    assert F.cosine_similarity(gradient(bf16, a, b).flatten(), gradient(exact, a, b).flatten(), 0) > 0.9
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(exact.distances(a, b), rounded)
        assert torch.equal(fp32.distances(a, b), expected)
        assert exact(a.bfloat16(), b).dtype == torch.float32
    assert torch.equal(bf16.distances(a, bf16.features(b)), rounded)


@pytest.mark.slow
def test_compiled_is_the_same_loss():
    trunk, heads = package("squeeze")[1], load_heads("squeeze")[0]
    eager, compiled = (Lpips("squeeze", trunk, heads, 64, compiled=c) for c in (False, True))
    a, b = images(32)
    assert torch.allclose(compiled.distances(a, b), eager.distances(a, b), rtol=1e-4)
    assert off(gradient(compiled, a, b), gradient(eager, a, b)) < 0.02
