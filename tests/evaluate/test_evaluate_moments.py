"""Streamed moments against numpy, the Fréchet distance against closed forms and scipy's matrix square root, statistics files."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedit.core.errors import ArtifactError, NumericsError, UsageError
from edgedit.evaluate.moments import Moments, frechet
from edgedit.evaluate.statistics import Statistics, cache_file, holds_statistics, load_statistics, save_statistics


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_moments_of_parts_are_those_of_the_whole(sizes, seed):
    rng = np.random.default_rng(seed)
    x = (rng.normal(3e3, 1, (sum(sizes) + 1, 5))).astype(np.float32)  # far from 0: a sum of squares would lose it
    parts = np.split(x, np.cumsum(sizes))
    total = Moments.of(parts[0])
    for part in parts[1:]:
        total = total + Moments.of(part)
    assert total.n == len(x)
    np.testing.assert_allclose(total.mean, x.astype(np.float64).mean(0), rtol=1e-13)
    np.testing.assert_allclose(total.covariance, np.cov(x.astype(np.float64), rowvar=False), atol=1e-7)


def test_bad_rows():
    with pytest.raises(NumericsError, match="1 of 4"):
        Moments.of(np.array([[1.0, 2.0], [np.nan, 1.0]]))
    with pytest.raises(UsageError, match="two images"):
        _ = Moments.of(np.ones((1, 3))).covariance


def test_frechet_closed_forms():
    """Diagonal covariances: |Δm|² + Σ (√a - √b)²."""
    a, b, m = np.array([4.0, 1.0, 9.0]), np.array([1.0, 1.0, 16.0]), np.array([1.0, 2.0, 0.0])
    assert frechet(m, np.diag(a), np.zeros(3), np.diag(b)) == pytest.approx(5 + 1 + 0 + 1, abs=1e-12)
    assert frechet(m, np.diag(a), m, np.diag(a)) == pytest.approx(0, abs=1e-12)
    with pytest.raises(NumericsError, match="not finite"):
        frechet(m, np.full((3, 3), np.inf), m, np.diag(b))


def test_frechet_against_scipys_square_root():
    linalg = pytest.importorskip("scipy.linalg")
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, (60, 12)) @ rng.normal(0, 1, (12, 12)), rng.normal(0.5, 1, (60, 12))
    c1, c2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = linalg.sqrtm(c1 @ c2).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(c1 + c2 - 2 * root)
    assert frechet(x.mean(0), c1, y.mean(0), c2) == pytest.approx(expected, rel=1e-10)


def test_frechet_without_full_rank_is_the_limit():
    """Five rows of twenty features: the distance to itself is 0 and adding ε·1 moves it by little, as it must."""
    rng = np.random.default_rng(1)
    c1, c2 = (np.cov(rng.normal(0, 1, (5, 20)), rowvar=False) for _ in range(2))
    m = np.zeros(20)
    assert frechet(m, c1, m, c1) == pytest.approx(0, abs=1e-6)
    eps = 1e-12 * np.eye(20)
    assert frechet(m, c1, m, c2) == pytest.approx(frechet(m, c1 + eps, m, c2 + eps), abs=1e-4)


def test_statistics_round_trip(tmp_path):
    features = np.random.default_rng(0).normal(0, 1, (7, 4)).astype(np.float32)
    moments = Moments.of(features)
    kept = Statistics(moments.mean, moments.covariance, 7, {"name": "x", "split": "train"}, features)
    save_statistics(tmp_path / "deep" / "s.npz", kept)
    found = load_statistics(tmp_path / "deep" / "s.npz")
    np.testing.assert_array_equal(found.covariance, kept.covariance)
    np.testing.assert_array_equal(found.features, features)
    assert (found.n, found.facts["split"], found.width) == (7, "train", 4)


@pytest.mark.parametrize("key", ["sigma", "cov"])
def test_statistics_of_other_tools(tmp_path, key):
    np.savez(tmp_path / "cifar10-32x32.npz", **{"mu": np.zeros(3, np.float32), key: np.eye(3)})
    found = load_statistics(tmp_path / "cifar10-32x32.npz")
    assert found.n is None and found.facts["name"] == "cifar10-32x32.npz" and len(found.facts["sha256"]) == 64
    assert holds_statistics(tmp_path / "cifar10-32x32.npz")


@pytest.mark.parametrize(("arrays", "error"), [
    ({"mu": np.zeros(3)}, "holds no statistics"), ({"mu": np.zeros(3), "sigma": np.eye(2)}, "do not belong together"),
    ({"mu": np.zeros(0), "sigma": np.eye(0)}, "do not belong together"), ({"mu": np.array(["x"]), "sigma": np.eye(1)}, "cannot be read"),
    ({"mu": np.array([{}], dtype=object), "sigma": np.eye(1)}, "cannot be read"),
    ({"mu": np.zeros(1), "sigma": np.eye(1), "facts": np.array("{")}, "cannot be read")])
def test_bad_statistics(tmp_path, arrays, error):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ArtifactError, match=error):
        load_statistics(tmp_path / "x.npz")


def test_statistics_that_are_not_finite(tmp_path):
    np.savez(tmp_path / "x.npz", mu=np.array([np.nan]), sigma=np.eye(1))
    with pytest.raises(NumericsError):
        load_statistics(tmp_path / "x.npz")


@given(st.binary(max_size=200), st.integers(0, 600), st.booleans())
@settings(deadline=None, max_examples=60)
def test_files_of_any_bytes_are_read_or_refused(tmp_path_factory, raw, cut, prefix):
    """Garbage, and a good file cut anywhere: an ArtifactError, nothing else."""
    folder = tmp_path_factory.mktemp("fuzz")
    save_statistics(folder / "good.npz", Statistics(np.zeros(2), np.eye(2), 3, {}))
    whole = (folder / "good.npz").read_bytes()
    (folder / "x.npz").write_bytes(whole[: min(cut, len(whole) - 30)] + raw if prefix else raw)
    with pytest.raises(ArtifactError):
        load_statistics(folder / "x.npz")


def test_the_cache_key_is_data_and_extractor_not_the_place(tmp_path):
    data = {"name": "cifar10", "sha256": "a", "count": 9, "used": 9}
    extractor = {"sha256": "e", "tap": "768", "resize": "r", "file": "x.pt"}
    file = cache_file(tmp_path, data, extractor)
    assert file.name.startswith("cifar10-768-") and file == cache_file(tmp_path, {**data, "origin": "here"}, {**extractor, "file": "y"})
    others = [cache_file(tmp_path, {**data, "sha256": "b"}, extractor), cache_file(tmp_path, {**data, "used": 5}, extractor),
              cache_file(tmp_path, data, {**extractor, "sha256": "f"}), cache_file(tmp_path, {**data, "subset_seed": 1}, extractor)]
    assert len({file, *others}) == 5
