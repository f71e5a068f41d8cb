"""What a number is called."""

from __future__ import annotations

import pytest

from edgedit.evaluate.names import LITERATURE, metric_name, protocol, thousands

PUBLISHED = {"kind": "published", "tap": "2048"}
STEM = {"kind": "stem", "tap": "768"}
CUSTOM = {"kind": "custom", "tap": "2048"}


@pytest.mark.parametrize(("metric", "count", "extractor", "name"), [
    ("fid", 50_000, PUBLISHED, "FID"), ("fid", 60_000, PUBLISHED, "FID"), ("fid", 49_999, PUBLISHED, "FID-49.999k"),
    ("fid", 5_000, PUBLISHED, "FID-5k"), ("fid", 400, PUBLISHED, "FID-0.4k"),
    ("fid", 50_000, STEM, "FID-768"), ("fid", 1_500, STEM, "FID-768-1.5k"), ("fid", 50_000, {**PUBLISHED, "tap": "192"}, "FID-192"),
    ("fid", 50_000, CUSTOM, "Fréchet-custom-2048"), ("fid", 5_000, CUSTOM, "Fréchet-custom-2048-5k"),
    ("is", 50_000, PUBLISHED, "IS"), ("is", 5_000, {**PUBLISHED, "tap": "768"}, "IS-5k"), ("is", 50_000, CUSTOM, "IS-custom"),
    ("kid", 50_000, PUBLISHED, "KID"), ("kid", 1_000, STEM, "KID-768-1k"), ("precision", 50_000, PUBLISHED, "precision-2048"),
    ("recall", 2_000, STEM, "recall-768-2k"), ("accuracy", 100, None, "accuracy")])
def test_names(metric, count, extractor, name):
    assert metric_name(metric, count, extractor) == name


def test_only_one_protocol_is_that_of_the_papers():
    train = {"name": "cifar10", "split": "train"}
    assert protocol(PUBLISHED, train, 50_000, 50_000) == LITERATURE
    assert protocol(PUBLISHED, {**train, "split": "test"}, 10_000, 50_000) == "tf1-compat/test10k/uint8/50k"
    assert protocol(STEM, train, 1_000, 1_000) == "stem-768/tf1-compat/train1k/uint8/1k"
    assert protocol(CUSTOM, train, 50_000, 50_000) == "custom-2048/" + LITERATURE
    assert protocol(PUBLISHED, {"name": "stats.npz"}, None, 50_000) == "tf1-compat/stats.npz/uint8/50k"
    assert protocol(PUBLISHED, None, None, 5_000) == "tf1-compat/none/uint8/5k"


def test_thousands():
    assert [thousands(n) for n in (50_000, 1_234, 1, 1_000_000)] == ["50k", "1.234k", "0.001k", "1000k"]
