"""core.noise: layout against an independent Philox, independence of batch and process, distribution, golden values."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedit.core.errors import UsageError
from edgedit.core.noise import labels, noise

CIFAR = (3, 32, 32)
MASK = (1 << 64) - 1
GOLDEN = {  # (row of images 0, 1, 49,999 of seed 0; channel, y, x), from the float64 `reference` below
    (0, 0, 0, 0): 2.4330799, (0, 1, 15, 15): -0.8053226, (0, 1, 16, 16): 0.2539843, (0, 2, 31, 31): -0.0375646,
    (1, 0, 0, 0): -0.2483227, (1, 1, 15, 15): 2.3335910, (1, 1, 16, 16): -1.4665828, (1, 2, 31, 31): -0.0577986,
    (2, 0, 0, 0): -1.6109448, (2, 1, 15, 15): -0.0974917, (2, 1, 16, 16): -1.1902172, (2, 2, 31, 31): 1.2941107,
}


def philox4x64(counter: int, key: int) -> list[int]:
    """Philox4x64-10 in plain integers, written from Salmon et al. 2011 (figure and constants of section 4.1)."""
    c = [(counter >> (64 * k)) & MASK for k in range(4)]
    k0, k1 = key & MASK, key >> 64
    for _ in range(10):
        a, b = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
        c = [(b >> 64) ^ c[1] ^ k0, b & MASK, (a >> 64) ^ c[3] ^ k1, a & MASK]
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
    return c


def reference(seed: int, index: int, values: int) -> np.ndarray:
    """The documented layout in float64, from `philox4x64`."""
    blocks = -(-values // 8)
    words: list[int] = []
    for b in range(blocks):
        for word in philox4x64(index * blocks + b + 1, seed):
            words += [word & 0xFFFFFFFF, word >> 32]
    half = len(words) // 2
    radius = [math.sqrt(-2 * math.log((u + 0.5) * 2.0**-32)) for u in words[:half]]
    angle = [2 * math.pi * (u >> 8) * 2.0**-24 for u in words[half:]]
    cosines = [r * math.cos(a) for r, a in zip(radius, angle, strict=True)]
    sines = [r * math.sin(a) for r, a in zip(radius, angle, strict=True)]
    return np.array((cosines + sines)[:values])


def test_the_independent_philox_matches_a_published_answer():
    # Known-answer vector of the Random123 distribution for philox4x64-10: all-ones counter and key.
    ones = (1 << 256) - 1
    assert [f"{w:016x}" for w in philox4x64(ones, (1 << 128) - 1)] == [
        "87b092c3013fe90b", "438c3c67be8d0224", "9cc7d7c69cd777b6", "a09caebf594f0ba0"]


@pytest.mark.parametrize("seed, counter", [(0, 1), (1, 2), (20251121, 385), (MASK, (1 << 64) + 5)])
def test_numpy_draws_the_exact_words_of_philox(seed, counter):
    bits = np.random.Philox(key=seed, counter=counter - 1)
    assert bits.random_raw(4).tolist() == philox4x64(counter, seed)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, MASK), index=st.integers(0, (1 << 48) - 1),
       shape=st.sampled_from([(1,), (5,), (8,), (1, 3, 3), (1, 8, 8), (3, 5, 7)]))
def test_values_follow_the_documented_layout(seed, index, shape):
    made = noise(seed, [index], shape)
    assert made.shape == (1, *shape) and made.dtype == np.float32
    # float32 keeps an angle near 2π to 2.4e-7 and a radius near 6 to 2.4e-7; sin and cos carry the first times the radius
    np.testing.assert_allclose(made.reshape(-1), reference(seed, index, math.prod(shape)), atol=8e-6)


def test_golden_values():
    made = noise(0, [0, 1, 49_999], CIFAR)
    for (row, channel, y, x), value in GOLDEN.items():
        assert made[row, channel, y, x] == pytest.approx(value, abs=1e-6)




@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, MASK), indices=st.lists(st.integers(0, 60) | st.integers(0, (1 << 48) - 1), max_size=40),
       cuts=st.lists(st.integers(0, 40), max_size=4), shape=st.sampled_from([(1,), (7,), (3, 4, 4), (1, 40, 40), (3, 64, 64)]))
def test_a_row_does_not_depend_on_its_batch(seed, indices, cuts, shape):
    whole = noise(seed, indices, shape)
    edges = sorted({0, len(indices), *(min(c, len(indices)) for c in cuts)})
    parts = [noise(seed, indices[a:b], shape) for a, b in itertools.pairwise(edges)]
    np.testing.assert_array_equal(whole, np.concatenate(parts) if parts else whole)
    for n, index in list(enumerate(indices))[:3]:
        np.testing.assert_array_equal(whole[n], noise(seed, [index], shape)[0])


def test_runs_and_scattered_numbers_across_chunk_borders():
    order = np.random.default_rng(3).permutation(300)
    np.testing.assert_array_equal(noise(7, range(300), CIFAR)[order], noise(7, order, CIFAR))
    mixed = [*range(17), 5, 5, 6, *range(100, 140), 3]
    np.testing.assert_array_equal(noise(7, mixed, CIFAR), np.stack([noise(7, [i], CIFAR)[0] for i in mixed]))


def _digest(task: tuple[int, int, int]) -> bytes:
    seed, first, last = task
    return noise(seed, range(first, last), CIFAR).tobytes()


def test_processes_agree():
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        parts = pool.map(_digest, [(11, 0, 13), (11, 13, 14), (11, 14, 40)])
    assert b"".join(parts) == noise(11, range(40), CIFAR).tobytes()


def test_moments_and_distribution():
    from scipy import stats

    made = noise(2024, range(512), CIFAR)
    flat = made.reshape(-1).astype(np.float64)
    n = flat.size
    assert abs(flat.mean()) < 4 / math.sqrt(n)
    assert abs(flat.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs(stats.skew(flat)) < 4 * math.sqrt(6 / n)
    assert abs(stats.kurtosis(flat)) < 4 * math.sqrt(24 / n)
    assert stats.kstest(flat, "norm").pvalue > 0.01
    assert np.isfinite(flat).all() and np.abs(flat).max() < 6.8  # sqrt(-2 ln 2⁻³³) = 6.76 bounds the radius


def test_neither_pixels_nor_images_nor_seeds_are_correlated():
    made = noise(5, range(400), (1, 16, 16)).reshape(400, 256)
    other = noise(6, range(400), (1, 16, 16)).reshape(400, 256)
    limit = 5 / math.sqrt(made.size)
    assert abs((made[:-1] * made[1:]).mean()) < limit  # neighbouring images
    assert abs((made[:, :128] * made[:, 128:]).mean()) < limit  # cosine and sine halves share a radius
    assert abs((made * other).mean()) < limit  # neighbouring seeds
    assert abs((made[:, :128] ** 2 * made[:, 128:] ** 2).mean() - 1) < 5 * math.sqrt(8 / made[:, :128].size)


def test_the_largest_radius_and_the_smallest_are_finite():
    from edgedit.core import noise as module

    words = np.array([[0, 0xFFFFFFFF, 0, 0xFFFFFFFF]], np.uint32)
    out = np.empty((1, 4), np.float32)
    module._box_muller(words, out, np.empty((3, 2), np.float32))
    assert np.isfinite(out).all() and abs(out[0, 0]) == pytest.approx(math.sqrt(2 * 33 * math.log(2)), rel=1e-6)


def test_out_is_filled_in_place():
    buffer = np.full((6, *CIFAR), np.nan, np.float32)
    made = noise(3, range(4), CIFAR, out=buffer[:4])
    assert np.shares_memory(made, buffer)
    np.testing.assert_array_equal(buffer[:4], noise(3, range(4), CIFAR))
    assert np.isnan(buffer[4:]).all()


@pytest.mark.parametrize("out", [np.empty((3, *CIFAR), np.float32), np.empty((4, *CIFAR), np.float64),
                                 np.empty((4, 3, 32, 64), np.float32)[..., ::2]])
def test_an_out_that_does_not_fit_is_refused(out):
    with pytest.raises(UsageError, match="out must be contiguous float32"):
        noise(0, range(4), CIFAR, out=out)


def test_no_images_is_an_empty_array():
    assert noise(0, [], CIFAR).shape == (0, *CIFAR)


def test_memory_beyond_the_result_is_bounded():
    tracemalloc.start()
    try:
        made = noise(0, range(2000), CIFAR)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak - made.nbytes < 1 << 20


@pytest.mark.parametrize("seed", [-1, 1 << 64])
def test_seed_out_of_range(seed):
    with pytest.raises(UsageError, match="seed"):
        noise(seed, [0], CIFAR)


@pytest.mark.parametrize("indices", [[-1], [0, 1 << 48], [1 << 63], [1 << 80], np.array([1 << 63], np.uint64), [0.5], ["1"],
                                     [True]])
def test_index_out_of_range_or_not_whole(indices):
    with pytest.raises(UsageError, match="index"):
        noise(0, indices, CIFAR)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 4), (-1, -4)])
def test_empty_shape(shape):
    with pytest.raises(UsageError, match="shape"):
        noise(0, [0], shape)


def test_the_ends_of_the_ranges_work():
    made = noise(MASK, [(1 << 48) - 1, 0], CIFAR)
    np.testing.assert_allclose(made[0].reshape(-1), reference(MASK, (1 << 48) - 1, 3072), atol=8e-6)


@given(first=st.integers(0, 1000), classes=st.integers(1, 100))
def test_labels_are_balanced(first, classes):
    made = labels(0, range(first, first + classes), classes)
    assert made.dtype == np.int32 and sorted(made.tolist()) == list(range(classes))
