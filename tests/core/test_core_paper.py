"""The published numbers, against facts that do not come from the same typing."""

from __future__ import annotations

from edgedit.core import paper
from edgedit.core.spec import DiTSpec


def test_every_design_has_the_parameters_of_its_group() -> None:
    for row in paper.TABLE_6:
        millions = DiTSpec(row.depth, row.width, row.heads).parameters / 1e6
        assert abs(millions - float(row.group.rstrip("M"))) / millions < 0.03, row


def test_bold_rows_follow_the_head_rule() -> None:
    for row in paper.TABLE_6:
        divisors = [k for k in range(1, row.width + 1) if row.width % k == 0]
        assert not row.follows or row.heads == divisors[(len(divisors) - 1) // 2], row


def test_latencies_agree_with_the_batch_times_derived_from_them() -> None:
    """Milliseconds per batch of 128 (391 batches) as the reference notes tabulate them, typed apart from the paper's table."""
    batch_ms = {
        "(1,128,8)": 249,
        "(2,96,8)": 316,
        "(5,64,4)": 416,
        "(5,64,8)": 508,
        "(9,48,6)": 662,
        "(21,32,4)": 1053,
        "(3,192,12)": 596,
        "(7,128,8)": 825,
        "(13,96,8)": 1263,
        "(4,256,16)": 940,
        "(16,128,8)": 1683,
        "(7,192,12)": 1179,
    }
    rows = [row for row in paper.TABLE_6 if row.epochs == 100]
    assert {row.label for row in rows} == set(batch_ms)
    for row in rows:
        assert abs(row.latency_s * 1000 / 391 - batch_ms[row.label]) < 1


def test_lookup() -> None:
    assert [(r.latency_s, r.fid, r.inception) for r in paper.published(5, 64, 8)] == [(198.7, 29.14, 7.79)]
    assert [r.epochs for r in paper.published(7, 192, 12)] == [100, 200]
    assert paper.published(6, 64, 8) == ()
    assert [r.name for r in paper.TABLE_2] == ["wider", "wide", "lower heads", "proposed", "deep", "deeper"]


def test_small_tables() -> None:
    assert min(paper.TABLE_1, key=lambda r: r.fid).loss == "LPIPS"
    assert {r.fid for r in paper.TABLE_3 if r.teacher and not r.assistant_image} == {paper.TABLE_4[0].fid}, (
        "one baseline for both"
    )
    assert all(len(r.layers) == len(r.times) for r in paper.TABLE_4)
    assert next(r for r in paper.TABLE_5 if r.method == "DiT-Nano").fid == paper.published(7, 192, 12)[0].fid
