"""Muon: its matrices' steps against torch's own implementation, what is left to AdamW, and a run."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learn_kit import Toy, learn, toy_settings
from torch import nn

from edgedit.core.spec import DiTSpec
from edgedit.distill.student import StudentTrainer
from edgedit.learn.muon import Muon, orthogonal
from edgedit.model.dit import DiT
from edgedit.model.unet import UNet, UNetSpec
from edgedit.teach.unet import UNetTrainer

MUON = {"name": "muon", "lr": 0.05, "schedule": "cosine"}


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 3), a=st.integers(1, 40), b=st.integers(1, 40), scale=st.sampled_from([1e-6, 1.0, 1e4]),
       seed=st.integers(0, 1 << 20))
def test_directions_become_alike(n: int, a: int, b: int, scale: float, seed: int) -> None:
    chance = torch.Generator().manual_seed(seed)
    left, right = (torch.linalg.qr(torch.randn(n, side, min(a, b), dtype=torch.float64, generator=chance))[0] for side in (a, b))
    values = torch.linspace(0.1, 1, min(a, b), dtype=torch.float64)
    moved = orthogonal((scale * (left * values) @ right.mT).float()).double()
    found = torch.linalg.svdvals(moved)
    assert moved.shape == (n, a, b) and bool((found > 0.5).all()) and bool((found < 1.3).all())
    along = left.mT @ moved @ right  # the directions themselves stay
    assert (along - torch.diag_embed(along.diagonal(dim1=1, dim2=2))).abs().max() < 1e-2


def test_nothing_moves_nowhere() -> None:
    assert torch.equal(orthogonal(torch.zeros(2, 4, 3)), torch.zeros(2, 4, 3))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon to compare with")
def test_matrices_move_as_torchs_muon_moves_them() -> None:
    shapes = [(8, 24), (8, 24), (16, 8)]
    mine, theirs = ([nn.Parameter(torch.randn(s, generator=torch.Generator().manual_seed(k))) for k, s in enumerate(shapes)] for _ in "ab")
    other = nn.Parameter(torch.ones(3))
    ours = Muon(mine, [other], 0.03, (0.9, 0.999), 0.1)
    peer = torch.optim.Muon(theirs, lr=0.03, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        for k, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            a.grad = torch.randn(a.shape, generator=torch.Generator().manual_seed(100 * step + k))
            b.grad = a.grad.clone()
        other.grad = torch.full((3,), 2.0)
        ours.step()
        peer.step()
    for a, b in zip(mine, theirs, strict=True):
        size = 0.03 * 0.2 * math.sqrt(max(a.shape))
        assert (a - b).abs().max() < 0.1 * size, "torch iterates in bfloat16"
    assert bool((other < 0.9).all())


def test_filters_are_matrices() -> None:
    weight = nn.Parameter(torch.randn(8, 4, 3, 3))
    before = weight.detach().clone()
    weight.grad = torch.randn(8, 4, 3, 3)
    Muon([weight], [nn.Parameter(torch.ones(1))], 0.1, (0.9, 0.999), 0.0).step()
    moved = ((before - weight) / (0.1 * 0.2 * math.sqrt(36))).flatten(1)
    assert bool((torch.linalg.svdvals(moved) > 0.5).all())


def kinds(trainer: Toy) -> dict[str, bool]:
    """Parameter's name → is it Muon's?"""
    matrices = {id(p) for p in trainer.optimizer.param_groups[0]["params"]}
    return {name: id(p) in matrices for name, p in trainer.trained.items()}


def test_a_students_ends_are_adamws() -> None:
    class Bare(Toy):
        ends = StudentTrainer.ends

        def __init__(self) -> None:
            super(Toy, self).__init__(DiT(DiTSpec(2, 32, 4)), toy_settings(optimizer=MUON), torch.device("cpu"))

    of = kinds(Bare())
    left = {n.removeprefix("model.") for n, is_muons in of.items() if not is_muons and not n.endswith("bias")}
    assert left == {"patch.weight", "timestep.hidden.weight", "timestep.out.weight", "label.weight", "final.linear.weight"}


def test_a_teachers_ends_are_adamws() -> None:
    class Bare(Toy):
        ends = UNetTrainer.ends

        def __init__(self) -> None:
            spec = UNetSpec(width=16, multipliers=(1, 2), blocks=1, attention=(8,), image=16)
            super(Toy, self).__init__(UNet(spec), toy_settings(optimizer=MUON), torch.device("cpu"))

    of = kinds(Bare())
    assert {n for n, p in of.items() if not p and not n.endswith("bias") and "norm" not in n} == {
        "model.map_label.weight", "model.enc.16x16_conv.weight", "model.dec.16x16_aux_conv.weight"}


def test_a_run_learns(tmp_path: Path) -> None:
    assert learn(tmp_path / "run", toy_settings(steps=200, optimizer=MUON)).info["final_loss"] < 0.1
