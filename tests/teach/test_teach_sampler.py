"""The sampler against the closed form of a Gaussian data set, and EDM's published noise levels."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from edgedit.core.errors import NumericsError, UsageError
from edgedit.teach.sampler import evaluations, heun, sigmas

LEVELS = [80, 57.59, 40.79, 28.37, 19.35, 12.91, 8.401, 5.315, 3.257, 1.923, 1.088, 0.5853, 0.2964, 0.1395, 0.05995, 0.02293,
          0.007528, 0.002, 0]


class Gaussian:
    """The exact denoiser of data ~ N(mu, s² I)."""

    def __init__(self, mu: torch.Tensor, s: float) -> None:
        self.mu, self.s, self.asked = mu, s, []

    def __call__(self, x, sigma, labels):
        assert x.dtype == torch.float64
        self.asked.append(sigma)
        return (self.s**2 * x + sigma**2 * self.mu) / (self.s**2 + sigma**2)

    def flow(self, x, start: float, end: float):
        """Where the probability-flow ODE takes x from noise level start to end."""
        return self.mu + (x - self.mu) * math.sqrt((self.s**2 + end**2) / (self.s**2 + start**2))


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(6, 1, 4, 4, generator=generator)
    return Gaussian(torch.randn(1, 4, 4, generator=generator, dtype=torch.float64), 0.5), z, torch.zeros(6, dtype=torch.int64)


def test_levels() -> None:
    seen = sigmas()
    assert seen.dtype == torch.float64
    assert seen.tolist() == pytest.approx(LEVELS, rel=5e-4)
    assert seen[-2].item() == pytest.approx(0.002, rel=1e-12) and seen[0].item() == pytest.approx(80, rel=1e-12)
    for wrong in ((1,), (18, 0.0), (18, 3.0, 2.0), (18, 0.002, 80.0, 0.0)):
        with pytest.raises(UsageError):
            sigmas(*wrong)


def test_thirty_five_evaluations_in_order(case) -> None:
    teacher, z, labels = case
    heun(teacher, z, sigmas(), labels)
    assert len(teacher.asked) == 35 == evaluations(18)
    levels = sigmas()[:-1].tolist()
    assert teacher.asked == [levels[0], *[s for level in levels[1:] for s in (level, level)]]


def test_second_order(case) -> None:
    teacher, z, labels = case
    errors = []
    for steps in (32, 64, 128, 256):
        levels = sigmas(steps)
        path: list[torch.Tensor] = []
        heun(teacher, z, levels, labels, path=path)
        errors.append((path[-2] - teacher.flow(path[0], 80, levels[-2].item())).abs().max().item())
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert all(1.8 < order < 2.3 for order in orders), (errors, orders)


def test_path_and_end(case) -> None:
    teacher, z, labels = case
    path: list[torch.Tensor] = []
    end = heun(teacher, z, sigmas(256), labels, path=path)
    assert len(path) == 257 and torch.equal(path[-1], end) and end.dtype == torch.float64
    assert torch.equal(path[0], z.double() * sigmas(256)[0])
    assert torch.allclose(end, teacher.flow(path[0], 80, 0), atol=1e-3)


def test_a_point_is_reached_exactly() -> None:
    y = torch.rand(1, 1, 3, 3, dtype=torch.float64)
    end = heun(lambda x, sigma, labels: y.expand_as(x), torch.randn(2, 1, 3, 3), sigmas(), torch.zeros(2, dtype=torch.int64))
    assert torch.allclose(end, y.expand_as(end), rtol=0, atol=1e-15)


def test_nan_is_an_error(case) -> None:
    _, z, labels = case
    with pytest.raises(NumericsError):
        heun(lambda x, sigma, labels: x * float("nan"), z, sigmas(), labels)
