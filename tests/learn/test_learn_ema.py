from __future__ import annotations

import pytest
import torch

from edgedit.core.spec import DiTSpec
from edgedit.learn.ema import Ema, decay_at
from edgedit.model.dit import DiT


def test_decay_follows_the_stated_formula():
    assert decay_at(0, 0.9999) == 0.1
    assert decay_at(90, 0.9999) == 91 / 100
    assert decay_at(89_989, 0.9999) < 0.9999
    assert decay_at(89_990, 0.9999) == pytest.approx(0.9999, abs=1e-15)
    assert decay_at(10**7, 0.9999) == 0.9999
    assert decay_at(0, 0.9999, warmup=False) == 0.9999


@pytest.mark.parametrize("warmup", [True, False])
def test_the_average_is_the_recursion(warmup):
    model = DiT(DiTSpec(1, 8, 2, image=4, classes=2))
    ema = Ema(model, 0.9, warmup)
    expected = model.label.weight.detach().double().clone()
    chance = torch.Generator().manual_seed(0)
    for t in range(30):
        with torch.no_grad():
            model.label.weight.copy_(torch.randn(model.label.weight.shape, generator=chance))
        ema.update(t)
        d = min(0.9, (1 + t) / (10 + t)) if warmup else 0.9
        expected = d * expected + (1 - d) * model.label.weight.detach().double()
    assert torch.allclose(ema.model.label.weight.double(), expected, atol=1e-6)
    assert torch.equal(ema.model.position, model.position)
    assert not any(p.requires_grad for p in ema.model.parameters()) and not ema.model.training


def test_with_the_correction_a_short_run_leaves_its_start_behind():
    kept = {True: 1.0, False: 1.0}
    for warmup in kept:
        for t in range(2000):
            kept[warmup] *= decay_at(t, 0.9999, warmup)
    assert kept[True] < 1e-20
    assert kept[False] == pytest.approx(0.82, abs=0.005)
