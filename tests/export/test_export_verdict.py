"""The verdict on INT8 from two records, and the ladder with an INT8 bundle in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgedit.cli.ladder import compare_forms
from edgedit.core.artifact import create
from edgedit.core.errors import UsageError
from edgedit.core.record import RECORD_FILE, Distribution, Environment, Power, Protocol, Record, Subject
from edgedit.core.say import silent
from edgedit.core.spec import DiTSpec
from edgedit.evaluate.verdict import int8_verdict
from edgedit.export.bundle import ExportSettings, export
from edgedit.export.int8 import GateSettings, Int8Settings

SPEC = DiTSpec(1, 32, 4, image=8, classes=3)
QUALITY = {"quality": {"psnr_db": 43.79}, "fp16_quality": {"psnr_db": 66.2}}


def record(precision: str, ms: float, *, digest: str = "d" * 64, mj: float | None = None, cov_percent: float = 1.0,
           **environment) -> Record:
    """A record as `edgedit profile` writes them, with numbers made up."""
    times = Distribution(count=10, min=ms, mean=ms, median=ms, p90=ms, p95=ms, p99=ms, max=ms, cov_percent=cov_percent)
    facts = {"machine": "aarch64", "cpu": "A78AE", "cpu_count": 6, "os": "Linux", "python": "3.10", "board": "Orin Nano",
             "power_mode": "25W"}
    power = None if mj is None else Power(
        source="ina3221", boundary="module", rails=[], total_rail="VDD_IN", window_s=60, samples=600, rate_hz=10, largest_gap_s=0.2,
        idle_mw=None, idle_window_s=None, energy_total_mj=mj * 1280, energy_net_mj=None, mj_per_image=mj, net_mj_per_image=None)
    return Record(
        started_utc="2026-11-21T00:00:00Z",
        subject=Subject(label="(1,32,4)", spec=SPEC.to_dict(), bundle_digest=digest, onnx_sha256="0" * 64, precision=precision,
                        attention="pattern", guidance_scale=1.5, forward_batch=256, parameters=1, deployed_parameters=1, flops_per_image=1),
        environment=Environment(**{**facts, **environment}),
        protocol=Protocol(images=1280, batch=128, batches=10, last_batch=128, warmup_batches=3, seed=0, runtime="trt", provider="TensorRT"),
        wall_s=1, images_per_s=1, phases_s={}, batch_ms=times, period_ms=times, power=power)


@pytest.mark.parametrize(("fp16", "int8", "code", "words"), [
    (11.2, 10.0, "int8-faster", "INT8 is 1.12 × faster (10.00 ms against 11.20 ms a batch of 128, Orin Nano)"),
    (10.2, 10.0, "int8-not-worth", "INT8 is 1.02 × as fast"), (10.0, 40.0, "int8-not-worth", "INT8 is 4.00 × slower")])
def test_faster_slower_and_neither(fp16, int8, code, words):
    verdict = int8_verdict(QUALITY, record("fp16", fp16), record("int8", int8))
    assert verdict.code == code and verdict.text.startswith(words)
    assert "its images are 43.8 dB from FP32's, FP16's 66.2 dB" in verdict.text
    assert verdict.text.endswith("use it") == (code == "int8-faster") and ("FP16 is better" in verdict.text) == (code != "int8-faster")


@pytest.mark.parametrize(("ms", "cov_percent", "code"), [
    (8.5, 2.0, "int8-faster"), (8.5, 18.0, "int8-unknown"), (4.0, 18.0, "int8-faster")])
def test_unsteady_times_decide_nothing_within_their_scatter(ms, cov_percent, code):
    verdict = int8_verdict(QUALITY, record("fp16", 10.0, cov_percent=cov_percent), record("int8", ms, cov_percent=cov_percent))
    assert verdict.code == code


def test_energy_is_told_where_both_have_it():
    assert "0.80 × the energy an image" in int8_verdict(QUALITY, record("fp16", 10, mj=5), record("int8", 8, mj=4)).text
    assert "energy" not in int8_verdict(QUALITY, record("fp16", 10, mj=5), record("int8", 8)).text


def test_a_host_is_not_a_board():
    assert "A78AE, not a board" in int8_verdict(QUALITY, record("fp16", 10, board=None), record("int8", 8, board=None)).text


@pytest.mark.parametrize(("fp16", "int8", "words"), [
    (record("fp16", 10), record("int8", 8, power_mode="15W"), "power mode 25W and 15W"),
    (record("fp16", 10, gpu="Orin"), record("int8", 8, gpu="Thor"), "GPU Orin and Thor"),
    (record("fp32", 10), record("int8", 8), "precision fp32, int8"),
    (record("fp16", 10, clocks_locked=True), record("int8", 8, clocks_locked=False), "clocks locked True and False")])
def test_records_that_cannot_be_compared(fp16, int8, words):
    verdict = int8_verdict(QUALITY, fp16, int8)
    assert (verdict.code, verdict.level) == ("int8-unknown", "warning") and words in verdict.text and verdict.fix


def test_the_ladder_takes_int8_bundles_and_their_records(make_student, make_pairs, tmp_path):
    student = make_student(tmp_path / "student", SPEC)
    pairs = make_pairs(tmp_path / "pairs", SPEC)
    settings = Int8Settings(images=48, method="max", gate=GateSettings(images=12, psnr_db=20, mean_levels=20))
    made = {"fp16": export(student, tmp_path / "fp16", ExportSettings(precision="fp16", batch=4)),
            "int8": export(student, tmp_path / "int8", ExportSettings(precision="int8", batch=4, int8=settings), pairs=pairs)}
    records: list[Path] = []
    for (name, manifest), ms in zip(made.items(), (10.0, 8.0), strict=True):
        with create(tmp_path / f"record-{name}", "record") as draft:
            draft.write(RECORD_FILE, record(name, ms, digest=manifest.digest).model_dump_json())
        records.append(tmp_path / f"record-{name}")
    bundles = [tmp_path / name for name in made]
    body = compare_forms(student, bundles, tmp_path / "parity", images=6, seed=0, say=silent, records=records)
    rungs = {r["name"].split(":")[0]: r for r in body["rungs"] if r["against"] == body["reference"]}
    assert rungs["int8"]["verdict"] == "ok" and rungs["int8"]["mean_abs"] > rungs["fp16"]["mean_abs"] > 0
    assert [v["code"] for v in body["verdicts"]] == ["int8-faster"] and json.loads((tmp_path / "parity" / "parity.json").read_text())
    with pytest.raises(UsageError, match="none of these bundles"):
        compare_forms(student, bundles[:1], None, images=6, seed=0, say=silent, records=records)
