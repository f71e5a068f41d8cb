"""From a budget to candidates: the paper's own table comes out, and impossible wishes name the nearest possible."""

from __future__ import annotations

import json

import pytest
import typer
from design_kit import record
from hypothesis import example, given, settings
from hypothesis import strategies as st
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
        design("5M", max_latency_s=0.2)
    nearest = float(str(caught.value).split("--max-latency-s ")[1].split(";")[0])
    assert design("5M", max_latency_s=nearest).take == "smaller"
    with pytest.raises(UsageError):
        design("5M", max_latency_s=nearest * 0.98)


def test_between_floor_and_paper_only_a_measurement_decides():
    made = design("5M", "orin-nano-super", max_latency_s=20)
    assert made.take == "proposed" and made.recommendation.startswith("Only a measurement decides")


def test_a_latency_takes_the_nearest_that_holds_it():
    made = design("5M", max_latency_s=400)
    assert made.take == "lower heads" and "above the limit of 400 s" in made.recommendation and "departs" in made.recommendation
    made = design("0.42M", max_latency_s=140)
    assert made[made.take].spec.label == "(4,64,4)"


def test_a_smaller_design_comes_before_the_far_ends():
    made = design("5M", "orin-nano-super", max_latency_s=300)
    taken = made["smaller"]
    assert made.take == "smaller" and taken.spec.label == "(6,192,6)" and "largest within 2 blocks" in made.recommendation
    assert taken.prediction.seconds[taken.prediction.best] <= 300
    assert "smaller" not in {c.name for c in design("5M", "orin-nano-super", max_latency_s=400).candidates}


def test_records_decide_when_there_are_any():
    slow = record((5, 64, 8), seconds=2.0)
    with pytest.raises(UsageError, match="by your records"):
        design("0.42M", max_latency_s=10, records=[slow])
    fast = design("0.42M", max_latency_s=100, records=[record((5, 64, 8), seconds=0.05)])
    assert fast.take == "proposed" and "by your records" in fast.recommendation


budgets = st.floats(4.17, 8.0).map(lambda power: int(10**power))  # 14,791 … 100 million


def taken_of(budget, **options):
    made = design(budget, **options)
    return made, made[made.take]


@settings(max_examples=60, deadline=None)
@given(budgets, budgets, st.one_of(st.none(), st.floats(0, 3.2).map(lambda power: 10**power)),
       st.sampled_from(["orin-nano", "orin-nano-super", "h200"]))
@example(2_200_000, 5_000_000, 300.0, "orin-nano-super")
@example(750_000, 770_000, None, "orin-nano")
def test_a_larger_budget_never_gives_a_smaller_design(one, other, limit_s, device):
    small, large = sorted((one, other))
    try:
        made, before = taken_of(small, device=device, max_latency_s=limit_s)
    except UsageError:
        return
    after = taken_of(large, device=device, max_latency_s=limit_s)[1]
    assert after.spec.parameters >= before.spec.parameters
    assert before.spec.parameters <= made.limit


@settings(max_examples=60, deadline=None)
@given(budgets, st.one_of(st.none(), st.floats(0.5, 3.2).map(lambda power: 10**power)), st.sampled_from(["orin-nano", "h200"]))
@example(3_500_000, None, "orin-nano")
@example(14_791, None, "orin-nano")
@example(420_000, 140.0, "orin-nano")
def test_the_recommended_design_is_never_called_too_wide(budget, limit_s, device):
    made, taken = taken_of(budget, device=device, max_latency_s=limit_s)
    assert "too wide" not in made.recommendation and "too wide" not in taken.verdict.text
    assert made["proposed"].verdict.follows or made["proposed"].spec.width == 16
    if made.take != "proposed":
        assert "wider than the proposed one lost" not in made.recommendation


def test_a_published_time_stands_beside_the_fit_and_decides():
    made = design("0.42M", max_latency_s=200)
    first = made["proposed"].prediction
    assert made.take == "proposed" and first.best == "table" and first.seconds["table"] == 198.7 and first.seconds["paper_b"] > 200
    assert "took 198.7 s" in made.recommendation and "fit B: 216 s" in made.recommendation
    assert design("0.42M", max_latency_s=198).take == "lower heads"


def test_between_floor_and_stack_it_says_what_decides_and_whose_stack_it_is():
    text = design("5M", "orin-nano-super", max_latency_s=300).recommendation
    assert "does not exclude (7,192,12)" in text and "only a measurement decides" in text
    assert "unnamed runtime, precision and power mode, not of orin-nano-super MAXN_SUPER" in text
    assert "does not exclude" not in design("5M", max_latency_s=300, records=[record(seconds=0.5)]).recommendation


@pytest.mark.parametrize("device", ["orin-nano", "orin-nano-super", "h200"])
def test_published_seconds_are_named_with_their_board(device):
    text = design("5M", device).recommendation
    assert "657.9 s instead of 460.9 s on its Orin Nano" in text
    assert ("which says nothing about seconds on h200" in text) is (device == "h200")


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
    assert data["label"] == "(7,192,12)" and data["best"] == "table"
    assert json.loads(run("design", "--params", "5M", "--json").stdout)["candidates"][0]["name"] == "wider"


@pytest.mark.parametrize("arguments", [("predict", "7"), ("predict", "7,191,12"), ("predict", "a,b,c"), ("design", "--params", "x"),
                                       ("design", "--params", "5M", "--device", "xavier")])
def test_errors_are_for_the_user(run, arguments):
    got = run(*arguments)
    assert isinstance(got.exception, EdgeditError) and got.exception.code == 2
