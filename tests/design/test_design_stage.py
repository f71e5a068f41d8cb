"""From a budget to candidates: the paper's own table comes out, and impossible wishes name the nearest possible."""

from __future__ import annotations

import json

import pytest
import typer
from design_kit import record
from typer.testing import CliRunner

from edgedit.cli import design as verbs
from edgedit.core.errors import EdgeditError, UsageError
from edgedit.design.candidates import parse_params, shapes
from edgedit.design.published import ROWS
from edgedit.design.stage import design

PUBLISHED = {"0.42M": {"wider", "wide", "proposed", "lower heads", "deep", "deeper"}, "2.2M": {"wide", "proposed", "deep"},
             "5M": {"wide", "proposed", "deep"}}


@pytest.mark.parametrize("group", PUBLISHED)
def test_a_budget_of_the_paper_gives_the_papers_designs(group):
    made = design(group)
    mine = {(c.spec.depth, c.spec.width, c.spec.heads) for c in made.candidates if c.published}
    assert mine == {(r.depth, r.width, r.heads) for r in ROWS if r.group == group}
    assert {c.name for c in made.candidates if c.published} == PUBLISHED[group]
    assert made.take == "proposed" and made["proposed"].published.follows and made["proposed"].verdict.follows
    assert "better FID in the paper" in made.recommendation


def test_the_names_are_those_of_table_2():
    named = {c.name: c.spec.label for c in design("0.42M").candidates}
    assert named == {"wider": "(1,128,8)", "wide": "(2,96,8)", "proposed": "(5,64,8)", "lower heads": "(5,64,4)", "deep": "(9,48,6)",
                     "deeper": "(21,32,4)"}


def test_every_candidate_has_what_is_needed_to_choose():
    made = design("0.42M", "orin-nano-super")
    for c in made.candidates:
        d = json.loads(json.dumps(c.to_dict()))
        assert d["parameters"] > d["deployed_parameters"] > 0 and d["flops_per_image"] > 0
        assert set(d["works"]) == {"fp32", "fp16", "int8"} and all(w["weight_bytes"] and w["border_bytes"] for w in d["works"].values())
        assert {(f["precision"], f["tensorrt"]) for f in d["fusions"]} == {(p, v) for p in ("fp32", "fp16", "int8")
                                                                           for v in ("10.3", "10.14", "11")}
        assert set(d["by_mode"]) == {"15W", "25W", "MAXN_SUPER"}
        assert all(m["energy_j"]["floor"] and m["memory_mb"] for m in d["by_mode"].values())
    assert json.loads(json.dumps(made.to_dict()))["take"] == "proposed"


def test_tolerance_is_said_and_can_be_none():
    assert any("432,600" in note for note in design("0.42M").notes)
    strict = design("0.42M", tolerance=0)
    assert all(c.spec.parameters <= 420_000 for c in strict.candidates)
    with pytest.raises(UsageError, match="tolerance"):
        design("5M", tolerance=1)


@pytest.mark.parametrize(("text", "number"), [("5M", 5_000_000), ("0.42m", 420_000), ("420k", 420_000), (421068, 421_068),
                                              ("1,900,812", 1_900_812), (" 2.2 M ", 2_200_000)])
def test_budgets_as_people_write_them(text, number):
    assert parse_params(text) == number


@pytest.mark.parametrize("bad", ["", "many", "-5M", "0", 0, -3, True, "5T", "1e6"])
def test_no_budget(bad):
    with pytest.raises(UsageError, match="a budget is a number of parameters"):
        parse_params(bad)


@pytest.mark.parametrize(("params", "nearest"), [("10k", "--params 14460"), ("100B", "--params ")])
def test_an_impossible_budget_names_the_nearest_possible(params, nearest):
    with pytest.raises(UsageError) as caught:
        design(params)
    assert nearest in str(caught.value)
    design(int(str(caught.value).split("--params ")[1]))  # and that one is possible


def test_a_latency_that_the_floor_excludes_names_the_nearest_possible():
    with pytest.raises(UsageError, match="needs at least") as caught:
        design("5M", max_latency_s=2)
    nearest = float(str(caught.value).split("--max-latency-s ")[1].split(";")[0])
    assert design("5M", max_latency_s=nearest).take == "wider"
    with pytest.raises(UsageError):
        design("5M", max_latency_s=nearest * 0.98)


def test_between_floor_and_paper_only_a_measurement_decides():
    made = design("5M", "orin-nano-super", max_latency_s=20)
    assert made.take == "proposed" and made.recommendation.startswith("Only a measurement decides")


def test_a_latency_takes_the_nearest_that_holds_it():
    made = design("5M", max_latency_s=400)
    assert made.take == "lower heads" and "above the limit of 400 s" in made.recommendation and "departs" in made.recommendation
    assert design("0.42M", max_latency_s=140).take == "wide"


def test_a_smaller_proposal_comes_before_the_far_ends():
    made = design("5M", "orin-nano-super", max_latency_s=300)
    taken = next(c for c in made.candidates if c.name == made.take)
    assert made.take == "smaller" and taken.verdict.follows and taken.spec.parameters < 3_000_000
    assert taken.prediction.seconds[taken.prediction.best] <= 300 and "smaller budget" in made.recommendation
    assert "smaller" not in {c.name for c in design("5M", "orin-nano-super", max_latency_s=400).candidates}


def test_records_decide_when_there_are_any():
    slow = record((5, 64, 8), seconds=2.0)
    with pytest.raises(UsageError, match="by your records"):
        design("0.42M", max_latency_s=100, records=[slow])
    fast = design("0.42M", max_latency_s=100, records=[record((5, 64, 8), seconds=0.05)])
    assert fast.take == "proposed" and "by your records" in fast.recommendation


def test_no_limit_at_zero():
    with pytest.raises(UsageError, match="above 0"):
        design("5M", max_latency_s=0)


@pytest.mark.parametrize("budget", [20_000, 100_000, 333_333, 1_000_000, 1_900_812, 3_500_000, 20_000_000, 100_000_000])
def test_any_budget_gives_a_proposal_that_uses_it(budget):
    made = shapes(budget)
    assert all(spec.parameters <= budget for spec in made.values())
    assert made["proposed"].parameters > 0.5 * budget
    assert len({spec.label for spec in made.values()}) == len(made)


def test_another_data_set_is_not_the_papers():
    made = design("0.42M", sizes={"image": 16, "channels": 1})
    assert all(c.published is None and set(c.prediction.seconds) == {"floor"} for c in made.candidates)


def test_the_room_can_be_called():
    import edgedit.design

    assert edgedit.design("0.42M", max_latency_s=140).to_dict() == design("0.42M", max_latency_s=140).to_dict()


# --- the verbs ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def run():
    app = typer.Typer()
    app.command("design")(verbs.design)
    app.command("predict")(verbs.predict)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def test_the_table_has_all_and_the_next_command(run):
    got = run("design", "--params", "0.42M")
    assert got.exit_code == 0, got.output
    for words in ("(21,32,4)", "proposed*", "8→16", "paper B", "left out one by one", "289,164",
                  "at least", "FP32, TensorRT 10.3, 10.14, 11: does not fuse", "next: edgedit train", "--set model.width=64"):
        assert words in got.stdout, words


def test_one_design_in_words_and_json(run):
    got = run("predict", "7,192,12", "--device", "orin-nano-super", "--mode", "25W")
    assert got.exit_code == 0 and "± 3 % (worst 12 %)" in got.stdout and "error unknown" in got.stdout and "GFLOP" in got.stdout
    data = json.loads(run("predict", "(7,192,12)", "--json").stdout)
    assert data["label"] == "(7,192,12)" and data["best"] == "paper_b"
    assert json.loads(run("design", "--params", "5M", "--json").stdout)["candidates"][0]["name"] == "wider"


@pytest.mark.parametrize("arguments", [("predict", "7"), ("predict", "7,191,12"), ("predict", "a,b,c"), ("design", "--params", "x"),
                                       ("design", "--params", "5M", "--device", "xavier")])
def test_errors_are_for_the_user(run, arguments):
    got = run(*arguments)
    assert isinstance(got.exception, EdgeditError) and got.exception.code == 2
