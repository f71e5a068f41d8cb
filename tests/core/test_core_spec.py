from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedit.core.errors import UsageError
from edgedit.core.spec import DiTSpec, divisors

# depth, width, heads, full, trainable, folded, block GMAC: the paper's Table 6 designs, the MI1 base (science.md §4.2)
TABLE = [
    (1, 128, 8, 416_652, 383_884, 245_004, 0.067),
    (2, 96, 8, 415_308, 390_732, 264_684, 0.082),
    (5, 64, 4, 421_068, 404_684, 289_164, 0.105),
    (5, 64, 8, 421_068, 404_684, 289_164, 0.105),
    (9, 48, 6, 413_148, 400_860, 295_788, 0.120),
    (21, 32, 4, 417_900, 409_708, 318_156, 0.154),
    (3, 192, 12, 2_215_884, 2_166_732, 1_428_492, 0.415),
    (7, 128, 8, 2_197_644, 2_164_876, 1_482_252, 0.470),
    (13, 96, 8, 2_255_916, 2_231_340, 1_560_396, 0.532),
    (4, 256, 16, 5_071_884, 5_006_348, 3_300_108, 0.940),
    (16, 128, 8, 4_869_132, 4_836_364, 3_338_124, 1.07),
    (7, 192, 12, 4_881_612, 4_832_460, 3_255_564, 0.969),
    (6, 128, 8, 1_900_812, 1_868_044, 1_276_044, 0.403),
]


@pytest.mark.parametrize(("d", "w", "h", "full", "trainable", "folded", "gmac"), TABLE)
def test_counts_of_the_papers_designs(d: int, w: int, h: int, full: int, trainable: int, folded: int, gmac: float) -> None:
    spec = DiTSpec(d, w, h)
    assert (spec.parameters, spec.trainable_parameters, spec.deployed_parameters) == (full, trainable, folded)
    assert spec.block_macs / 1e9 == pytest.approx(gmac, abs=0.0055 if gmac >= 1 else 0.00055)


@given(
    st.integers(1, 12), st.integers(1, 16), st.sampled_from([1, 2, 4]), st.integers(1, 8), st.sampled_from([1, 3]),
    st.integers(1, 20), st.integers(1, 4),
)
def test_round_trip_and_positive_counts(d: int, w8: int, p: int, g: int, c: int, k: int, r: int) -> None:
    spec = DiTSpec(d, 8 * w8, 2, patch=p, image=p * g, channels=c, classes=k, mlp_ratio=r)
    assert DiTSpec.from_dict(spec.to_dict()) == spec
    assert spec.tokens == g * g
    assert 0 < spec.trainable_parameters < spec.parameters
    assert spec.flops == 2 * spec.macs > 0


@pytest.mark.parametrize(
    ("sizes", "word"),
    [
        ({"depth": 0}, "depth"), ({"heads": 7}, "heads"), ({"width": 62, "heads": 2}, "multiple of 4"), ({"image": 31}, "image"),
        ({"depth": 2.0}, "depth"), ({"classes": True}, "classes"),
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, int], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        DiTSpec(**{"depth": 5, "width": 64, "heads": 8, **sizes})


def test_unknown_size_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'width'"):
        DiTSpec.from_dict({"depth": 5, "widht": 64, "heads": 8})


def test_divisors() -> None:
    assert divisors(12) == [1, 2, 3, 4, 6, 12]
