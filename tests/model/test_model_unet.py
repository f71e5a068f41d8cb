"""The teacher's network against the published rules, written down a second time as plain functions of the tensors."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgedit.core.errors import UsageError
from edgedit.model.denoiser import NO_CLASS, Denoiser, loss_weight, one_hot
from edgedit.model.unet import UNet, UNetSpec

TINY = UNetSpec(width=16, multipliers=(2, 2, 2), blocks=1, attention=(8,), augment=9, image=16, classes=4)
"""The published build in small: three levels, attention at the middle one."""


def shaken(network: UNet) -> UNet:
    """Every parameter random, so that no branch is hidden behind a weight near zero."""
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            size = 0.3 if parameter.ndim == 1 else 1 / math.sqrt(parameter[0].numel())
            parameter.copy_(torch.randn(parameter.shape, generator=chance) * size)
    return network.eval()


def reference(w: dict[str, Tensor], spec: UNetSpec, x: Tensor, c_noise: Tensor, classes: Tensor) -> Tensor:
    """science.md §6.1 line by line, over the tensors by name."""

    def linear(name: str, t: Tensor) -> Tensor:
        return t @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def conv(name: str, t: Tensor) -> Tensor:
        weight = w[f"{name}.weight"]
        return F.conv2d(t, weight, w[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def norm(name: str, t: Tensor) -> Tensor:
        b, c, h, v = t.shape
        g = min(32, c // 4)
        t = t.reshape(b, g, -1)
        t = (t - t.mean(-1, keepdim=True)) / (t.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        return t.reshape(b, c, h, v) * w[f"{name}.weight"].view(1, -1, 1, 1) + w[f"{name}.bias"].view(1, -1, 1, 1)

    def resample(t: Tensor, how: str) -> Tensor:
        if how == "down":
            return (t[:, :, ::2, ::2] + t[:, :, 1::2, ::2] + t[:, :, ::2, 1::2] + t[:, :, 1::2, 1::2]) / 4
        return t.repeat_interleave(2, 2).repeat_interleave(2, 3) if how == "up" else t

    def block(name: str, t: Tensor, how: str = "") -> Tensor:
        h = conv(f"{name}.conv0", resample(F.silu(norm(f"{name}.norm0", t)), how))
        h = h + linear(f"{name}.affine", emb)[:, :, None, None]
        h = conv(f"{name}.conv1", F.silu(norm(f"{name}.norm1", h)))
        skip = conv(f"{name}.skip", resample(t, how)) if f"{name}.skip.weight" in w else t
        t = (h + skip) * math.sqrt(0.5)
        if f"{name}.qkv.weight" in w:
            b, c, s, _ = t.shape
            qkv = conv(f"{name}.qkv", norm(f"{name}.norm2", t)).reshape(b, 3 * c, s * s)
            q, k, v = qkv[:, 0::3], qkv[:, 1::3], qkv[:, 2::3]                            # interleaved channels
            a = torch.einsum("bcq,bck->bqk", q, k / math.sqrt(c)).softmax(-1)
            t = (conv(f"{name}.proj", torch.einsum("bqk,bck->bcq", a, v).reshape(b, c, s, s)) + t) * math.sqrt(0.5)
        return t

    half = spec.width // 2
    angle = torch.outer(c_noise, (1 / 10_000) ** (torch.arange(half) / (half - 1)))
    emb = torch.cat([angle.sin(), angle.cos()], 1) + linear("map_label", classes * math.sqrt(classes.shape[1]))
    emb = F.silu(linear("map_layer1", F.silu(linear("map_layer0", emb))))
    s = spec.image
    names = list(dict.fromkeys(".".join(n.split(".")[:2]) for n in w if n.startswith(("enc.", "dec."))))
    skips: list[Tensor] = []
    for name in names:
        if name.startswith("enc."):
            x = conv(name, x) if name.endswith("_conv") else block(name, x, "down" if name.endswith("_down") else "")
            skips.append(x)
        elif "_aux_" not in name:
            part = name.split("_")[-1]
            x = torch.cat([x, skips.pop()], 1) if part.startswith("block") else x
            x = block(name, x, "up" if part == "up" else "")
    assert not skips
    return conv(f"dec.{s}x{s}_aux_conv", F.silu(norm(f"dec.{s}x{s}_aux_norm", x)))


def test_the_network_follows_the_published_rules() -> None:
    network = shaken(UNet(TINY))
    chance = torch.Generator().manual_seed(2)
    x, c = torch.randn(3, 3, 16, 16, generator=chance), torch.tensor([-1.5, 0.0, 1.1])
    classes = one_hot(torch.tensor([0, 3, NO_CLASS]), 4)
    with torch.no_grad():
        seen, wanted = network(x, c, classes), reference(network.state_dict(), TINY, x, c, classes)
    assert wanted.std() > 0.1
    assert (seen - wanted).abs().max() < 1e-4 * wanted.abs().max()
    assert (network(x, c, classes.roll(1, 0)) - wanted).abs().max() > 1e-2  # classes matter


def test_the_published_network_has_its_parameters_and_six_attention_blocks() -> None:
    with torch.device("meta"):
        network = UNet(UNetSpec.edm_cifar10())
    state = network.state_dict()
    assert len(state) == 419 and sum(p.numel() for p in network.parameters()) == 55_735_299
    attends = [n.removesuffix(".qkv.weight") for n in state if n.endswith(".qkv.weight")]
    assert attends == [*(f"enc.16x16_block{k}" for k in range(4)), "dec.8x8_in0", "dec.16x16_block4"]
    skips = [n.removesuffix(".skip.weight") for n in state if n.endswith(".skip.weight")]
    assert "enc.32x32_block0" in skips and "enc.16x16_down" in skips and "dec.32x32_up" in skips and "dec.8x8_in1" not in skips
    assert state["dec.32x32_block4.conv0.weight"].shape == (256, 384, 3, 3)
    assert list(state)[:8] == ["map_label.weight", "map_label.bias", "map_augment.weight", "map_layer0.weight", "map_layer0.bias",
                               "map_layer1.weight", "map_layer1.bias", "enc.32x32_conv.weight"]


def test_preconditioning_is_edms() -> None:
    """D = c_skip·x + c_out·F(c_in·x; ln σ/4) with Karras et al.'s coefficients."""
    denoiser = Denoiser(TINY)
    shaken(denoiser.network)
    x, sigma, labels = torch.randn(2, 3, 16, 16), torch.tensor([0.02, 40.0]), torch.tensor([1, 2])
    s, d = sigma[:, None, None, None], 0.5
    with torch.no_grad():
        raw = denoiser.network(x / (s**2 + d**2).sqrt(), sigma.log() / 4, one_hot(labels, 4))
        wanted = d**2 / (s**2 + d**2) * x + s * d / (s**2 + d**2).sqrt() * raw
        assert torch.allclose(denoiser(x, sigma, labels), wanted, rtol=1e-4, atol=1e-5)
    assert torch.allclose(loss_weight(sigma) * (sigma * d) ** 2 / (sigma**2 + d**2), torch.ones(2))


def test_labels_are_one_hot_and_none_is_zeros() -> None:
    assert one_hot(torch.tensor([2, NO_CLASS, 0]), 3).tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]


def test_an_untrained_denoiser_returns_nearly_the_skip() -> None:
    """Weights begin so that F is about 0: the loss starts near 1 at every noise level."""
    denoiser = Denoiser(UNetSpec(width=16, multipliers=(1, 2), blocks=1, attention=(8,), patch=2), seed=3)
    x, sigma = torch.randn(4, 3, 32, 32), torch.full((4,), 1.3)
    with torch.no_grad():
        assert torch.allclose(denoiser(x, sigma, torch.zeros(4).long()), x * 0.25 / (1.3**2 + 0.25), atol=1e-3)


@settings(max_examples=12, deadline=None)
@given(width=st.sampled_from([8, 16, 24]), multipliers=st.sampled_from([(1,), (1, 2), (2, 1, 3)]), blocks=st.integers(1, 2),
       patch=st.sampled_from([1, 2]), channels=st.sampled_from([1, 3]))
def test_every_spec_keeps_the_shape_and_survives_json(width, multipliers, blocks, patch, channels) -> None:
    spec = UNetSpec(width, multipliers, blocks, attention=(8,), patch=patch, image=16, channels=channels, classes=5)
    assert UNetSpec.from_dict(spec.to_dict()) == spec
    with torch.no_grad():
        out = Denoiser(spec)(torch.randn(2, channels, 16, 16), torch.ones(2), torch.tensor([0, 4]))
    assert out.shape == (2, channels, 16, 16) and bool(torch.isfinite(out).all())


@pytest.mark.parametrize("sizes", [{"width": 12}, {"multipliers": ()}, {"blocks": 0}, {"image": 30}, {"patch": 3}])
def test_impossible_sizes_are_refused(sizes) -> None:
    with pytest.raises(UsageError, match=r"needs? a"):
        UNetSpec(**sizes)
