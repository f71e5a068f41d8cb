"""What a sweep predicts for its rows: by the right device, and never from a row's own record."""

from __future__ import annotations

import pytest
from design_kit import record

from edgedit.core.spec import DiTSpec
from edgedit.design.devices import find_device
from edgedit.design.predict import predict
from edgedit.design.sweep.predictions import predict_rows

DESIGNS = {"small": (5, 64, 8), "middle": (7, 128, 8), "large": (7, 192, 12)}
SPECS = {name: DiTSpec(*design) for name, design in DESIGNS.items()}
FP16 = dict.fromkeys(SPECS, "fp16")


def records(**given):
    return {name: record(design, seconds=s, **given) for (name, design), s in zip(DESIGNS.items(), (0.05, 0.09, 0.15), strict=True)}


def test_a_rows_own_record_is_kept_from_its_prediction():
    told = predict_rows(SPECS, FP16, records())
    wrong = records() | {"small": record(DESIGNS["small"], seconds=5.0)}
    assert predict_rows(SPECS, FP16, wrong)["small"] == told["small"]
    assert predict_rows(SPECS, FP16, wrong)["large"].seconds["corrected"] != told["large"].seconds["corrected"]
    others = [r for name, r in records().items() if name != "small"]
    assert told["small"].seconds == predict(SPECS["small"], mode="15W", records=others).one_a_kind


def test_the_device_is_the_records_in_their_mode():
    assert predict_rows(SPECS, FP16, records())["small"].device == "orin-nano 15W"
    assert predict_rows(SPECS, FP16, records(mode="MAXN_SUPER"))["small"].device == "orin-nano-super MAXN_SUPER"
    assert set(predict_rows(SPECS, FP16, records(board="NVIDIA H200"))["small"].seconds) == {"floor", "corrected"}
    assert predict_rows(SPECS, FP16, records(board="another board")) == {} == predict_rows(SPECS, FP16, {})


def test_a_device_that_was_named_is_taken_without_records():
    told = predict_rows(SPECS, FP16, {}, find_device("orin-nano"))
    assert told["small"].seconds == predict(SPECS["small"]).one_a_kind
    bare = predict_rows(SPECS, FP16, {}, find_device("orin-nano"), dict.fromkeys(SPECS, 1.0))
    assert bare["large"].seconds["floor"] == pytest.approx(told["large"].seconds["floor"] / 2, rel=0.1)


def test_what_no_model_speaks_of_is_left_out(tmp_path):
    file = tmp_path / "here.toml"
    file.write_text('kind = "cpu"\nfp32_tflops = 0.17\ndram_gb_s = 36.0\nexponentials_g = 4.0\n')
    told = predict_rows(SPECS, FP16 | {"small": "fp32"}, {}, find_device(file))
    assert list(told) == ["small"] and told["small"].device == "here"
