"""Sweeps: the paper's tables rebuilt, figures, fronts, predictions; what is not there is left out, what is wrong is said."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedit.core import artifact, paper
from edgedit.core.artifact import Parent
from edgedit.core.errors import ArtifactError
from edgedit.core.spec import DiTSpec
from edgedit.report import fronts, landscapes, predictions, rebuilt
from edgedit.report.fronts import Design
from edgedit.report.page import ReportResult, write_report
from edgedit.report.scatter import Point, scatter
from edgedit.report.sources import read_sources
from edgedit.report.sweeps import Quality, SweepSource

Make = Callable[..., Path]
MakeRow = Callable[..., dict[str, Any]]
Rows = list[dict[str, Any]]


def read(folder: Path) -> SweepSource:
    return read_sources([folder]).sweeps[0]


def page(tmp_path: Path, *sources: Path) -> tuple[str, ReportResult]:
    result = write_report(sources, tmp_path / "out" / "r.html")
    return result.html.read_text(encoding="utf-8").replace("\u00a0", " "), result


# --- real rows -----------------------------------------------------------------------------------------------------------------


def test_real_rows_stand_beside_the_published_ones(tmp_path: Path, sweep: Make, real_rows: Rows) -> None:
    source = read(sweep(tmp_path / "s", real_rows))
    tables = {t.title.split(":")[0]: t for t in rebuilt.tables(source)}
    assert list(tables) == ["Table 1", "Table 2", "Table 3", "Table 4", "Table 6"], "no row of Table 5 was asked for"
    six = tables["Table 6"]
    assert len(six.rows) == len(paper.TABLE_6)
    for line, design in zip(six.rows, paper.TABLE_6, strict=True):
        assert line[1].startswith(design.label) and f"{design.fid:.2f}" in line and f"{design.inception:.2f}" in line
        assert ("★" in line[1]) == design.follows
    ours = next(line for line in six.rows if line[1].startswith("(5,64,8)"))
    assert "3.187" in ours and "96,000" in ours and ours[-1] == "done"
    waiting = next(line for line in six.rows if line[1].startswith("(7,192,12),"))
    own = [k for k, name in enumerate(six.columns) if k in six.marked and name != "State"]
    assert own and all(waiting[k] == rebuilt.NONE for k in own) and waiting[-1] == "waiting", "nothing is made up for a row that waits"
    assert not any("published" in six.columns[k] for k in six.marked)
    one = {row[1]: row for row in tables["Table 1"].rows}
    assert one["L1"][2] == "45.60" and one["L1"][3] == "0.3200" and "LPIPS to held-out pairs, here" in tables["Table 1"].columns
    assert [row[3] for row in tables["Table 2"].rows] == [f"{r.fid:.2f}" for r in paper.TABLE_2]


def test_real_page_says_what_its_numbers_are(tmp_path: Path, sweep: Make, real_rows: Rows) -> None:
    html, result = page(tmp_path, sweep(tmp_path / "s", real_rows))
    done = sum(r["status"] == "done" for r in real_rows)
    assert f"{done} of {len(real_rows)} rows done" in result.summary and result.sweeps == 1 and result.records == 0
    for text in ("Cut budget", "the paper prints FID with its reference set not stated", "Figure 4a", "Figure 4b", "Pareto fronts"):
        assert text in html, text
    for text in ("Prediction against measurement", "Figure 3", "Table 5", "Quality and energy", "Energy per image", "id=\"samples\""):
        assert text not in html, f"{text}: the rows have nothing of it"


def test_beside_files_hold_the_same(tmp_path: Path, sweep: Make, real_rows: Rows) -> None:
    _, result = page(tmp_path, sweep(tmp_path / "s", real_rows))
    body = json.loads(result.json.read_text())
    [told] = body["sweeps"]
    assert [r["name"] for r in told["rows"]] == [r["name"] for r in real_rows]
    assert [r["latency_50k_s"] for r in told["rows"]] == [r["latency_50k_s"] for r in real_rows]
    assert {t["title"].split(":")[0] for t in told["tables"]} >= {"Table 1", "Table 6"}
    assert told["digest"] == body["chains"][0]["links"][0]["digest"]
    with result.csv.open(newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    for line, row in zip(lines, real_rows, strict=True):
        assert line["kind"] == "sweep row" and line["record"] == row["name"] and line["status"] == row["status"]
        assert line["seconds_for_50000_images"] == ("" if row["latency_50k_s"] is None else repr(row["latency_50k_s"]))
    text = result.markdown.read_text()
    assert "Table 6: all designs" in text and "45.60" in text and text.count("<") == 0


# --- rows that are odd -----------------------------------------------------------------------------------------------------------


def test_unequal_budgets_are_flagged(tmp_path: Path, sweep: Make, row: MakeRow) -> None:
    rows = [row(), row((1, 128, 8), budget={"images_seen": 51_200, "cut": ""})]
    html, _ = page(tmp_path, sweep(tmp_path / "s", rows))
    assert "Rows were trained on 25,600 to 51,200 images" in html
    html, _ = page(tmp_path, sweep(tmp_path / "t", [row(), row((1, 128, 8))]))
    assert "Rows were trained on" not in html


def test_a_machine_gets_one_table_more_only_if_it_timed_more(tmp_path: Path, sweep: Make, row: MakeRow) -> None:
    judged, timed = [row(), row((1, 128, 8))], row((2, 96, 8), quality=None)
    groups = fronts.own_groups(read(sweep(tmp_path / "s", judged)))
    assert [len(t.rows) for t in fronts.tables(groups)] == [2]
    groups = fronts.own_groups(read(sweep(tmp_path / "t", [*judged, timed])))
    assert [len(t.rows) for t in fronts.tables(groups)] == [2, 3]
    groups = fronts.own_groups(read(sweep(tmp_path / "u", [timed, row((9, 48, 6), quality=None)])))
    assert [t.title for t in fronts.tables(groups)] == ["Front over parameters, latency and energy: here, fixture CPU"]


def test_skipped_rows_say_why_and_are_not_waited_for(tmp_path: Path, sweep: Make, row: MakeRow) -> None:
    rows = [row((7, 192, 12), table="table5", published={"fid": 10.32, "latency_s": 3.66}),
            {"name": "get", "table": "table5", "published": {"fid": 12.93, "latency_s": 6.46}, "status": "skipped",
             "why": "not built here"}]
    html, result = page(tmp_path, sweep(tmp_path / "s", rows))
    assert "not built here" in html and "1 skipped" in " ".join(html.replace("<strong>", "").replace("</strong>", "").split())
    assert "not finished" not in html and result.warnings == 1 and "Table 5: other methods" in html


def test_precision_is_told_only_where_it_varies(tmp_path: Path, sweep: Make, row: MakeRow) -> None:
    assert [r.shown for r in read(sweep(tmp_path / "s", [row(precision="fp32"), row((1, 128, 8), precision="fp32")])).rows] == [
        "(5,64,8)", "(1,128,8)"]
    assert [r.shown for r in read(sweep(tmp_path / "t", [row(precision="fp32"), row(name="b", precision="fp16")])).rows] == [
        "(5,64,8) fp32", "(5,64,8) fp16"]


def test_a_design_that_occurs_in_each_part_of_a_sweep_counts_once(tmp_path: Path, sweep: Make, row: MakeRow) -> None:
    rows = [row((6, 128, 4), name=name, table="fig3") for name in ("depth-6", "width-128", "heads-4")]
    [group] = fronts.own_groups(read(sweep(tmp_path / "s", rows)))
    assert len(group.designs) == 1


def test_figure_4_shows_the_designs_of_table_6(tmp_path: Path, sweep: Make, row: MakeRow) -> None:
    rows = [row(table="fig4", published={"fid": 29.14})]
    titles = [t.title.split(":")[0] for t in rebuilt.tables(read(sweep(tmp_path / "s", rows)))]
    assert titles == ["Table 2", "Table 6"]


def test_nothing_done_yet_still_makes_a_page(tmp_path: Path, sweep: Make, row: MakeRow) -> None:
    bare = {"name": "a", "table": "table6", "published": {"fid": 29.14}, "spec": None, "label": "(5,64,8)", "status": "waiting"}
    html, _ = page(tmp_path, sweep(tmp_path / "s", [bare]))
    assert "0 of 1 row done" in html and "Nothing is measured yet" in html and "29.14" in html
    assert "<svg" not in html, "there is nothing to draw"
    html, _ = page(tmp_path, sweep(tmp_path / "none", []))
    assert "holds no row" in html


def test_failed_rows_say_why_and_the_others_stand(tmp_path: Path, sweep: Make, row: MakeRow) -> None:
    rows = [row(), row((1, 128, 8), status="failed", why="job train: exit 1: loss is NaN", quality=None, latency_50k_s=None)]
    html, result = page(tmp_path, sweep(tmp_path / "s", rows))
    assert "Row 1-128-8 failed: job train: exit 1: loss is NaN" in html and "Rows that did not finish" in html
    assert result.warnings == 2, "the failure and the cut budget"


def test_published_values_that_the_paper_has_not_are_flagged(tmp_path: Path, sweep: Make, row: MakeRow) -> None:
    html, _ = page(tmp_path, sweep(tmp_path / "s", [row(published={"fid": 1.23, "latency_s": 198.7})]))
    assert "names published values (fid 1.23, latency_s 198.7) that no row of the paper" in html
    html, _ = page(tmp_path, sweep(tmp_path / "t", [row(published={"fid": 29.14, "is": 7.79, "latency_s": 198.7})]))
    assert "names published values" not in html


def test_published_values_tell_equal_designs_apart(tmp_path: Path, sweep: Make, row: MakeRow) -> None:
    rows = [row((7, 192, 12), name="a", published={"fid": 8.90}, accuracy=0.5), row((7, 192, 12), name="b", published=None, accuracy=0.25)]
    table = rebuilt.rebuild(6, read(sweep(tmp_path / "s", rows)))
    assert table is not None
    column = table.columns.index("Accuracy, here")
    assert [r[column] for r in table.rows if r[1].startswith("(7,192,12)")] == ["25.0\u00a0%", "50.0\u00a0%"]


def test_a_design_that_the_paper_has_not_gets_a_line_of_its_own(tmp_path: Path, sweep: Make, row: MakeRow) -> None:
    table = rebuilt.rebuild(6, read(sweep(tmp_path / "s", [row((4, 96, 8), name="mine")])))
    assert table is not None and len(table.rows) == len(paper.TABLE_6) + 1
    assert table.rows[-1][0] == "(4,96,8)" and table.rows[-1][2:5] == ("–", "–", "–")


def test_not_a_number_is_not_there(tmp_path: Path, sweep: Make, row: MakeRow) -> None:
    rows = [row(quality={"name": "FID-768-1k", "value": math.nan, "n": 5}, latency_50k_s=math.inf, energy_j_per_image=None, accuracy=None)]
    html, result = page(tmp_path, sweep(tmp_path / "s", rows))
    assert "Figure 4" not in html and "nan" not in html.lower().replace("nano", "")
    assert json.loads(result.json.read_text())["sweeps"][0]["rows"][0]["latency_50k_s"] is None


@pytest.mark.parametrize(("rows", "said"), [
    ({"a": 1}, "not a list"), ([{"label": "x"}], "row 1 cannot be read"), ([{"name": "a", "parameters": "many"}], "row 1 cannot be read"),
    ([{"name": "a"}, {"name": "a"}], "names a row twice"), ([3], "row 1")])
def test_unreadable_rows_are_refused(tmp_path: Path, sweep: Make, rows: Any, said: str) -> None:
    with pytest.raises(ArtifactError, match=said):
        read(sweep(tmp_path / "s", rows))


def test_hostile_rows_stay_text(tmp_path: Path, sweep: Make, row: MakeRow) -> None:
    bad = '</style><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7*7 }}'
    rows = [row(name=bad, label=bad, why=bad, status=bad, device=bad, setup=bad, predicted_s={bad: 3.0},
                quality={"name": bad, "value": 1.0}, budget={"cut": bad, "images_seen": 1}), row((1, 128, 8), device=bad),
            row((2, 96, 8), table=bad, name="=cmd")]
    html, result = page(tmp_path, sweep(tmp_path / "s", rows, name=bad))
    assert "<script" not in html and "<img src=x" not in html and "alert(1)" in html
    assert "<script" not in result.markdown.read_text()
    with result.csv.open(newline="", encoding="utf-8") as stream:
        assert "'=cmd" in [line["record"] for line in csv.DictReader(stream)]


# --- records of rows -------------------------------------------------------------------------------------------------------------


def test_records_of_rows_bring_samples_and_hashes(tmp_path: Path, sweep: Make, row: MakeRow, record: Make) -> None:
    a, b = record(tmp_path / "a", images=1000, seed=1), record(tmp_path / "b", images=1000, design=(1, 128, 8), seed=2)
    rows = [row(paths={"record": str(a)}), row((1, 128, 8), paths={"record": str(b)}), row((2, 96, 8), paths={"record": "gone"})]
    html, _ = page(tmp_path, sweep(tmp_path / "s", rows))
    assert html.count("<img src=") == 2 and "Seed 0: by design" in html and "record of 1-128-8" in html
    assert "records of 2-96-8 are not where the sweep left them" in html.lower()
    html, _ = page(tmp_path, tmp_path / "s", a)
    assert html.count("<img src=") == 2, "a record given on its own is not shown twice"


def test_records_of_a_moved_sweep_are_found(tmp_path: Path, sweep: Make, row: MakeRow, record: Make) -> None:
    folder = sweep(tmp_path / "s", [row(paths={"record": "/nowhere/sweep/rows/5-64-8/record"})])
    record(folder / "rows" / "5-64-8" / "record", images=1000)
    html, _ = page(tmp_path, folder)
    assert html.count("<img src=") == 1 and "not where the sweep left them" not in html


def test_samples_of_one_design_are_set_out_by_precision(tmp_path: Path, record: Make) -> None:
    html, _ = page(tmp_path, record(tmp_path / "a", images=1000), record(tmp_path / "b", images=1000, precision="fp32", seed=3))
    assert "Seed 0, design (5,64,8): by precision and runtime" in html and html.count("<img src=") == 2


def test_an_altered_record_of_a_row_is_not_used(tmp_path: Path, sweep: Make, row: MakeRow, record: Make) -> None:
    a = record(tmp_path / "a", images=1000)
    (a / "batches.jsonl").write_text("{}\n")
    html, _ = page(tmp_path, sweep(tmp_path / "s", [row(paths={"record": str(a)})]))
    assert "record of 5-64-8 is not used" in html and "<img" not in html


# --- fronts ----------------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=14))
def test_front_is_what_its_definition_says(values: list[tuple[int, int, int]]) -> None:
    axes = ("parameters", "quality", "latency")
    designs = [Design(str(k), dict(zip(axes, map(float, v), strict=True)), {}) for k, v in enumerate(values)]
    free = fronts.front(designs, axes)
    assert free, "somebody is always on the front"
    for d in designs:
        beaten = any(all(e.values[a] <= d.values[a] for a in axes) and e.values != d.values for e in designs)
        assert (d in free) != beaten


def test_published_front_against_the_table_by_hand() -> None:
    group = fronts.published_group()
    names = {d.name for d in fronts.front(group.designs, ("latency", "quality"))}
    assert names == {"(1,128,8)", "(2,96,8)", "(5,64,4)", "(5,64,8)", "(3,192,12)", "(7,128,8)", "(4,256,16)", "(7,192,12)", "(16,128,8)"}


def test_accuracy_grows_and_distance_shrinks(tmp_path: Path, sweep: Make, row: MakeRow) -> None:
    assert Quality(name="accuracy").higher_is_better and Quality(name="IS-768-1k").higher_is_better
    assert not Quality(name="FID-768-1k").higher_is_better and not Quality(name="Fréchet distance").higher_is_better
    rows = [row((1, 128, 8), quality={"name": "accuracy", "value": 0.9}, latency_50k_s=100.0, energy_j_per_image=None),
            row((5, 64, 8), quality={"name": "accuracy", "value": 0.2}, latency_50k_s=200.0, energy_j_per_image=None)]
    [group] = fronts.own_groups(read(sweep(tmp_path / "s", rows)))
    assert [d.name for d in fronts.front(group.designs, group.axes)] == ["(1,128,8)"]
    table = fronts.table(group)
    assert table is not None and [r[-1] for r in table.rows] == ["on the front", "beaten by (1,128,8)"] and table.rows[0][2] == "0.9000"


def test_other_machines_and_other_qualities_are_never_on_one_front(tmp_path: Path, sweep: Make, row: MakeRow) -> None:
    rows = [row(device="a"), row((1, 128, 8), device="b"), row((2, 96, 8), quality={"name": "other", "value": 1.0}, device="a")]
    groups = fronts.own_groups(read(sweep(tmp_path / "s", rows)))
    assert [(g.quality, g.where, len(g.designs)) for g in groups] == [("FID-768-1k", "a", 1), ("FID-768-1k", "b", 1), ("other", "a", 1)]
    assert [(g.where, len(g.designs)) for g in fronts.by_machine(groups)] == [("a", 2), ("b", 1)]


# --- predictions -----------------------------------------------------------------------------------------------------------------


def test_predictions_and_their_errors(tmp_path: Path, sweep: Make, row: MakeRow) -> None:
    rows = [row(latency_50k_s=100.0, predicted_s={"corrected": 110.0, "floor": 40.0, "paper": 198.7}),
            row((1, 128, 8), latency_50k_s=50.0, predicted_s={"corrected": 48.0, "floor": 10.0}),
            row((2, 96, 8), latency_50k_s=None, predicted_s={"corrected": 5.0}), row((9, 48, 6))]
    source = read(sweep(tmp_path / "s", rows))
    table = predictions.table(source.rows)
    assert table is not None and table.columns[3:] == ("Predicted: paper", "Predicted: floor", "Predicted: corrected")
    cells = [[c.replace("\u00a0", " ") for c in r] for r in table.rows]
    assert len(cells) == 5, "three rows with predictions, and the two errors"
    assert cells[0][5] == "110.0 s (+10 %)" and cells[1][5] == "48.00 s (−4.0 %)" and cells[2][5] == "5.000 s"
    assert cells[3][5] == "7.0 % of 2" and cells[4][5] == "10 %" and cells[4][4] == "−80 %"
    assert cells[0][3] == "198.7 s" and cells[3][3] == "–" and "its error means nothing" in table.note, "the paper's board, not this CPU"
    html, _ = page(tmp_path, tmp_path / "s")
    assert "Prediction against measurement" in html and "measured 100.0 s" in html


def test_the_papers_model_is_judged_on_the_papers_board(tmp_path: Path, sweep: Make, row: MakeRow) -> None:
    rows = [row(device="NVIDIA Jetson Orin Nano", latency_50k_s=100.0, predicted_s={"paper": 198.7})]
    table = predictions.table(read(sweep(tmp_path / "s", rows)).rows)
    assert table is not None and "+99" in table.rows[0][3] and "means nothing" not in table.note


# --- figures ---------------------------------------------------------------------------------------------------------------------


def test_figure_3_draws_each_size_with_the_others_held(tmp_path: Path, sweep: Make, row: MakeRow) -> None:
    def swept(*designs: tuple[int, int, int]) -> Rows:
        return [row(d, table="fig3", name=f"f{k}", quality={"name": "FID-768-1k", "value": 3.0 + k}) for k, d in enumerate(designs)]

    html, _ = page(tmp_path, sweep(tmp_path / "s", swept((2, 128, 4), (6, 128, 4), (6, 128, 8), (6, 64, 4), (3, 96, 8))))
    assert all(f"FID-768-1k over {size}, with" in html for size in ("depth", "width", "heads")) and "Rows of Figure 3" in html
    html, _ = page(tmp_path, sweep(tmp_path / "t", swept((2, 128, 4), (6, 128, 4))))
    assert "FID-768-1k over depth, with width 128, heads 4." in html and "over width, with" not in html


def test_every_design_is_on_hover_even_where_no_label_fits() -> None:
    points = [Point(1.0, 1.0, f"design {k}", label=True) for k in range(60)]
    svg = str(scatter(340, points, "x", "y", "alt"))
    assert svg.count("<title>") == 60 and 0 < svg.count('class="name"') < 60


def test_parameters_of_published_designs_are_those_of_the_network() -> None:
    sizes = {d.name: d.shown["parameters"] for d in fronts.published_group().designs}
    assert sizes["(5,64,8)"] == DiTSpec(5, 64, 8).parameters and len(sizes) == 12


# --- rows that are not the paper's -----------------------------------------------------------------------------------------------

DIGITS = {"depth": 5, "width": 64, "heads": 8, "patch": 2, "image": 8, "channels": 1, "classes": 10, "mlp_ratio": 4}
PUBLISHED = {"fid": 29.14, "latency_s": 198.7}


def test_rows_of_another_image_size_stand_apart_from_what_is_published(tmp_path: Path, sweep: Make, row: MakeRow) -> None:
    small = row(table="table2", published=PUBLISHED, spec=DIGITS, name="digits")
    html, result = page(tmp_path, sweep(tmp_path / "s", [small]))
    assert "1 row of another image size and channels (8 × 8, 1): not the paper's row" in html.replace("&#39;", "'")
    assert "29.14" not in html and "Table 2: the 0.42M designs" not in html and "Published, Jetson" not in html
    assert "200.0" in html and "Asked for as table2, another image size" in html, "their own values stand in a table of their own"
    with result.csv.open(newline="", encoding="utf-8") as stream:
        [line] = csv.DictReader(stream)
    assert line["paper_fid"] == line["paper_seconds_for_50000_images_orin_nano"] == "" and "image size" in line["not_the_papers"]
    [told] = json.loads(result.json.read_text())["sweeps"][0]["rows"]
    assert "not the paper's row" in told["not_the_papers"]


def test_rows_of_another_image_size_share_no_axes_with_the_papers(tmp_path: Path, sweep: Make, row: MakeRow) -> None:
    rows = [row(table="table2", published=PUBLISHED), row(table="table2", published=PUBLISHED, spec=DIGITS, name="digits", label="small",
                                                         latency_50k_s=5.0)]
    source = read(sweep(tmp_path / "s", rows))
    two = rebuilt.rebuild(2, source)
    assert two is not None and [r[0] for r in two.rows if "again" in " ".join(r)] == [] and "5.000\u00a0s" not in str(two.rows)
    groups = [fronts.published_group(), *fronts.own_groups(source)]
    charts = landscapes.latency_over_parameters(groups)
    assert ["published:" in c for c in charts] == [True, False] and ["small here" in c for c in charts] == [False, True]
    assert "nothing published stands on this chart" in charts[1]
    assert not any("small" in c and "(5,64,8)" in c for c in landscapes.quality_over_parameters(landscapes.quality_groups(groups)))
    assert [len(g.designs) for g in fronts.own_groups(source)] == [1, 1], "they are on no front together"


@pytest.mark.parametrize(("label", "other"), [
    ("ideal/cifar10", ""), ("edm/cifar10 (GET)", ""), ("unet 1.2M/cifar-10", ""), ("fixture pairs", ""),
    ("ideal/svhn", "another data set (svhn)"), ("ideal/cifar100", "another data set (cifar100)")])
def test_pairs_of_another_data_set_are_seen(tmp_path: Path, row: MakeRow, label: str, other: str) -> None:
    pairs = Parent("pairs", "pairs", "a1" * 32, "runs/pairs", label)
    with artifact.create(tmp_path / "s", "sweep") as draft:
        draft.write_json("rows.json", [row()])
        draft.parents = [Parent("student", "student", "b2" * 32, "runs/student", "(5,64,8)", (pairs,))]
    html, _ = page(tmp_path, tmp_path / "s")
    assert ("another data set" in html) == bool(other) and other in html


# --- cut budgets ----------------------------------------------------------------------------------------------------------------


CUT = "profiled over 64 of 50,000 images"


def test_a_row_that_failed_tells_its_cuts_if_it_has_a_figure(tmp_path: Path, sweep: Make, row: MakeRow) -> None:
    rows = [row(status="failed", why="evaluate: exit 1", quality=None, accuracy=None, latency_50k_s=5.028, budget={"cut": CUT})]
    html, result = page(tmp_path, sweep(tmp_path / "s", rows))
    assert f"Every row: {CUT}" in html and f"Cut budget: {CUT}" in html
    assert "5.028 s for 50,000 images, reckoned from 64 images." in html
    with result.csv.open(newline="", encoding="utf-8") as stream:
        assert [line["seconds_for_50000_images_how"] for line in csv.DictReader(stream)] == ["reckoned from 64 images"]
    bare = row(status="failed", why="train", quality=None, accuracy=None, latency_50k_s=None, energy_j_per_image=None, budget={"cut": CUT})
    html, _ = page(tmp_path, sweep(tmp_path / "t", [bare]))
    assert CUT not in html, "no figure, so nothing to be careful with"


def test_seconds_are_reckoned_from_what_the_record_ran(tmp_path: Path, sweep: Make, row: MakeRow, record: Make) -> None:
    a, b = record(tmp_path / "a", images=1000), record(tmp_path / "b", images=50_000)
    html, _ = page(tmp_path, sweep(tmp_path / "s", [row(paths={"record": str(a)})]))
    assert "200.0 s for 50,000 images, reckoned from 1,000 images." in html
    html, _ = page(tmp_path, tmp_path / "s", a)
    assert "reckoned from 1,000 images." in html, "a record given on its own too"
    html, _ = page(tmp_path, sweep(tmp_path / "t", [row(paths={"record": str(b)})]))
    assert "200.0 s for 50,000 images." in html and "reckoned from" not in html


def test_a_state_is_not_said_twice(tmp_path: Path, sweep: Make, row: MakeRow) -> None:
    rows = [row(status="waiting", why="waiting: train-big failed"), row((1, 128, 8), status="failed", why="failed: out of memory")]
    html, result = page(tmp_path, sweep(tmp_path / "s", rows))
    assert "1-128-8 failed: out of memory" in html
    assert [r["why"] for r in json.loads(result.json.read_text())["sweeps"][0]["rows"]] == ["train-big failed", "out of memory"]
