"""The ideal teacher against a direct float64 computation, and its shortcuts against itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedit.core.errors import UsageError
from edgedit.core.noise import noise
from edgedit.core.pairset import to_uint8
from edgedit.teach import ideal
from edgedit.teach.data import ImageSet, load_data
from edgedit.teach.ideal import IdealTeacher
from edgedit.teach.sampler import heun, sigmas
from edgedit.teach.trajectory import Trajectory

LEVELS = [80.0, 20.0, 5.0, 1.0, 0.3, 0.06, 0.01, 0.002]


def direct(data: ImageSet, x: torch.Tensor, sigma: float, labels: torch.Tensor) -> torch.Tensor:
    """The posterior mean by its definition, distances from differences, float64."""
    planes = torch.from_numpy(data.images.transpose(0, 3, 1, 2).astype(np.float64) / 127.5 - 1)
    out = []
    for row, label in zip(x.double(), labels.tolist(), strict=True):
        y = planes[torch.from_numpy(data.labels == label)]
        weights = torch.softmax(-(row - y).flatten(1).square().sum(1) / (2 * sigma**2), 0)
        out.append((weights[:, None, None, None] * y).sum(0))
    return torch.stack(out)


def images(n: int, side: int, channels: int, classes: int, seed: int = 0) -> ImageSet:
    """Images about a few prototypes, so that some lie close together, as in real data."""
    rng = np.random.default_rng(seed)
    prototypes = rng.integers(0, 256, (8, side, side, channels))
    pixels = prototypes[rng.integers(0, 8, n)] + rng.normal(0, 25, (n, side, side, channels))
    return ImageSet("made", np.clip(pixels, 0, 255).astype(np.uint8), np.arange(n, dtype=np.int64) % classes,
                    tuple("abcdefgh"[:classes]))


@pytest.fixture(scope="module")
def large() -> ImageSet:
    """Enough values for the float32 path."""
    return images(800, 32, 3, 2)


def states(data: ImageSet, sigma: float, rows: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of the set plus noise of the level, in float64."""
    z = torch.from_numpy(noise(1, range(rows), data.shape)).double()
    chosen = torch.from_numpy(data.images[7 : 7 + rows].transpose(0, 3, 1, 2).astype(np.float64) / 127.5 - 1)
    return chosen + sigma * z, torch.from_numpy(data.labels[7 : 7 + rows])


@pytest.mark.parametrize("sigma", LEVELS)
def test_equals_the_definition(large, sigma: float) -> None:
    assert large.images[0].size * 400 > ideal._WORTH
    for data in (large, images(60, 4, 1, 3)):
        x, labels = states(data, sigma)
        seen = IdealTeacher.of(data).denoise(x, sigma, labels)
        assert seen.shape == x.shape and seen.dtype == torch.float64
        assert (seen - direct(data, x, sigma, labels)).abs().max() < 1e-5


def test_digits_equal_the_definition() -> None:
    data = load_data("digits")
    teacher = IdealTeacher.of(data)
    for sigma in LEVELS:
        x, labels = states(data, sigma)
        assert (teacher.denoise(x, sigma, labels) - direct(data, x, sigma, labels)).abs().max() < 1e-9


@pytest.mark.parametrize("side", [4, 32])
def test_images_one_level_apart_at_the_smallest_noise(side: int) -> None:
    """|y - y'|²/2σ² is 7.7 here; float32 distances would be off by thousands."""
    data = images(400, side, 3, 1)
    pixels = data.images.copy()
    pixels[1], pixels[2] = pixels[0], pixels[0]
    pixels[1, 0, 0, 0] ^= 1
    data = ImageSet("near", pixels, data.labels, data.class_names)
    y = torch.from_numpy(pixels[:2].transpose(0, 3, 1, 2) / 127.5 - 1)
    x = torch.stack([y[0], y[1], y.mean(0)])
    labels = torch.zeros(3, dtype=torch.int64)
    seen, wanted = IdealTeacher.of(data).denoise(x, 0.002, labels), direct(data, x, 0.002, labels)
    assert (seen - wanted).abs().max() < 1e-7
    assert (seen[2] - y[0]).abs().max() > 1e-3  # a true mixture: two copies of one, one of the other


def test_far_away_states_are_safe(large) -> None:
    teacher = IdealTeacher.of(large)
    x, labels = states(large, 80.0)
    for sigma in (80.0, 1.0, 0.002):
        seen = teacher.denoise(x * 1e3, sigma, labels)
        assert torch.isfinite(seen).all() and (seen - direct(large, x * 1e3, sigma, labels)).abs().max() < 1e-3


def test_blocks_and_other_rows_do_not_matter(large, monkeypatch) -> None:
    x, labels = states(large, 3.0, 8)
    whole = IdealTeacher.of(large).denoise(x, 3.0, labels)
    monkeypatch.setattr(ideal, "_BLOCK_BYTES", 70 * 3072 * 4)
    monkeypatch.setattr(ideal, "_SCORES", 1200)
    cut = IdealTeacher(*ideal.sorted_planes(large), keep_bytes=0)
    assert (cut.denoise(x, 3.0, labels) - whole).abs().max() < 1e-6
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    assert (cut.denoise(x[order], 3.0, labels[order]) - whole[order]).abs().max() < 1e-6
    assert cut.parts[0]._kept is None and max(len(y) for _, y in cut.parts[0].blocks(None, torch.float32)) == 70


def test_lowered_precision_elsewhere_does_not_leak_in(large) -> None:
    x, labels = states(large, 5.0)
    teacher = IdealTeacher.of(large)
    before = teacher.denoise(x, 5.0, labels)
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(teacher.denoise(x, 5.0, labels), before)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_wrong_input(large) -> None:
    teacher = IdealTeacher.of(large)
    x, labels = states(large, 1.0)
    for call in (lambda: teacher.denoise(x, 0.0, labels), lambda: teacher.denoise(x, float("nan"), labels),
                 lambda: teacher.denoise(x[:, :1], 1.0, labels), lambda: teacher.denoise(x, 1.0, labels[:2]),
                 lambda: teacher.denoise(x, 1.0, labels + 5)):
        with pytest.raises(UsageError):
            call()


def test_identity_follows_the_content(large) -> None:
    other = ImageSet(large.name, large.images[::-1].copy(), large.labels, large.class_names)
    assert IdealTeacher.of(large).identity != IdealTeacher.of(other).identity


# --- along a run ----------------------------------------------------------------------------------------------------------


def test_a_run_with_bounds_equals_one_without(large) -> None:
    teacher = IdealTeacher.of(large)
    z = torch.from_numpy(noise(0, range(12), teacher.shape))
    labels = torch.arange(12) % 2
    asked = []

    def compare(x, sigma, labels):
        mean = run(x, sigma, labels)
        asked.append((mean - teacher.denoise(x, sigma, labels)).abs().max().item())
        return mean

    run = teacher.trajectory()
    assert isinstance(run, Trajectory)
    end = heun(compare, z, sigmas(), labels)
    assert len(asked) == 35 and max(asked) < 1e-5
    assert run.searched < 0.6 * 35 * 12 * 400  # most evaluations at small noise are decided by the bounds
    pixels = to_uint8(end.numpy())
    for image, label in zip(pixels, labels.tolist(), strict=True):  # each end is an image of its class, to the pixel
        assert (large.images[large.labels == label] == image).all((1, 2, 3)).any()


def test_decided_rows_are_exact(large) -> None:
    run = IdealTeacher.of(large).trajectory()
    labels = torch.zeros(4, dtype=torch.int64)
    x = heun(run, torch.from_numpy(noise(0, range(4), large.shape)), sigmas(), labels)
    searched = run.searched
    again = run(x + 0.001 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)), 0.001, labels)
    assert run.searched == searched and np.array_equal(to_uint8(again.numpy()), to_uint8(x.numpy()))
    levels = (again + 1) * 127.5
    assert (levels - levels.round()).abs().max() < 1e-10


def test_a_small_class_needs_no_bounds() -> None:
    teacher = IdealTeacher.of(images(40, 4, 1, 2))
    assert teacher.trajectory() == teacher.denoise


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 30), st.lists(st.floats(0.002, 80), min_size=2, max_size=8), st.integers(1, 30), st.booleans())
def test_any_calls_give_the_same(seed: int, levels: list[float], n: int, falling: bool) -> None:
    """Whatever states and levels follow one another, related or not, the bounds never leave out what matters."""
    generator = torch.Generator().manual_seed(seed)
    data = images(2 * n, 4, 1, 2, seed)
    teacher = IdealTeacher.of(data)
    run = Trajectory(teacher)
    x = torch.randn(5, 1, 4, 4, generator=generator, dtype=torch.float64) * levels[0]
    for sigma in sorted(levels, reverse=True) if falling else levels:
        labels = torch.tensor([0, 1, 0, 1, 1])
        mean = run(x, sigma, labels)
        assert (mean - teacher.denoise(x, sigma, labels)).abs().max() < 1e-9
        share = torch.rand(5, 1, 1, 1, generator=generator, dtype=torch.float64)
        x = mean + share * sigma * torch.randn(x.shape, generator=generator, dtype=torch.float64)
