"""The principles give the paper's own designs, and say where the paper leaves them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgedit.core.errors import UsageError
from edgedit.core.spec import DiTSpec, divisors
from edgedit.design.published import ROWS
from edgedit.design.rules import EXCEPTIONS, deepest, depth_rule, heads_rule, judge


@pytest.mark.parametrize(("width", "heads"), [(32, 4), (48, 6), (64, 8), (96, 8), (128, 8), (192, 12), (256, 16), (384, 16), (36, 6)])
def test_heads_of_every_published_width(width, heads):
    assert heads_rule(width) == heads


def test_heads_of_every_row_but_the_lower_heads_variant():
    assert [(r.depth, r.width, r.heads) for r in ROWS if r.heads != heads_rule(r.width)] == [(5, 64, 4)]


@pytest.mark.parametrize(("width", "budget", "depth"), [
    (64, None, 6), (128, None, 7), (192, None, 7), (64, 421_068, 5), (64, 421_067, 4), (64, 495_756, 6), (128, 2_197_644, 7),
    (192, 4_881_612, 7), (256, 5_071_884, 4)])
def test_depth_by_width_and_budget(width, budget, depth):
    assert depth_rule(width, budget) == depth


def test_the_papers_own_exception_of_depth():
    assert DiTSpec(6, 64, 8).parameters == 495_756
    free, held = judge(DiTSpec(5, 64, 8)), judge(DiTSpec(5, 64, 8), 421_068)
    assert not free.follows and free.depth == 6 and "shallower" in free.departures[0]
    assert held.follows and held.depth == 5 and "lowered until 421,068" in held.departures[0]
    assert "495,756" in held.exception and "0.42M" in held.text


def test_a_design_lowered_by_two_blocks_follows_and_by_three_does_not():
    assert judge(DiTSpec(5, 192, 12), DiTSpec(5, 192, 12).parameters).short == (
        "it follows the principles; depth 5: ⌊log2 192⌋ is 7, lowered until 3,548,748 parameters hold")
    three = judge(DiTSpec(4, 192, 12), DiTSpec(4, 192, 12).parameters)
    assert not three.follows and "too wide for this budget" in three.text


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r.depth}-{r.width}-{r.heads}")
def test_bold_rows_follow_and_the_others_depart(row):
    limit = {"0.42M": 432_600, "2.2M": 2_266_000, "5M": 5_150_000}[row.group]
    verdict = judge(DiTSpec(row.depth, row.width, row.heads), limit)
    assert verdict.follows == row.follows
    assert verdict.follows or verdict.departures


def test_the_teaching_assistant_breaks_both_rules():
    verdict = judge(DiTSpec(12, 384, 12))
    assert (verdict.depth, verdict.heads, verdict.follows) == (8, 16, False)
    assert len(verdict.departures) == 2 and "teaching assistant" in verdict.exception


def test_exceptions_are_exceptions():
    assert not any(judge(DiTSpec(*design)).follows for design in EXCEPTIONS)


@pytest.mark.parametrize("width", [0, -4, 6, 66, 64.0, True])
def test_a_width_that_no_dit_has(width):
    with pytest.raises(UsageError, match="multiple of 4"):
        heads_rule(width)


def test_a_width_with_no_usable_head_count():
    with pytest.raises(UsageError, match="no usable head count") as caught:
        heads_rule(4 * 257)
    assert "2ⁿ and 3·2ⁿ: 1024" in str(caught.value) and "heads of size 257" in str(caught.value)


def test_a_budget_below_one_block_says_what_one_block_needs():
    with pytest.raises(UsageError, match="one block has 416,652"):
        depth_rule(128, 400_000)
    assert deepest(128, 400_000) == 0 and deepest(128, 416_652) == 1


@given(st.integers(1, 200).map(lambda n: 4 * n))
def test_the_rule_is_the_smaller_median_of_the_factors(width):
    factors, heads = divisors(width), heads_rule(width)
    below, above = sum(f < heads for f in factors), sum(f > heads for f in factors)
    assert width % heads == 0 and below <= above <= below + 1 and heads * heads <= width


@given(st.sampled_from([32, 48, 64, 96, 128, 192]), st.integers(100_000, 9_000_000))
def test_deepest_is_the_last_that_fits(width, budget):
    depth, heads = deepest(width, budget), heads_rule(width)
    assert DiTSpec(depth + 1, width, heads).parameters > budget
    assert depth == 0 or DiTSpec(depth, width, heads).parameters <= budget
