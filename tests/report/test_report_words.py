"""Numbers in words."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedit.report import words

finite = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e30, max_value=1e30)


def back(text: str) -> float:
    """The value that a written number stands for."""
    text = text.replace("−", "-").replace(",", "").replace(words.SPACE, "")
    mantissa, _, power = text.partition("×10")
    return float(mantissa) * 10.0 ** int(power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")) or 0)


@given(finite, st.integers(1, 8))
def test_number_reads_back_within_its_digits(value: float, digits: int) -> None:
    text = words.number(value, digits)
    if abs(value) < 1e-300:
        return
    assert abs(back(text) - value) <= abs(value) * 0.5000001 * 10.0 ** (1 - digits)
    assert "e" not in text and "-" not in text


@given(st.floats(min_value=1e-4, max_value=1e14), st.integers(2, 6))
def test_number_has_the_digits_asked_for(value: float, digits: int) -> None:
    text = words.number(value, digits).replace(",", "").replace(".", "").lstrip("0")
    assert len(text) >= digits


@pytest.mark.parametrize(("value", "digits", "text"), [
    (0, 3, "0"), (1234.5, 3, "1,234"), (9.996, 3, "10.0"), (0.000123, 3, "0.000123"), (1.23e-5, 3, "1.23\u00a0×\u00a010⁻⁵"),
    (-3.14159, 3, "−3.14"), (50_000, 2, "50,000"), (198.7, 4, "198.7"), (None, 3, "not measured"),
    (math.nan, 3, "not a finite number"), (math.inf, 3, "not a finite number")])
def test_number_examples(value: float | None, digits: int, text: str) -> None:
    assert words.number(value, digits) == text


@pytest.mark.parametrize(("value", "text"), [
    (198.7, "198.7 s"), (0.0123, "12.30 ms"), (4.1e-4, "410 µs"), (1234.4, "1,234 s (20 min 34 s)"),
    (7384, "7,384 s (2 h 03 min)"), (0, "0 s"), (None, "not measured")])
def test_seconds(value: float | None, text: str) -> None:
    assert words.seconds(value).replace(words.SPACE, " ") == text


@pytest.mark.parametrize(
    ("value", "text"), [(27.5, "27.5 mJ"), (812_000, "812 J"), (1.62e6, "1.62 kJ"), (None, "not measured")]
)
def test_energy(value: float | None, text: str) -> None:
    assert words.energy(value).replace(words.SPACE, " ") == text


@given(st.one_of(st.none(), st.floats()))
def test_quantities_never_fail_and_never_hide_a_missing_value(value: float | None) -> None:
    for write in (words.seconds, words.energy, words.power, words.flops):
        text = write(value)
        assert text and "nan" not in text and "inf" not in text.replace("finite", "")
        if value is None:
            assert text == words.UNKNOWN


def test_listing_and_plural() -> None:
    assert words.listing(["a"]) == "a" and words.listing(["a", "b", "c"]) == "a, b and c" and words.listing([]) == ""
    assert words.plural(1, "record") == "1 record" and words.plural(1200, "record") == "1,200 records"


def test_paths_are_told_as_one_would_type_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert words.near(str(tmp_path / "sweep" / "rows" / "a")) == "sweep/rows/a" and words.near("sweep") == "sweep"
    assert words.near(str(tmp_path.parent / "pairs")) == str(tmp_path.parent / "pairs") and words.near("") == ""
