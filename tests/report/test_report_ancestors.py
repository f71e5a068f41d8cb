"""Facts of a record's engine and of its bundle's INT8 gate: shown where they are at hand and are the record's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgedit.core import artifact
from edgedit.core.record import Record, load_record
from edgedit.device.trt.engine import EngineKey
from edgedit.report import ancestors
from edgedit.report.page import write_report
from edgedit.report.sources import read_sources

Make = Callable[..., Path]
QUALITY = {"psnr_db": 41.25, "changed_percent": 38.0, "mean_levels": 0.74, "max_levels": 22, "perceptual": None}
INT8 = {"summary": "INT8 in all blocks; from FP32's images", "quality": QUALITY,
        "fp16_quality": {**QUALITY, "psnr_db": None, "mean_levels": 0.0},
        "limits": {"psnr_db": 30.0, "mean_levels": 2.0, "images": 64, "fallback": True}, "images": 64, "method": "percentile 99.99"}
KEY = EngineKey(onnx_sha256="d4" * 32, tensorrt="10.3.0", gpu="fixture GPU", compute_capability=(8, 7), sm_count=8, batch=128)


def bundle(folder: Path, info: dict[str, Any]) -> artifact.Parent:
    with artifact.create(folder, "bundle") as draft:
        draft.write("model.onnx", "not a graph")
        draft.info = {"label": "(5,64,8)", **info}
    return artifact.open_artifact(folder).as_parent("bundle")


def as_trt(folder: Path, out: Path, options: dict[str, Any]) -> Record:
    """The record at `folder` again, as TensorRT would have left it."""
    old = load_record(folder)
    protocol = old.protocol.model_copy(update={"runtime": "trt", "provider": "TensorRT 10.3.0 on fixture GPU (sm_87)", "options": options})
    made = old.model_copy(update={"protocol": protocol})
    with artifact.create(out, "record") as draft:
        draft.write("record.json", made.model_dump_json())
        draft.write("batches.jsonl", (folder / "batches.jsonl").read_bytes())
    return made


def engine(folder: Path) -> None:
    with artifact.create(folder, "engine") as draft:
        draft.write("engine.plan", b"plan")
        draft.write_json("fusion.json", {"blocks": [{"block": "blocks.0", "fused": True, "kernels": ["_gemm_mha_v2"], "why": ""},
                                                    {"block": "blocks.1", "fused": False, "kernels": [], "why": "head size 20"}]})
        draft.info = {"key": KEY.to_dict(), "attention": {"asked": "auto", "used": "pattern"}, "plan_bytes": 1_500_000,
                      "build": {"wall_s": 61.5, "workspace_mb": 512, "warnings": []}}


def test_gate_of_the_bundle_at_hand(tmp_path: Path, record: Make) -> None:
    parent = bundle(tmp_path / "bundle", {"int8": INT8})
    folder = record(tmp_path / "r", images=1000, precision="int8", parents=(parent,))
    table = ancestors.gate(read_sources([folder]).records[0])
    assert table is not None
    rows = {r[0]: tuple(c.replace("\u00a0", " ") for c in r[1:]) for r in table.rows}
    assert rows["PSNR"] == ("41.2 dB", "equal images", "30.0 dB") and rows["Mean error"] == ("0.740 levels", "0 levels", "2.00 levels")
    assert "Perceptual distance" not in rows and "percentile 99.99" in table.note and "64 images" in table.note.replace("\u00a0", " ")
    result = write_report([folder], tmp_path / "r.html")
    assert "INT8 quality gate" in result.html.read_text() and "INT8 quality gate" in result.markdown.read_text()


@pytest.mark.parametrize("state", ["gone", "altered", "another", "not int8"])
def test_no_gate_without_the_very_bundle(tmp_path: Path, record: Make, state: str) -> None:
    parent = bundle(tmp_path / "bundle", {} if state == "not int8" else {"int8": INT8})
    if state == "gone":
        (tmp_path / "bundle").rename(tmp_path / "elsewhere")
    elif state == "altered":
        (tmp_path / "bundle" / "model.onnx").write_text("not a grapH")
    elif state == "another":
        bundle(tmp_path / "bundle", {"int8": {**INT8, "images": 3}})
    folder = record(tmp_path / "r", images=1000, parents=(parent,))
    assert ancestors.gate(read_sources([folder]).records[0]) is None
    assert "INT8 quality gate" not in write_report([folder], tmp_path / "r.html").html.read_text()


def test_a_bundle_beside_the_record_is_found(tmp_path: Path, record: Make) -> None:
    parent = bundle(tmp_path / "here" / "bundle", {"int8": INT8})
    there = artifact.Parent(**{**vars(parent), "path": "/nowhere/bundle"})
    folder = record(tmp_path / "here" / "r", images=1000, parents=(there,))
    assert ancestors.gate(read_sources([folder]).records[0]) is not None


def test_engine_facts_of_a_tensorrt_record(tmp_path: Path, record: Make) -> None:
    engine(tmp_path / "engine")
    options = {"engine": KEY.digest, "engine_path": str(tmp_path / "engine"), "zero_copy": True, "cuda_graph": "captured", "noise": "gpu",
               "engine_memory_mb": 83.4, "fusion": {"blocks": 2, "fused": 1, "unknown": 0}}
    made = as_trt(record(tmp_path / "r", images=1000), tmp_path / "trt", options)
    facts = dict(ancestors.engine(made))
    assert facts["Fused attention"] == "1 of 2 blocks run as one kernel" and facts["CUDA graph"] == "captured"
    assert facts["Noise"] == "made on the GPU" and facts["Zero copy"].startswith("yes") and facts["Engine"] == KEY.digest
    built, blocks = ancestors.built(made)
    assert dict(built)["Attention asked for, used"] == "auto, pattern" and dict(built)["Builder's warnings"] == "0"
    assert blocks is not None and blocks.rows[1] == ("blocks.1", "separate kernels", "–", "head size 20")
    html = write_report([tmp_path / "trt"], tmp_path / "r.html").html.read_text()
    assert "TensorRT engine" in html and "_gemm_mha_v2" in html


def test_another_engine_at_the_path_is_not_taken(tmp_path: Path, record: Make) -> None:
    engine(tmp_path / "engine")
    options = {"engine": "00" * 32, "engine_path": str(tmp_path / "engine"), "cuda_graph": "off: as asked"}
    made = as_trt(record(tmp_path / "r", images=1000), tmp_path / "trt", options)
    assert ancestors.built(made) == ([], None)
    facts = dict(ancestors.engine(made))
    assert facts["CUDA graph"] == "off: as asked" and not {"Fused attention", "Noise", "Zero copy", "Engine memory"} & set(facts)


def test_records_of_other_runtimes_have_no_engine(tmp_path: Path, record: Make) -> None:
    folder = record(tmp_path / "r", images=1000)
    assert ancestors.engine(load_record(folder)) == []
    assert "TensorRT engine" not in write_report([folder], tmp_path / "r.html").html.read_text()


def test_the_digest_of_a_key_survives_the_manifest() -> None:
    """What `ancestors.built` relies on: an engine is named by the SHA-256 of its key as JSON with sorted keys."""
    again = json.loads(json.dumps(KEY.to_dict()))
    assert hashlib.sha256(json.dumps(again, sort_keys=True).encode()).hexdigest() == KEY.digest
