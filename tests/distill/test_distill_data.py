from __future__ import annotations

import numpy as np
import pytest
import torch
from distill_kit import write_pairs
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedit.core.errors import UsageError
from edgedit.core.pairset import PairSet, to_float
from edgedit.distill.data import Batches
from edgedit.learn.order import batch_indices, chosen, epoch_order
from edgedit.learn.ranks import Ranks


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**64 - 1), count=st.integers(1, 200), batch=st.integers(1, 70))
def test_every_epoch_visits_every_pair_once(seed, count, batch):
    steps = -(-3 * count // batch)
    seen = np.concatenate([batch_indices(seed, k, batch, count) for k in range(steps)])[: 3 * count].reshape(3, count)
    for epoch, row in enumerate(seen):
        assert sorted(row) == list(range(count))
        assert np.array_equal(row, epoch_order(seed, epoch, count))


def test_order_differs_between_epochs_and_seeds_and_is_pinned():
    assert not np.array_equal(epoch_order(0, 0, 100), epoch_order(0, 1, 100))
    assert not np.array_equal(epoch_order(0, 0, 100), epoch_order(1, 0, 100))
    words = np.random.Philox(key=np.array([5, 1], np.uint64), counter=np.array([0, 0, 0, 2], np.uint64)).random_raw(9)
    assert epoch_order(5, 2, 9).tolist() == np.argsort(words).tolist()


def test_label_dropout_has_its_share_and_depends_on_the_step_alone():
    drops = np.concatenate([chosen(3, k, 256, 0.1) for k in range(400)])
    assert abs(drops.mean() - 0.1) < 4 * (0.09 / drops.size) ** 0.5
    assert len({row.tobytes() for row in drops.reshape(400, 256)}) == 400
    assert np.array_equal(chosen(3, 17, 256, 0.1), drops.reshape(400, 256)[17])
    assert not chosen(0, 0, 1000, 0.0).any() and chosen(0, 0, 1000, 1.0).all()


def test_batches_are_the_same_for_any_start_and_number_of_threads(pairs):
    data = PairSet.open(pairs)

    def run(start, loaders):
        with Batches(data, batch=8, seed=1, label_dropout=0.5).ahead(start, 12, loaders) as batches:
            return list(batches)

    whole, tail = run(0, 3), run(7, 1)
    assert [b.step for b in whole] == list(range(12))
    for a, b in zip(whole[7:], tail, strict=True):
        assert all(getattr(a, name).equal(getattr(b, name)) for name in ("noise", "labels", "classes", "images"))
        assert np.array_equal(a.indices, b.indices)


def test_a_batch_holds_the_pairs_it_names(pairs):
    data = PairSet.open(pairs)
    batch = Batches(data, batch=8, seed=1, label_dropout=0.4).make(5)
    indices = batch_indices(1, 5, 8, len(data))
    assert np.array_equal(batch.images.numpy(), to_float(data.images(indices)))
    assert np.array_equal(batch.noise.numpy(), data.noise(indices))
    assert np.array_equal(batch.classes.numpy(), data.labels(indices))
    drop = chosen(1, 5, 8, 0.4)
    assert 0 < drop.sum() < 8
    assert np.array_equal(batch.labels.numpy(), np.where(drop, data.classes, data.labels(indices)))


def test_half_of_the_visits_are_of_mirrored_pairs(pairs):
    data = PairSet.open(pairs)
    plain = [Batches(data, batch=8, seed=1, label_dropout=0.5).make(n) for n in range(40)]
    flipped = [Batches(data, batch=8, seed=1, label_dropout=0.5, flips=True).make(n) for n in range(40)]
    mirrored = np.stack([b.indices - a.indices for a, b in zip(plain, flipped, strict=True)])
    assert set(mirrored.ravel()) == {0, len(data)} and abs((mirrored > 0).mean() - 0.5) < 4 * (0.25 / mirrored.size) ** 0.5
    for a, b, rows in zip(plain, flipped, torch.from_numpy(mirrored > 0)[:, :, None, None, None], strict=True):
        assert a.labels.equal(b.labels) and a.classes.equal(b.classes)
        for name in ("noise", "images"):
            as_it_is = getattr(a, name)
            assert getattr(b, name).equal(torch.where(rows, as_it_is.flip(-1), as_it_is))
    assert len({row.tobytes() for row in mirrored}) > 30


def test_an_error_of_a_loader_thread_reaches_the_caller(tmp_path):
    data = PairSet.open(write_pairs(tmp_path / "p", 12))
    data.artifact.manifest.info["start"] = -100  # noise of a negative index is refused
    batches = Batches(data, batch=4, seed=0, label_dropout=0).ahead(0, 3)
    with pytest.raises(UsageError, match="noise index"), batches:
        list(batches)


@pytest.mark.parametrize("world", [2, 4])
def test_the_rows_of_all_ranks_make_the_whole_batch(pairs, world):
    data = PairSet.open(pairs)
    whole = Batches(data, batch=8, seed=1, label_dropout=0.5, flips=True).make(3)
    parts = [Batches(data, batch=8, seed=1, label_dropout=0.5, flips=True, ranks=Ranks(r, world)).make(3) for r in range(world)]
    for name in ("noise", "labels", "classes", "images"):
        assert torch.cat([getattr(p, name) for p in parts]).equal(getattr(whole, name))
    assert np.concatenate([p.indices for p in parts]).tolist() == whole.indices.tolist()
    for use in (0, 1):
        assert torch.cat([p.normal(use) for p in parts]).equal(whole.normal(use))
        assert torch.cat([p.uniform(use) for p in parts]).equal(whole.uniform(use))
    assert not whole.normal(0).equal(whole.normal(1))


def test_a_batch_that_the_ranks_do_not_divide_is_refused(pairs):
    with pytest.raises(UsageError, match=r"does not divide(.|\n)*--batch 9"):
        Batches(PairSet.open(pairs), batch=8, seed=1, label_dropout=0.5, ranks=Ranks(0, 3)).make(0)
