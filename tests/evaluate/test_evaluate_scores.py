"""Classifier, confusions, spread, and nearness to training images, on cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluate_kit import CIFAR, SHARED, pictures, random_classifier

from edgedit.core.errors import ArtifactError, MissingError, UsageError
from edgedit.evaluate.classifier import Block, Classifier
from edgedit.evaluate.pixels import Apart, Nearest
from edgedit.evaluate.scores import accuracy, nearest, spread
from edgedit.evaluate.sources import ArraySource

CPU = torch.device("cpu")
RESNET = SHARED / "resnet20-12fca82f.th"


def test_accuracy_and_confusions():
    asked, taken = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 2])
    found = accuracy(taken, asked, ("a", "b", "c"))
    assert found.value == pytest.approx(3 / 5) and found.uncertainty == pytest.approx((0.6 * 0.4 / 5) ** 0.5)
    assert found.details["confusion"] == [[1, 1, 0], [0, 2, 1], [0, 0, 0]]
    assert found.details["per_class"] == {"a": 0.5, "b": pytest.approx(2 / 3)}  # no image of c was asked for


def test_the_shortcut_of_option_a():
    """Every second pixel, channels padded with zeros on both sides: with the convolutions at 0 the block is that alone."""
    block = Block(16, 32).eval()
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.rand(2, 16, 8, 8)
    y = block(x)
    assert y.shape == (2, 32, 4, 4)
    torch.testing.assert_close(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any() and not y[:, 24:].any()


@pytest.mark.skipif(not (RESNET.is_file() and CIFAR.is_dir()), reason="no CIFAR-10 or no classifier in shared/data")
def test_the_real_classifier_reads_real_images():
    """resnet20 is right on 91.7 % of the test images; 200 of them say so within three standard errors (0.06)."""
    from edgedit.teach.cifar import find_cifar10, read_cifar10

    images, labels, names = read_cifar10(find_cifar10(CIFAR), "test")
    judge = Classifier(RESNET, CPU)
    rows = judge.rows(images[:200], labels[:200])
    assert judge.name == "resnet20" and judge.classes == 10
    assert accuracy(rows["predicted"], rows["labels"], names).value > 0.86
    swapped = judge.rows(images[:200, ..., ::-1], labels[:200])  # the wrong order of colours costs accuracy
    assert (swapped["predicted"] == labels[:200]).mean() < (rows["predicted"] == labels[:200]).mean()


def test_wrong_classifier_files(tmp_path):
    good = torch.load(random_classifier(tmp_path / "good.th"), weights_only=True)["state_dict"]
    assert Classifier(tmp_path / "good.th", CPU).name == "resnet8"
    torch.save({"state_dict": {**good, "module.layer2.0.shortcut.0.weight": torch.zeros(1)}}, tmp_path / "b.th")
    with pytest.raises(ArtifactError, match="option A"):
        Classifier(tmp_path / "b.th", CPU)
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.th")
    with pytest.raises(ArtifactError, match="is no CIFAR ResNet"):
        Classifier(tmp_path / "other.th", CPU)
    with pytest.raises(MissingError):
        Classifier(tmp_path / "absent.th", CPU)
    with pytest.raises(UsageError, match="32×32"):
        Classifier(tmp_path / "good.th", CPU).rows(pictures(2, side=16), np.zeros(2, np.int64))


def test_nearest_is_exact(monkeypatch):
    import edgedit.evaluate.pixels as pixels

    monkeypatch.setattr(pixels, "_BLOCK", 7)
    train, images = pictures(30, 1), pictures(9, 2)
    images[4] = train[23]
    images[5] = np.clip(train[29].astype(int) + 1, 0, 255)
    rows = Nearest(ArraySource("train", train), CPU).rows(images, None)
    away = np.sqrt(np.square(images[:, None].astype(int) - train[None]).mean((2, 3, 4)))
    np.testing.assert_array_equal(rows["nearest_index"], away.argmin(1))
    np.testing.assert_allclose(rows["nearest"], away.min(1))
    assert rows["nearest"][4] == 0 and rows["nearest_index"][5] == 29
    with pytest.raises(UsageError, match="one size"):
        Nearest(ArraySource("train", train), CPU).rows(pictures(1, side=16), None)


def test_copies_stand_out():
    held_out = np.linspace(20, 60, 1001)
    alike = nearest(np.linspace(20, 60, 500), held_out)
    assert alike.details["copies"] == pytest.approx(0.01, abs=0.003) and alike.details["nearer_than_real"] == pytest.approx(0.5, abs=0.01)
    copied = nearest(np.zeros(50), held_out)
    assert (copied.value, copied.details["copies"], copied.details["exact_copies"], copied.details["nearer_than_real"]) == (0, 1, 1, 1)
    far = nearest(np.full(50, 99.0), held_out)
    assert far.details["nearer_than_real"] == 0 == far.details["copies"]
    assert "copies" not in nearest(np.ones(3), None).details


def test_spread_is_not_taken_in_by_neighbours_that_are_alike():
    """As the digits of one writer, which follow one another: each second image repeats the one before."""
    rng = np.random.default_rng(0)
    once = rng.integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
    twice, labels = np.repeat(once, 2, axis=0), np.zeros(80, np.int64)
    apart = [np.nanmean(Apart(by_class=True).rows(some, labels[: len(some)])["apart"]) for some in (once, twice)]
    assert apart[1] == pytest.approx(apart[0], rel=0.1)


def test_spread_is_the_ratio_of_standard_deviations_inside_classes():
    """Classes far apart do not count; half the deviation inside them gives 0.5, a single image 0."""
    rng = np.random.default_rng(0)
    labels = np.arange(400) % 2
    centre = 60 + 120 * labels[:, None, None, None]

    def images(deviation):
        return np.clip(centre + rng.normal(0, deviation, (400, 8, 8, 3)), 0, 255).astype(np.uint8)

    probe = Apart(by_class=True)
    wide, half, same = (probe.rows(images(d), labels)["apart"] for d in (16, 8, 0))
    assert spread(half, wide, by_class=True).value == pytest.approx(0.5, rel=0.02)
    assert spread(same, wide, by_class=True).value == 0
    any_class = Apart(by_class=False).rows(images(8), labels)["apart"]
    assert spread(any_class, wide, by_class=False).value > 2
    assert np.isnan(probe.rows(pictures(3), np.array([0, 0, 1]))["apart"]).tolist() == [False, False, True]
    with pytest.raises(UsageError, match="two different images"):
        spread(wide, same, by_class=True)
