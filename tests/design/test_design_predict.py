"""Predictions: the paper's stack against its analysis, the floor by hand, the correction by records."""

from __future__ import annotations

import json

import pytest
from design_kit import record

from edgedit.core.errors import UsageError
from edgedit.core.paper import TABLE_6
from edgedit.core.spec import DiTSpec
from edgedit.design.corrected import Observation, correct
from edgedit.design.cost import cost
from edgedit.design.devices import find_device
from edgedit.design.floor import floor
from edgedit.design.paper_model import paper_model
from edgedit.design.predict import predict
from edgedit.design.published import ROWS

# --- the paper's stack --------------------------------------------------------------------------------------------------------


def test_the_data_is_the_papers_table():
    mine = {(r.group, r.depth, r.width, r.heads, r.latency_s, r.fid, r.inception, r.follows) for r in ROWS}
    assert mine == {(r.group, r.depth, r.width, r.heads, r.latency_s, r.fid, r.inception, r.follows) for r in TABLE_6 if r.epochs == 100}
    assert len(ROWS) == 12


@pytest.mark.parametrize(("name", "coefficients", "r2", "median", "worst"), [
    ("A", (138, 11.6), 0.977, 7.5, 20), ("B", (152, 7.9, 0.26), 0.996, 3, 12)])
def test_the_fits_are_those_of_the_analysis(name, coefficients, r2, median, worst):
    fit = paper_model(name)
    assert fit.coefficients == pytest.approx(coefficients, rel=0.02)
    assert fit.r2 == pytest.approx(r2, abs=5e-4)
    assert (round(fit.left_out.median, 1 if name == "A" else 0), round(fit.left_out.worst)) == (median, worst)
    assert f"R² {r2}" in fit.text and "left out one by one" in fit.text


@pytest.mark.parametrize(("design", "a", "b"), [((1, 128, 8), 230, 248), ((5, 64, 4), 369, 393), ((5, 64, 8), 601, 551),
                                                ((21, 32, 4), 1111, 991), ((16, 128, 8), 1620, 1693), ((7, 192, 12), 1111, 1163)])
def test_milliseconds_of_the_analysis_table(design, a, b):
    spec = DiTSpec(*design)
    assert (paper_model("A").batch_ms(spec), paper_model("B").batch_ms(spec)) == (pytest.approx(a, abs=1), pytest.approx(b, abs=1))


def test_where_the_paper_says_nothing():
    with pytest.raises(UsageError, match="of 256 tokens"):
        paper_model().seconds(DiTSpec(4, 128, 8, image=16))
    with pytest.raises(UsageError, match="A or B"):
        paper_model("C")
    assert paper_model().beyond(DiTSpec(30, 96, 8)) and not paper_model().beyond(DiTSpec(6, 128, 8))
    small = predict(DiTSpec(4, 128, 8, image=16))
    assert set(small.seconds) == {"floor"} and any("this design has 64" in note for note in small.notes)
    assert set(predict(DiTSpec(5, 64, 8), "h200").seconds) == {"floor"}


# --- the floor ----------------------------------------------------------------------------------------------------------------


def test_the_floor_is_what_the_pencil_says():
    device, spec = find_device("orin-nano").at(), DiTSpec(7, 192, 12)
    work = cost(spec)
    least = floor(work, device, 128)
    assert least.arithmetic_ms == pytest.approx(128 * (work.product_flops + work.attention_flops) / 10e12 * 1e3)
    assert least.bytes_ms == pytest.approx((128 * work.border_bytes + work.weight_bytes) / 68e9 * 1e3)
    assert least.batch_ms == pytest.approx(max(least.arithmetic_ms, least.bytes_ms, least.exponentials_ms) + work.kernels * 2e-3)
    assert least.seconds(50_000, 128) == pytest.approx(391 * least.batch_ms / 1e3)


def test_the_floor_lies_below_every_published_time():
    for row in ROWS:
        p = predict(DiTSpec(row.depth, row.width, row.heads), "orin-nano")
        assert p.seconds["floor"] < row.latency_s / 10


def test_a_cpu_adds_up(tmp_path):
    file = tmp_path / "core.toml"
    file.write_text('kind = "cpu"\nfp32_tflops = 0.1\ndram_gb_s = 10\nexponentials_g = 2\n')
    p, work = predict(DiTSpec(5, 64, 8), file, images=128), cost(DiTSpec(5, 64, 8), "fp32", dialect="ort")
    by_hand = 128 * ((work.product_flops + work.attention_flops) / 1e11 + work.operator_bytes / 1e10 + work.exponentials / 2e9)
    assert p.seconds["floor"] == pytest.approx(by_hand + work.weight_bytes / 1e10)
    assert p.best == "floor" and p.fusion is None and p.energy_j == {} and "no figures" in p.power_source


def test_unfused_attention_raises_the_floor_and_is_said():
    old, new = predict(DiTSpec(5, 64, 8), tensorrt="8.6"), predict(DiTSpec(5, 64, 8), tensorrt="10.3")
    assert old.seconds["floor"] > 3 * new.seconds["floor"] and old.memory_mb > 3 * new.memory_mb
    assert any("does not fuse" in note for note in old.notes) and new.fusion.fuses


def test_guidance_costs_twice_and_a_batch_is_padded():
    once = predict(DiTSpec(7, 128, 8), guidance_scale=1.0)
    assert predict(DiTSpec(7, 128, 8)).seconds["floor"] == pytest.approx(2 * once.seconds["floor"], rel=0.05)
    assert predict(DiTSpec(7, 128, 8), images=129).seconds["floor"] == predict(DiTSpec(7, 128, 8), images=256).seconds["floor"]


def test_energy_is_seconds_times_the_modes_watts_and_the_papers_stack_has_none():
    p = predict(DiTSpec(5, 64, 8), "orin-nano-super", mode="15w")
    assert p.energy_j == {"floor": (pytest.approx(4.9 * p.seconds["floor"]), pytest.approx(15 * p.seconds["floor"]))}
    assert p.mode == "15W" and p.power_source.startswith("estimate")


@pytest.mark.parametrize(("options", "words"), [({"batch": 0}, "at least 1"), ({"images": 0}, "at least 1"),
                                                ({"precision": "fp8"}, "no precision 'fp8'")])
def test_what_cannot_be_predicted(options, words):
    with pytest.raises(UsageError, match=words):
        predict(DiTSpec(5, 64, 8), **options)


def test_a_batch_beyond_memory_is_said():
    assert any("take a smaller batch" in note for note in predict(DiTSpec(12, 384, 12), batch=8192).notes)


# --- the user's records -------------------------------------------------------------------------------------------------------


def test_one_record_scales_and_has_no_error():
    fit = correct([Observation("x", 10, 25)])
    assert (fit.scale, fit.constant_ms, fit.error) == (pytest.approx(2.5), 0.0, None) and "no error known" in fit.text


def test_two_numbers_are_found_again_and_left_out_errors_are_theirs():
    fit = correct([Observation(str(x), x, 3 * x + 7) for x in (5, 10, 20, 40)])
    assert (fit.scale, fit.constant_ms) == (pytest.approx(3), pytest.approx(7))
    assert fit.error.points == 4 and fit.error.worst == pytest.approx(0, abs=1e-6)
    off = correct([Observation("a", 10, 20), Observation("b", 20, 30)])
    assert off.error.median == pytest.approx((100 * (1.5 * 10 / 20 - 1) * -1 + 100 * (2 * 20 / 30 - 1)) / 2)


def test_never_a_negative_constant_or_scale():
    assert correct([Observation("a", 10, 10), Observation("b", 20, 40)]).constant_ms == 0
    assert correct([Observation("a", 10, 40), Observation("b", 20, 20)]).scale > 0
    assert correct([]) is None


def test_a_record_with_few_batches_counts_less():
    full = correct([Observation("a", 10, 20), Observation("b", 10, 40)]).scale
    less = correct([Observation("a", 10, 20), Observation("b", 10, 40, weight=0.1)]).scale
    assert less < full


def test_records_of_the_device_correct_the_floor():
    plain = predict(DiTSpec(7, 128, 8))
    p = predict(DiTSpec(7, 128, 8), records=[record((5, 64, 8), seconds=0.05), record((7, 192, 12), seconds=0.15)])
    assert p.best == "corrected" and p.error_percent["corrected"].points == 2
    assert p.seconds["floor"] == plain.seconds["floor"] < p.seconds["corrected"] and p.seconds["paper_b"] == plain.seconds["paper_b"]
    assert "from 2 records" in p.models["corrected"]


def test_a_record_of_the_very_design_is_met():
    p = predict(DiTSpec(5, 64, 8), records=[record(seconds=0.05)])
    assert p.seconds["corrected"] == pytest.approx(391 * 0.05) and p.error_percent["corrected"] is None


def test_the_same_record_twice_counts_once(tmp_path):
    (tmp_path / "record.json").write_text(record(seconds=0.05).model_dump_json())
    p = predict(DiTSpec(5, 64, 8), records=[tmp_path, str(tmp_path), record(seconds=0.05)])
    assert p.error_percent["corrected"] is None and "from 1 record;" in p.models["corrected"]
    assert "no error known" in p.models["corrected"] and any("it counts once" in note for note in p.notes)


def test_records_of_one_design_have_no_error_and_are_left_out_together():
    own = [record(seconds=0.05), record(seconds=0.06)]
    p = predict(DiTSpec(5, 64, 8), records=own)
    assert p.error_percent["corrected"] is None and "from 2 records; all of one design: no error known" in p.models["corrected"]
    more = correct([Observation("a", 10, 20), Observation("a", 10, 20), Observation("b", 10, 30)])
    assert sorted([more.error.worst, more.error.median]) == pytest.approx([50, 50])  # "a" by "b" alone: 30 instead of 20, twice
    other = correct([Observation("a", 10, 20), Observation("a", 10, 20, design="of another size")])
    assert other.error is not None


def test_records_of_other_sizes_are_left_out_or_flagged():
    def sized(**sizes):
        made = record((7, 128, 8), seconds=0.1)
        return made.model_copy(update={"subject": made.subject.model_copy(update={"spec": DiTSpec(7, 128, 8, **sizes).to_dict()})})

    p = predict(DiTSpec(5, 64, 8), records=[record(), sized(image=16)])
    assert "from 1 record;" in p.models["corrected"] and any("images are 16×16, predicted are 32×32" in note for note in p.notes)
    p = predict(DiTSpec(5, 64, 8), records=[record(), sized(channels=1), record((9, 48, 6), batch=64)])
    assert "from 3 records" in p.models["corrected"]
    assert any("differ in channels: 1, 3" in note for note in p.notes) and any("differ in batch: 128, 64" in note for note in p.notes)


@pytest.mark.parametrize(("options", "share"), [({}, 1), ({"images": 1280}, 10 / 391), ({"batch": 64}, 391 * 2 / 391 / 2)])
def test_the_papers_own_time_of_a_design_is_scaled_by_images(options, share):
    p = predict(DiTSpec(5, 64, 8), "orin-nano-super", **options)
    assert p.best == "table" and p.seconds["table"] == pytest.approx(198.7 * share) and p.error_percent["table"] is None
    assert "table" not in predict(DiTSpec(5, 64, 8), "h200").seconds and "table" not in predict(DiTSpec(6, 64, 8)).seconds
    assert "table" not in predict(DiTSpec(5, 64, 8, channels=1)).seconds


def test_measured_power_takes_the_place_of_the_modes_range():
    p = predict(DiTSpec(5, 64, 8), records=[record(seconds=0.05, watts=8.0)])
    assert p.energy_j["corrected"] == (pytest.approx(8 * 391 * 0.05),) * 2 and p.power_source == "measured: your records"


@pytest.mark.parametrize(("other", "words"), [
    ({"board": "NVIDIA H200"}, "of another device"), ({"mode": "MAXN_SUPER"}, "power mode MAXN_SUPER, predicted is 15W"),
    ({"precision": "fp32"}, "precision fp32, predicted is fp16"), ({"batches": 2}, "2 batches are too few")])
def test_a_record_that_does_not_fit_is_left_out_and_said(other, words):
    p = predict(DiTSpec(5, 64, 8), records=[record(**other)])
    assert "corrected" not in p.seconds and any(words in note for note in p.notes)


def test_different_protocols_are_not_mixed_unsaid():
    p = predict(DiTSpec(5, 64, 8), records=[record(), record((7, 128, 8)), record((9, 48, 6), runtime="ort"), record(threads=2)])
    assert "from 3 records" in p.models["corrected"]
    assert any("runtime ort" in note for note in p.notes) and any("differ in threads" in note for note in p.notes)


def test_batch_and_guidance_of_a_record_are_taken_as_they_were():
    same = predict(DiTSpec(5, 64, 8), records=[record(seconds=0.05)]).seconds["corrected"]
    half = predict(DiTSpec(5, 64, 8), records=[record(seconds=0.025, batch=64)]).seconds["corrected"]
    bare = predict(DiTSpec(5, 64, 8), records=[record(seconds=0.025, guidance=1.0)]).seconds["corrected"]
    assert half == pytest.approx(same, rel=0.02) and bare == pytest.approx(same, rel=0.05)


def test_a_report_gets_one_of_a_kind():
    p = predict(DiTSpec(5, 64, 8), records=[record(seconds=0.05)])
    assert p.one_a_kind == {"paper": p.seconds["paper_b"], "floor": p.seconds["floor"], "corrected": p.seconds["corrected"]}
    assert set(predict(DiTSpec(5, 64, 8), "h200").one_a_kind) == {"floor"}


def test_everything_is_json():
    p = predict(DiTSpec(5, 64, 8), records=[record(seconds=0.05)])
    assert json.loads(json.dumps(p.to_dict()))["seconds"]["floor"] == p.seconds["floor"]
