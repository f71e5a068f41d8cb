from __future__ import annotations

import signal

import numpy as np
import pytest
import torch
from distill_kit import tiny, write_pairs
from lpips_kit import images, package
from setup_kit import same_runs

from edgedit.core.errors import Interrupted
from edgedit.core.say import Event
from edgedit.distill import lpips, train
from edgedit.distill.lpips import Lpips
from edgedit.distill.lpips_cache import FeatureCache
from edgedit.distill.lpips_weights import load_heads

PAIRS = 12


def loss_with(cache: FeatureCache | None, net: str = "squeeze", **options) -> Lpips:
    return Lpips(net, package(net)[1], load_heads(net)[0], cache=cache, **options)


@pytest.fixture(scope="module")
def targets() -> torch.Tensor:
    return images(32, PAIRS)[1]


@pytest.fixture(scope="module")
def row_gb(targets) -> float:
    return sum(t[0].numel() for t in loss_with(None).features(targets[:1])) * 4 / 1e9


def take(loss: Lpips, targets: torch.Tensor, *indices: int) -> list[torch.Tensor]:
    return list(loss.features(targets[list(indices)], np.array(indices)))


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("net", ["squeeze", "vgg"])
def test_a_value_depends_on_its_pair_alone(net, targets):
    one, other, plain = loss_with(FeatureCache(1), net), loss_with(FeatureCache(1), net), loss_with(None, net)
    take(one, targets, 3, 1, 7, 0)
    take(other, targets, 5, 7)
    a, b = take(one, targets, 0, 7, 3), take(other, targets, 0, 7, 3)
    assert equal(a, b)
    for got, expected in zip(a, plain.features(targets[[0, 7, 3]]), strict=True):
        assert torch.allclose(got, expected, atol=1e-5)
    prediction = images(32, 3, seed=8)[0]
    assert torch.allclose(one.distances(prediction, tuple(a)), plain.distances(prediction, targets[[0, 7, 3]]), rtol=1e-5)


def test_what_is_kept_is_not_computed_again(targets):
    loss = loss_with(FeatureCache(1))
    first = take(loss, targets, 4, 2)
    assert loss.cache is not None

    def never(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        raise AssertionError("computed again")

    assert equal(list(loss.cache.features(never, torch.zeros(2, 3, 32, 32), np.array([4, 2]))), first)
    assert equal([t.flip(0) for t in take(loss, targets, 2, 4)], first)


def test_a_small_budget_keeps_the_first_pairs_whatever_comes_first(targets, row_gb):
    heard: list[Event] = []
    loss, plain = loss_with(FeatureCache(3.5 * row_gb, say=heard.append)), loss_with(None)
    for indices in ((9, 2, 11, 0), (10, 8), (1, 2, 0), (1, 5, 2)):
        for got, expected in zip(take(loss, targets, *indices), plain.features(targets[list(indices)]), strict=True):
            assert torch.allclose(got, expected, atol=1e-5)
    assert loss.cache is not None and sorted(loss.cache.rows) == [0, 1, 2]
    assert len(heard) == 1 and heard[0].level == "warning" and "first 3 pairs" in heard[0].text


def test_a_budget_below_one_pair_keeps_none(targets):
    loss = loss_with(FeatureCache(1e-6))
    assert equal(take(loss, targets, 1, 0), list(loss_with(None).features(targets[[1, 0]])))
    assert loss.cache is not None and not loss.cache.rows


def test_half_precision_keeps_twice_as_many_and_errs_little(targets, row_gb):
    half, plain = loss_with(FeatureCache(3.5 * row_gb, "fp16")), loss_with(None)
    prediction = targets + 0.1 * images(32, PAIRS, seed=9)[0]
    got = half.distances(prediction, tuple(take(half, targets, *range(PAIRS))))
    expected = plain.distances(prediction, targets)
    assert half.cache is not None and len(half.cache.rows) == 7
    assert torch.allclose(got, expected, rtol=1e-3) and not torch.equal(got, expected)


def test_without_indices_nothing_is_kept(targets):
    loss = loss_with(FeatureCache(1))
    loss.features(targets)
    loss(targets, targets)
    assert loss.cache is not None and not loss.cache.rows


def test_a_resumed_run_with_a_cache_ends_with_the_same_bits(tmp_path, row_gb, monkeypatch):
    used: list[int] = []

    class Counted(FeatureCache):
        def features(self, *arguments):
            out = super().features(*arguments)
            used.append(len(self.rows))
            return out

    monkeypatch.setattr(lpips, "FeatureCache", Counted)
    weights = tmp_path / "trunk.pth"
    torch.save(package("squeeze")[1], weights)
    pairs = write_pairs(tmp_path / "pairs", count=12)
    settings = tiny(loss__name="lpips", loss__lpips__net="squeeze", loss__lpips__weights=weights, loss__lpips__resolution=32,
                    loss__lpips__cache_gb=7.5 * row_gb, steps=6, checkpoint_every=2, log_every=1)

    def stop(event: Event) -> None:
        if event.done == 3:
            signal.raise_signal(signal.SIGTERM)

    train(pairs, tmp_path / "whole", settings)
    with pytest.raises(Interrupted):
        train(pairs, tmp_path / "cut", settings, say=stop)
    train(pairs, tmp_path / "cut", settings)
    assert same_runs(tmp_path / "whole", tmp_path / "cut")
    assert len(used) == 12 and max(used) == 7  # every step of both runs, the first pairs that fit
