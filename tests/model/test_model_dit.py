from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from edgedit.core.spec import DiTSpec
from edgedit.model.deploy import fold, modulation_table
from edgedit.model.dit import DiT, patchify, sincos_positions, unpatchify

TABLE_6 = [(1, 128, 8), (2, 96, 8), (5, 64, 4), (5, 64, 8), (9, 48, 6), (21, 32, 4), (3, 192, 12), (7, 128, 8), (13, 96, 8),
           (4, 256, 16), (16, 128, 8), (7, 192, 12)]
SMALL = DiTSpec(2, 32, 4, image=8, classes=3)


def random_model(spec: DiTSpec, seed: int = 0) -> DiT:
    """A model whose every weight matters: adaLN-Zero's zeros replaced."""
    model = DiT(spec, seed=seed).double()
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.normal_(0, 0.15, generator=chance)
    return model.eval()


@pytest.mark.parametrize("size", TABLE_6, ids=str)
def test_instantiated_modules_hold_the_counted_parameters(size: tuple[int, int, int]) -> None:
    spec = DiTSpec(*size)
    model = DiT(spec)
    assert sum(p.numel() for p in model.parameters()) == spec.parameters
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == spec.trainable_parameters
    assert sum(p.numel() for p in fold(model).parameters()) == spec.deployed_parameters


@pytest.mark.parametrize("scale", [1.0, 1.5])
@pytest.mark.parametrize("spec", [SMALL, DiTSpec(5, 64, 8), DiTSpec(3, 48, 6, patch=4, image=16, channels=1)], ids=lambda s: s.label)
def test_folding_changes_nothing(spec: DiTSpec, scale: float) -> None:
    model = random_model(spec)
    noise = torch.randn(5, spec.channels, spec.image, spec.image, dtype=torch.float64)
    labels = torch.tensor([0, 1, spec.classes - 1, spec.null_class, 0])
    with torch.no_grad():
        expected, seen = model.guided(noise, labels, scale), fold(model, scale).images(noise, labels)
    assert expected.std() > 0.1
    assert (expected - seen).abs().max() < 1e-9


def test_deployed_output_is_uint8_nhwc_truncated_and_clipped() -> None:
    model = random_model(SMALL)
    noise, labels = 3 * torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    deployed = fold(model, 1.5)
    expected = (deployed.images(noise, labels) * 127.5 + 128).clamp(0, 255).floor().permute(0, 2, 3, 1)
    seen = deployed(noise, labels)
    assert seen.dtype == torch.uint8 and seen.shape == (4, 8, 8, 3)
    assert torch.equal(seen.double(), expected)
    assert {0, 255} & set(seen.unique().tolist())


def test_output_is_zero_at_initialisation_and_every_parameter_can_learn() -> None:
    model = DiT(SMALL)
    noise, labels = torch.randn(2, 3, 8, 8), torch.tensor([0, 3])
    assert torch.equal(model(noise, labels), torch.zeros(2, 3, 8, 8))
    model = random_model(SMALL).float()
    (model(noise, labels) ** 2).mean().backward()
    idle = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().sum() > 0)]
    assert idle == []


def test_same_seed_same_weights_whatever_the_global_generator() -> None:
    torch.manual_seed(1)
    a = DiT(SMALL, seed=3).state_dict()
    torch.manual_seed(2)
    b = DiT(SMALL, seed=3).state_dict()
    c = DiT(SMALL, seed=4).state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["blocks.0.qkv.weight"], c["blocks.0.qkv.weight"])


def test_guidance_formula() -> None:
    model = random_model(SMALL)
    noise, labels = torch.randn(3, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2])
    conditional, null = model(noise, labels), model(noise, torch.full((3,), SMALL.null_class))
    assert torch.allclose(model.guided(noise, labels, 1.5), null + 1.5 * (conditional - null), atol=1e-12)
    assert torch.allclose(model.guided(noise, labels, 0.0), null, atol=1e-12)


def test_timestep_sinusoid_at_zero_is_ones_then_zeros() -> None:
    timestep = DiT(SMALL).timestep.double()
    waves = torch.cat([torch.ones(128), torch.zeros(128)]).double()
    expected = timestep.out(F.silu(timestep.hidden(waves)))
    assert torch.allclose(timestep(0.0), expected, atol=1e-12)
    assert not torch.allclose(timestep(0.5), expected, atol=1e-4)


def test_positions_first_half_is_the_column() -> None:
    spec = DiTSpec(1, 16, 2)
    position = sincos_positions(spec).double()
    for token, (row, column) in {1: (0, 1), 16: (1, 0), 37: (2, 5)}.items():
        omega = [10_000 ** (-k / 4) for k in range(4)]
        expected = [f(at * o) for at in (column, row) for f in (math.sin, math.cos) for o in omega]
        assert position[token].tolist() == pytest.approx(expected, abs=1e-6)


def test_patches_are_read_like_a_strided_convolution() -> None:
    images, weight = torch.randn(2, 3, 8, 8), torch.randn(5, 3, 2, 2)
    expected = F.conv2d(images, weight, stride=2).flatten(2).transpose(1, 2)
    assert torch.allclose(patchify(images, 2) @ weight.flatten(1).T, expected, atol=1e-5)


def test_unpatchify_puts_channels_last_within_a_patch() -> None:
    tokens = torch.zeros(1, 16, 12)
    tokens[0, 6, (1 * 2 + 0) * 3 + 2] = 1.0  # token 6 = row 1, column 2; pixel row 1, column 0 of its patch; channel 2
    image = unpatchify(tokens, SMALL)
    assert image[0, 2, 3, 4] == 1.0 and image.sum() == 1.0


def test_modulation_table_rows() -> None:
    model = random_model(SMALL)
    table = modulation_table(model)
    assert table.shape == (4, 6 * 2 + 2, 32)
    c = F.silu(model.condition(torch.tensor([2])))
    shift, scale, gate = model.blocks[1].modulation(c).chunk(6, dim=1)[:3]
    assert torch.allclose(table[2, 6:9], torch.cat([shift, 1 + scale, gate]), atol=1e-12)


def test_taps_are_what_the_blocks_give_and_change_nothing() -> None:
    model = random_model(DiTSpec(4, 32, 4, image=8, classes=3))
    noise, labels = torch.randn(3, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 3])
    seen: dict[int, torch.Tensor] = {}
    for layer, block in enumerate(model.blocks, 1):
        block.register_forward_hook(lambda module, inputs, output, layer=layer: seen.update({layer: output}))
    images, tokens = model(noise, labels, (3, 1, 4, 3))
    assert torch.equal(images, model(noise, labels))
    for layer, x in zip((3, 1, 4, 3), tokens, strict=True):
        assert torch.equal(x, seen[layer]) and x.shape == (3, 16, 32)
    assert torch.equal(model.decode(tokens[2], model.condition(labels)), images)


def test_taps_compile_into_one_graph_and_carry_gradients() -> None:
    model = random_model(SMALL)
    noise, labels = torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 3])
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    images, (tokens,) = compiled(noise, labels, (1,))
    expected, (inner,) = model(noise, labels, (1,))
    assert torch.allclose(images, expected) and torch.allclose(tokens, inner)
    assert torch.allclose(compiled(noise, labels), expected)
    tokens.square().sum().backward()
    reached = {int(n.split(".")[1]) for n, p in model.named_parameters() if n.startswith("blocks.") and p.grad is not None and p.grad.any()}
    assert reached == {0}
