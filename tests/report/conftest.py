"""Synthetic records for the report's tests, made through the types that real ones are made with. Nothing here was measured."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedit.core import artifact, picture
from edgedit.core.artifact import Parent
from edgedit.core.record import (
    BATCHES_FILE,
    POWER_FILE,
    RECORD_FILE,
    SAMPLES_FILE,
    Distribution,
    Environment,
    Power,
    PowerRail,
    Protocol,
    Record,
    Subject,
    Verdict,
)
from edgedit.core.spec import DiTSpec

SECOND = 1_000_000_000
START_NS = 5_000 * SECOND
IDLE_S, IDLE_MW, RUN_MW = 10.0, 4_700.0, 9_400.0


def distribution(values: list[float]) -> Distribution:
    """Statistics of values, the percentile being the smallest value with that share at or below it."""
    ranked = sorted(values)

    def at(percent: float) -> float:
        return ranked[max(0, math.ceil(percent / 100 * len(ranked)) - 1)]

    mean = statistics.fmean(ranked)
    return Distribution(
        count=len(ranked),
        min=ranked[0],
        mean=mean,
        median=statistics.median(ranked),
        p90=at(90),
        p95=at(95),
        p99=at(99),
        max=ranked[-1],
        cov_percent=100 * statistics.pstdev(ranked) / mean,
    )


def chain_of_parents() -> Parent:
    """bundle ← student ← pairs, with made-up digests."""
    pairs = Parent("pairs", "pairs", "a1" * 32, "runs/pairs", "fixture pairs, ideal teacher")
    student = Parent("student", "student", "b2" * 32, "runs/student", "fixture student", (pairs,))
    return Parent("bundle", "bundle", "c3" * 32, "runs/bundle", "fixture bundle", (student,))


@cache
def grid_png(side: int, seed: int) -> bytes:
    """Eight by eight pictures of coloured blobs."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    images = np.empty((64, side, side, 3), np.uint8)
    for image in images:
        cx, cy, r = rng.uniform(0.3, 0.7, 3)
        blob = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (0.08 * r + 0.02))[..., None]
        image[:] = (255 * np.clip(rng.uniform(0, 0.5, 3) + blob * rng.uniform(0.2, 1, 3), 0, 1)).astype(np.uint8)
    return picture.png(picture.grid(images, columns=8, scale=2))


def make_record(
    folder: Path,
    *,
    images: int = 50_000,
    batch: int = 128,
    design: tuple[int, int, int] = (5, 64, 8),
    median_ms: float = 410.0,
    precision: str = "fp16",
    guidance: float = 1.5,
    board: str | None = "fixture board (not a Jetson)",
    power: bool = True,
    complete: bool = True,
    batches: int | None = None,
    spec: DiTSpec | None = None,
    seed: int = 0,
    label: str | None = None,
    extra: dict[str, Any] | None = None,
    verdicts: list[Verdict] | None = None,
    raw_batches: str | None = None,
    parents: tuple[Parent, ...] | None = None,
    boundary: str | None = None,
) -> Path:
    """Write a record folder whose figures hang together; see the keywords for what can be bent."""
    rng = random.Random(seed)
    spec = spec or DiTSpec(*design)
    asked = -(-images // batch)
    done = asked if batches is None else batches
    times = [
        median_ms * (1 + 0.006 * rng.gauss(0, 1) + (0.12 * rng.random() if rng.random() < 0.02 else 0)) for _ in range(done)
    ]
    now, rows = START_NS, []
    for k, ms in enumerate(times):
        end = now + round(ms * 1e6)
        rows.append({"batch": k, "start_ns": now, "end_ns": end, "compute_ms": ms})
        now = end + round(0.004 * median_ms * 1e6)
    wall = (now - START_NS) / 1e9
    kept = min(images, done * batch)
    samples, idle_from = [], START_NS - round((IDLE_S + 3) * SECOND)
    idle_to = idle_from + round(IDLE_S * SECOND)
    step = max(0.1, wall / 3000)
    for k in range(int((wall + IDLE_S + 5) / step)):
        t = idle_from + round(k * step * SECOND)
        busy = START_NS <= t <= now
        mw = (RUN_MW * (1 - 0.1 * math.exp(-(t - START_NS) / SECOND / 4)) if busy else IDLE_MW) + rng.gauss(0, 90)
        samples.append(
            {"t_ns": t, "source": "ina3221", "rails_mw": {"VDD_IN": mw, "VDD_CPU_GPU_CV": 0.52 * mw, "VDD_SOC": 0.21 * mw}}
        )
    samples.append({"window": "idle", "t0_ns": idle_from, "t1_ns": idle_to})
    samples.append({"window": "run", "t0_ns": START_NS, "t1_ns": now})
    inside = [s["rails_mw"]["VDD_IN"] for s in samples if "t_ns" in s and START_NS <= s["t_ns"] <= now]
    mean_mw = statistics.fmean(inside) if inside else RUN_MW
    energy = mean_mw * wall
    measured = (
        Power(
            source="ina3221",
            boundary=boundary or "module input VDD_IN; carrier board, fan and NVMe excluded",
            total_rail="VDD_IN",
            rails=[
                PowerRail(name=n, mean_mw=f * mean_mw, max_mw=f * max(inside, default=0.0), energy_mj=f * energy)
                for n, f in (("VDD_IN", 1.0), ("VDD_CPU_GPU_CV", 0.52), ("VDD_SOC", 0.21))
            ],
            window_s=wall,
            samples=int(wall / step),
            rate_hz=1 / step,
            largest_gap_s=step * 1.4,
            idle_mw=IDLE_MW,
            idle_window_s=IDLE_S,
            energy_total_mj=energy,
            energy_net_mj=energy - IDLE_MW * wall,
            mj_per_image=energy / kept,
            net_mj_per_image=(energy - IDLE_MW * wall) / kept,
        )
        if power and kept
        else None
    )
    found = [Verdict(level="ok", code="steady", text="steady: CoV 1.1 % ≤ 2.5 %")] if verdicts is None else verdicts
    if not power and verdicts is None:
        found.append(
            Verdict(
                level="note", code="power-none", text="no power source was found", fix="edgedit doctor lists what was tried"
            )
        )
    guided = 2 if guidance != 1 else 1
    none = Distribution(count=0, min=0, mean=0, median=0, p90=0, p95=0, p99=0, max=0, cov_percent=0)
    record = Record(
        started_utc="2026-11-21T12:00:00+00:00",
        subject=Subject(
            label=label or spec.label,
            spec=spec.to_dict(),
            bundle_digest="c3" * 32,
            onnx_sha256="d4" * 32,
            precision=precision,
            attention="pattern",
            guidance_scale=guidance,
            forward_batch=guided * batch,
            parameters=spec.parameters,
            deployed_parameters=spec.deployed_parameters,
            flops_per_image=guided * spec.flops,
        ),
        environment=Environment(
            machine="fixture machine (synthetic, nothing was measured)",
            cpu="fixture CPU",
            cpu_count=6,
            os="Linux fixture",
            python="3.12.3",
            packages={"numpy": "2.3.0", "onnxruntime": "1.31.0"},
            board=board,
            gpu="fixture GPU",
            power_mode="25W",
            power_mode_id=1,
            clocks_locked=True,
            cpu_governor="performance",
            temperature_c={"cpu": 51.2, "gpu": 52.8},
            extra=extra or {},
        ),
        protocol=Protocol(
            images=images,
            batch=batch,
            batches=asked,
            last_batch=images - (asked - 1) * batch,
            warmup_batches=5,
            seed=0,
            runtime="onnxruntime 1.31.0",
            provider="CPUExecutionProvider",
            threads=6,
            save=True,
        ),
        wall_s=wall,
        images_per_s=kept / wall if kept else 0.0,
        phases_s={
            "noise": 0.05 * wall,
            "upload": 0.01 * wall,
            "compute": sum(times) / 1e3,
            "download": 0.012 * wall,
            "save": 0.06 * wall,
        },
        batch_ms=distribution(times) if times else none,
        period_ms=distribution([t * 1.004 for t in times]) if times else none,
        peak_memory_mb=412.6,
        power=measured,
        verdicts=found,
        complete=complete,
    )
    with artifact.create(folder, "record") as draft:
        draft.write(RECORD_FILE, record.model_dump_json(indent=1))
        draft.write(BATCHES_FILE, "".join(json.dumps(r) + "\n" for r in rows) if raw_batches is None else raw_batches)
        if power:
            draft.write(POWER_FILE, "".join(json.dumps(s) + "\n" for s in samples))
        draft.write(SAMPLES_FILE, grid_png(32, seed))
        draft.parents = list(parents if parents is not None else (chain_of_parents(),))
        draft.settings = {"images": images, "batch": batch, "power": {"source": "auto", "rate_hz": 10}}
        draft.spec, draft.info = spec.to_dict(), {"label": f"fixture {spec.label}"}
    return folder


def make_parity(folder: Path, rungs: list[dict[str, Any]] | None = None) -> Path:
    """Write a parity ladder."""
    if rungs is None:
        rungs = [
            {
                "name": "folded form, fp32",
                "against": "torch fp32 training form",
                "max_abs": 2.4e-6,
                "mean_abs": 1.1e-7,
                "psnr_db": None,
                "changed_pixels_percent": 0.0,
                "max_levels": 0,
                "note": "exact in float64",
            },
            {
                "name": "ONNX fp32, onnxruntime",
                "against": "folded form, fp32",
                "max_abs": 3.9e-6,
                "mean_abs": 2.7e-7,
                "psnr_db": 88.2,
                "changed_pixels_percent": 0.0042,
                "max_levels": 1,
                "note": "",
            },
            {
                "name": "ONNX fp16, onnxruntime",
                "against": "ONNX fp32, onnxruntime",
                "max_abs": 0.0123,
                "mean_abs": 0.00058,
                "psnr_db": 61.7,
                "changed_pixels_percent": 5.31,
                "max_levels": 2,
                "note": "typed fp16, LayerNormalization in fp32",
            },
        ]
    with artifact.create(folder, "parity") as draft:
        draft.write_json(
            "parity.json", {"reference": "torch fp32 training form", "seeds": [0, 1], "images": 256, "rungs": rungs}
        )
        draft.parents = [chain_of_parents()]
    return folder


def make_student(folder: Path, steps: int = 4000) -> Path:
    """Write a training run whose loss falls by a power law."""
    rng = random.Random(1)
    with artifact.create(folder, "student") as draft:
        draft.write(
            "metrics.jsonl",
            "".join(
                json.dumps(
                    {"step": s, "loss": 0.9 * (1 + s / 40) ** -0.6 * math.exp(0.05 * rng.gauss(0, 1)), "images_per_s": 900}
                )
                + "\n"
                for s in range(10, steps + 1, 10)
            ),
        )
        draft.settings = {"loss": {"name": "lpips"}, "optimizer": {"lr": 1e-4, "weight_decay": 0.01}, "batch": 256}
        draft.info = {"label": "fixture student", "class_names": ["a"], "steps": steps, "loss": {"name": "lpips"}}
    return folder


def sweep_row(design: tuple[int, int, int] = (5, 64, 8), **bent: Any) -> dict[str, Any]:
    """A finished row of Table 6 with made-up figures; keywords replace fields."""
    spec = DiTSpec(*design)
    row: dict[str, Any] = {
        "name": "-".join(map(str, design)), "table": "table6", "published": None, "spec": spec.to_dict(), "label": spec.label,
        "setup": "get", "loss": "lpips", "parameters": spec.parameters, "deployed_parameters": spec.deployed_parameters,
        "budget": {"images_seen": 25_600, "steps": 100, "epochs": 1.0, "pairs": 25_600,
                   "cut": "trained on 25,600 of the paper's 100,000,000 images"},
        "quality": {"name": "FID-768-1k", "value": 2.5, "n": 1000, "path": "runs/evaluation"}, "accuracy": 0.25,
        "seconds": {"train": 321.0}, "status": "done", "why": "", "paths": {}, "images_per_s": 250.0, "latency_50k_s": 200.0,
        "energy_j_per_image": 0.0081, "device": "fixture CPU",
    }
    return row | bent


def make_sweep(folder: Path, rows: Any, name: str = "fixture sweep") -> Path:
    """Write a sweep artifact."""
    with artifact.create(folder, "sweep") as draft:
        draft.write_json("rows.json", rows)
        draft.info = {"label": name, "where": "local"}
    return folder


@pytest.fixture
def sweep() -> Callable[..., Path]:
    """`make_sweep`."""
    return make_sweep


@pytest.fixture
def row() -> Callable[..., dict[str, Any]]:
    """`sweep_row`."""
    return sweep_row


@pytest.fixture
def real_rows() -> list[dict[str, Any]]:
    """Rows with numbers of real small runs on a shared CPU (`real_rows.json`); rows that were not run wait.

    They show that a page of real rows holds together; as measurements of designs they are worth nothing.
    """
    rows: list[dict[str, Any]] = json.loads((Path(__file__).parent / "real_rows.json").read_text(encoding="utf-8"))
    return rows


@pytest.fixture
def record() -> Callable[..., Path]:
    """`make_record`."""
    return make_record


@pytest.fixture
def parity() -> Callable[..., Path]:
    """`make_parity`."""
    return make_parity


@pytest.fixture
def student() -> Callable[..., Path]:
    """`make_student`."""
    return make_student
