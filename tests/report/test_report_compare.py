"""Differences of records: the bootstrap's promises, what is refused, what is flagged."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgedit.report import bootstrap, compare
from edgedit.report.page import write_report
from edgedit.report.sources import RecordSource, read_sources

Make = Callable[..., Path]


def read(*folders: Path) -> tuple[list[str], list[RecordSource]]:
    return [f.name for f in folders], read_sources(folders).records


def drifting(rng: np.random.Generator, n: int, level: float = 100.0, likeness: float = 0.8) -> list[float]:
    """A series whose neighbours are alike, as batch times are."""
    noise, value, found = rng.normal(0, 1, n), 0.0, []
    for step in noise:
        value = likeness * value + step
        found.append(level + value)
    return found


def test_intervals_of_equal_series_cover_zero_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    tries, covered = 120, 0
    for _ in range(tries):
        r = bootstrap.ratio(drifting(rng, 250), drifting(rng, 250), bootstrap.mean)
        assert r is not None
        covered += not r.clear
    assert 0.80 * tries <= covered, "the interval promises far more than it holds"


def test_blocks_know_that_neighbours_are_alike() -> None:
    """Drawing single values of a drifting series would give an interval that is much too narrow."""
    rng = np.random.default_rng(2)
    a, b = drifting(rng, 400), drifting(rng, 400)
    alike = bootstrap.ratio(a, b, bootstrap.mean)
    mixed = bootstrap.ratio(list(rng.permutation(a)), list(rng.permutation(b)), bootstrap.mean)
    assert alike is not None and mixed is not None
    assert None not in (alike.low, alike.high, mixed.low, mixed.high)
    assert alike.high - alike.low > 1.5 * (mixed.high - mixed.low)  # type: ignore[operator]
    assert alike.percent == pytest.approx(mixed.percent)


def test_interval_of_independent_values_is_the_textbook_s() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(100, 2, 900), rng.normal(90, 2, 900)
    r = bootstrap.ratio(list(a), list(b), bootstrap.mean)
    assert r is not None and r.low is not None and r.high is not None
    error = 100 * 0.9 * np.sqrt((0.02**2 + (2 / 90) ** 2) / 900)
    assert (r.high - r.low) / 2 == pytest.approx(1.96 * error, rel=0.25)
    assert r.percent == pytest.approx(100 * (b.mean() / a.mean() - 1)) and r.clear


def test_same_values_same_interval_and_few_values_none() -> None:
    a, b = [100.0 + k % 7 for k in range(60)], [90.0 + k % 5 for k in range(60)]
    assert bootstrap.ratio(a, b, bootstrap.median) == bootstrap.ratio(a, b, bootstrap.median)
    few = bootstrap.ratio(a[:5], b, bootstrap.median)
    assert few is not None and few.low is None and not few.clear
    assert bootstrap.ratio([], b, bootstrap.median) is None and bootstrap.ratio([0.0] * 30, b, bootstrap.median) is None


def test_a_faster_record_is_better_and_says_what_was_changed(tmp_path: Path, record: Make) -> None:
    folders = record(tmp_path / "a", precision="fp32", median_ms=110, seed=1), record(tmp_path / "b", median_ms=80, seed=2)
    [c] = compare.compare(*read(*folders))
    assert c.changed == ("precision fp32 → fp16",) and not c.refused
    by = {d.quantity: d for d in c.changes}
    assert set(by) == {"Images per second", "Batch, median", "Batch, 99 %", "Peak memory", "Energy per image"}
    median = by["Batch, median"].ratio
    assert median.low is not None and median.high is not None
    assert median.percent == pytest.approx(100 * (80 / 110 - 1), abs=0.5) and median.low < median.percent < median.high
    assert by["Images per second"].ratio.percent > 30 and by["Images per second"].reading == "better"
    power = [s.record.power for s in read(*folders)[1]]
    assert power[0] and power[1]
    energy = by["Energy per image"].ratio
    assert energy.percent == pytest.approx(100 * (power[1].mj_per_image / power[0].mj_per_image - 1)) and energy.clear
    assert by["Peak memory"].reading == "the same"


def test_the_same_thing_twice_shows_no_clear_difference(tmp_path: Path, record: Make) -> None:
    [c] = compare.compare(*read(record(tmp_path / "a", seed=1), record(tmp_path / "b", seed=2)))
    assert c.changed == () and "varies from run to run" in c.text
    median = next(d for d in c.changes if d.quantity == "Batch, median")
    assert median.reading == "no clear difference"


@pytest.mark.parametrize(("bent", "said"), [
    ({"batch": 64}, "batch 128 and 64"), ({"guidance": 1.0}, "guidance 1.5 (forward batch 256) and 1.0 (forward batch 128)"),
    ({"images": 2000}, "images 1,000 and 2,000"), ({"complete": False, "batches": 4}, "completeness whole and cut short")])
def test_other_protocols_are_refused_with_what_differs(tmp_path: Path, record: Make, bent: dict[str, object], said: str) -> None:
    a = record(tmp_path / "a", images=1000)
    b = record(tmp_path / "b", **{"images": 1000, **bent})
    [c] = compare.compare(*read(a, b))
    assert said in c.refused and c.changes == ()
    html = write_report([a, b], tmp_path / "r.html").html.read_text(encoding="utf-8").replace("\u00a0", " ")
    assert "Not compared, since the protocols differ" in html and said in html
    assert "circular block bootstrap" not in html


def test_several_changes_are_flagged(tmp_path: Path, record: Make) -> None:
    a, b = record(tmp_path / "a", images=1000), record(tmp_path / "b", images=1000, precision="fp32", board="another board")
    [c] = compare.compare(*read(a, b))
    assert len(c.changed) == 2 and "no difference can be put down to one of them" in c.text


def test_energies_over_other_boundaries_are_not_compared(tmp_path: Path, record: Make) -> None:
    a, b = record(tmp_path / "a", images=1000), record(tmp_path / "b", images=1000, boundary="processor package only")
    [c] = compare.compare(*read(a, b))
    assert not any(d.quantity == "Energy per image" for d in c.changes)
    assert "processor package only" in " ".join(c.notes)
    [c] = compare.compare(*read(a, record(tmp_path / "c", images=1000, power=False)))
    assert "no power figures" in " ".join(c.notes)


def test_differences_reach_page_markdown_and_json(tmp_path: Path, record: Make) -> None:
    folders = [record(tmp_path / "a", images=5000, precision="fp32", seed=1), record(tmp_path / "b", images=5000, median_ms=300, seed=2)]
    result = write_report(folders, tmp_path / "r.html")
    for file in (result.html, result.markdown):
        text = file.read_text(encoding="utf-8").replace("\u00a0", " ")
        assert "b against a" in text and "circular block bootstrap" in text and "precision fp32 → fp16" in text
    [c] = json.loads(result.json.read_text())["comparisons"]
    median = next(d for d in c["differences"] if d["quantity"] == "Batch, median")
    assert median["low"] < median["percent"] < median["high"] < 0 and median["reading"] == "better"
    assert c["method"].startswith("95 % intervals: circular block bootstrap")


@pytest.mark.parametrize(("percent", "text"), [
    (0.0, "0.00 %"), (-0.001, "0.00 %"), (12.34, "+12.3 %"), (-250.4, "−250 %"), (0.5, "+0.50 %")])
def test_signed(percent: float, text: str) -> None:
    assert compare.signed(percent).replace("\u00a0", " ") == text


def test_the_rate_s_difference_is_that_of_the_rates_shown(tmp_path: Path, record: Make) -> None:
    """Wall rates that differ by 73 % over batches that differ by a quarter of a percent: the table must not say "no difference"."""
    names, (a, b) = read(record(tmp_path / "a", seed=1), record(tmp_path / "b", seed=2, precision="fp32"))
    rate = a.record.images_per_s
    a, b = (replace(s, record=s.record.model_copy(update={"images_per_s": v})) for s, v in ((a, rate), (b, 1.7336 * rate)))
    [c] = compare.compare(names, [a, b])
    change = next(d for d in c.changes if d.quantity == "Images per second")
    assert change.ratio.percent == pytest.approx(73.36) and change.reading == "better"
    assert change.ratio.low is not None and change.ratio.high is not None
    assert change.ratio.low < change.ratio.percent < change.ratio.high
    assert "times from batch to batch alone differ by" in " ".join(c.notes), "what lies outside the batches is told"
    table = compare.table(c)
    assert table is not None and table.rows[0][3].startswith("+73.4")
    [c] = compare.compare(names, [b, b])
    assert next(d for d in c.changes if d.quantity == "Images per second").reading == "no clear difference" and not c.notes


def test_an_interval_around_a_great_loss_stays_above_minus_a_hundred() -> None:
    moved = compare._centred(-90.0, bootstrap.Ratio(100.0, 50.0, 150.0))
    assert moved.percent == -90 and moved.low == pytest.approx(-92.5) and moved.high == pytest.approx(-87.5)
    assert compare._centred(5.0, None) == bootstrap.Ratio(5.0)
