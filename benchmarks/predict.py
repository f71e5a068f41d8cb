"""The floor model of `edgedit design` against this CPU: thirteen designs, untrained, through ONNX Runtime.

    python benchmarks/predict.py [--rounds 8] [--json]

1. Three rates of one core are measured with single operators: matrix products, copying, exponentials. They go into a device
   file, benchmarks/results/predict-device.toml, as any user would write one.
2. Every design is exported with random weights (FP32, dialect `ort`, guidance 1.5) and run at batch 32 on one thread, rounds
   interleaved. What counts is the best round's CPU time of the process: others use the machine at the same time, and a wall clock
   would measure them. Nothing of the 50,000 images' protocol is claimed.
3. Three predictions, none of which has seen the design it is judged on:
     rates          the floor from the device file, nothing fitted.
     corrected      scale · floor + constant, what `edgedit predict` does with records: from four designs for the nine others, and
                    left out one by one.
     fitted rates   the same three kinds of work with the rates themselves fitted, left out one by one: how far the form of the
                    model carries, whatever the rates.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper

from edgedit.core.noise import labels, noise
from edgedit.core.spec import DiTSpec
from edgedit.design.corrected import Observation, correct
from edgedit.design.cost import Work, cost
from edgedit.design.devices import find_device
from edgedit.design.floor import floor
from edgedit.design.published import ROWS
from edgedit.export.graph import build
from edgedit.export.plan import Plan
from edgedit.model.deploy import fold
from edgedit.model.dit import DiT

BATCH, GUIDANCE = 32, 1.5
DESIGNS = [DiTSpec(r.depth, r.width, r.heads) for r in ROWS] + [DiTSpec(6, 128, 4)]
GIVEN = ("(1,128,8)", "(5,64,8)", "(7,128,8)", "(7,192,12)")
"""The designs whose records correct the floor: the three proposed ones and the fastest."""
FILE = Path(__file__).resolve().parent / "results" / "predict-device.toml"


def cpu_ms(task: Callable[[], object], rounds: int) -> float:
    """Best CPU time of the process over some rounds after a warm-up."""
    task()
    times = []
    for _ in range(rounds):
        start = time.process_time()
        task()
        times.append(1e3 * (time.process_time() - start))
    return min(times)


def session(model: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def operator(kind: str, *shapes: list[int], **attributes: Any) -> Callable[[], object]:
    """A graph of one operator on random inputs."""
    names = [f"x{i}" for i in range(len(shapes))]
    graph = helper.make_graph([helper.make_node(kind, names, ["y"], **attributes)], "one",
                              [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(names, shapes, strict=True)],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", "columns"])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    opened, chance = session(model.SerializeToString()), np.random.default_rng(0)
    feeds = {n: chance.standard_normal(s, np.float32) for n, s in zip(names, shapes, strict=True)}
    return lambda: opened.run(None, feeds)


def rates(rounds: int) -> dict[str, float]:
    """Figures of one core: a large product, a copy beyond the caches, a softmax that stays inside them."""
    source, target = np.ones(32 << 20, np.float32), np.empty(32 << 20, np.float32)
    target[:] = 0
    product = cpu_ms(operator("MatMul", [1024, 1024], [1024, 1024]), rounds)
    copied = cpu_ms(lambda: np.copyto(target, source), rounds)
    softmax = cpu_ms(operator("Softmax", [1024, 256], axis=-1), 4 * rounds)
    return {"fp32_tflops": 2 * 1024**3 / product / 1e9, "dram_gb_s": 2 * source.nbytes / copied / 1e6,
            "exponentials_g": 1024 * 256 / softmax / 1e6}


def write_device(figures: dict[str, float]) -> None:
    """The device file, as a user would write it."""
    lines = ["# One core of the machine that benchmarks/predict.py ran on, measured by it.",
             f'title = "one core of {cpu_name()}"', 'kind = "cpu"', *(f"{k} = {v:.4g}" for k, v in figures.items()), "", "[sources]",
             'fp32_tflops = "measured: product of two 1024 × 1024 matrices in ONNX Runtime, CPU time of one thread"',
             'dram_gb_s = "measured: copy of 128 MiB, bytes read and written"',
             'exponentials_g = "measured: softmax of 1024 × 256 in ONNX Runtime"']
    FILE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def cpu_name() -> str:
    """Model name of the CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    found = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.processor() or platform.machine()


def student(spec: DiTSpec) -> bytes:
    """An exported design with random weights: speed does not depend on them."""
    model, chance = DiT(spec).eval(), torch.Generator().manual_seed(0)
    for weight in model.parameters():
        if weight is not model.position:
            weight.data = 0.5 * weight.shape[-1] ** -0.5 * torch.randn(weight.shape, generator=chance)
    return build(fold(model, GUIDANCE), Plan.of(spec, "fp32", "ort", batch=BATCH, guidance_scale=GUIDANCE)).SerializeToString()


def measure(rounds: int) -> dict[str, list[float]]:
    """CPU milliseconds of a batch by design, all rounds after the first, sorted."""
    z, c = noise(0, range(BATCH), (3, 32, 32)), labels(0, range(BATCH), 10)
    opened = {spec.label: session(student(spec)) for spec in DESIGNS}
    times: dict[str, list[float]] = {label: [] for label in opened}
    for n in range(rounds + 1):
        for label, run in opened.items():
            start = time.process_time()
            run.run(None, {"noise": z, "labels": c})
            if n:
                times[label].append(1e3 * (time.process_time() - start))
    return {label: sorted(all_times) for label, all_times in times.items()}


def fitted(works: list[Work], measured: list[float]) -> list[float]:
    """Predictions left out one by one, with the three rates fitted to the others (relative errors, no rate below zero)."""
    from scipy.optimize import nnls

    kinds = np.array([[w.product_flops + w.attention_flops, w.operator_bytes, w.exponentials] for w in works], float)
    kinds /= kinds.max(axis=0)
    y, predicted = np.array(measured), []
    for i in range(len(y)):
        rest = np.arange(len(y)) != i
        k = nnls(kinds[rest] / y[rest, None], np.ones(rest.sum()))[0]
        predicted.append(float(kinds[i] @ k))
    return predicted


def summary(predicted: dict[str, float], measured: dict[str, float]) -> dict[str, float]:
    """Median and worst error in percent over the designs predicted."""
    away = [100 * abs(p / measured[label] - 1) for label, p in predicted.items()]
    return {"designs": len(away), "median_percent": round(statistics.median(away), 1), "worst_percent": round(max(away), 1)}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=8)
    options.add_argument("--json", action="store_true")
    args = options.parse_args()
    torch.set_num_threads(1)
    begun, load = time.process_time(), os.getloadavg()[0]
    write_device(rates(args.rounds))
    device = find_device(FILE)
    times = measure(args.rounds)
    measured = {label: t[0] for label, t in times.items()}
    works = [cost(spec, "fp32", GUIDANCE, dialect="ort") for spec in DESIGNS]
    floors = {spec.label: floor(work, device, BATCH).batch_ms for spec, work in zip(DESIGNS, works, strict=True)}
    seen = [Observation(label, floors[label], measured[label]) for label in floors]
    four = correct([o for o in seen if o.label in GIVEN])
    each = {o.label: correct([x for x in seen if x is not o]) for o in seen}
    assert four is not None
    predicted = {
        "rates": floors, "corrected_by_four": {o.label: four.batch_ms(o.floor_ms) for o in seen if o.label not in GIVEN},
        "corrected_left_out": {o.label: fit.batch_ms(o.floor_ms) for o in seen if (fit := each[o.label]) is not None},
        "fitted_rates_left_out": dict(zip(measured, fitted(works, list(measured.values())), strict=True))}
    errors = {name: summary(values, measured) for name, values in predicted.items()}
    result = {"cpu": cpu_name(), "threads": 1, "batch": BATCH, "rounds": args.rounds, "load": [load, os.getloadavg()[0]],
              "onnxruntime": ort.__version__, "torch": torch.__version__, "python": platform.python_version(),
              "rates": {k: getattr(device, k) for k in ("fp32_tflops", "dram_gb_s", "exponentials_g")}, "correction_by_four": four.text,
              "designs": {label: {"measured_ms": measured[label], "median_ms": statistics.median(times[label]),
                                  **{k: v.get(label) for k, v in predicted.items()}} for label in measured},
              "errors": errors, "cpu_s": round(time.process_time() - begun, 1)}
    if args.json:
        print(json.dumps(result, indent=1))
        return 0
    print(f"python benchmarks/predict.py --rounds {args.rounds}\n{result['cpu']}, one thread of {os.cpu_count()} cores, shared machine "
          f"(load {load:.1f} to {result['load'][1]:.1f}); ONNX Runtime {ort.__version__}, Python {result['python']}; "
          f"{result['cpu_s']:.0f} CPU-seconds")
    print(f"rates of one core: {1e3 * device.need('fp32_tflops'):.0f} GFLOP/s in products, {device.need('dram_gb_s'):.1f} GB/s copied, "
          f"{device.need('exponentials_g'):.2f} ·10⁹ exponentials/s")
    print(f"corrected by {', '.join(GIVEN)}: {four.text}\n")
    print("CPU milliseconds of a batch of 32 guided images, FP32, dialect ort")
    print(f"{'design':<12} {'best':>8} {'median':>8} {'rates':>14} {'by four':>14} {'left out':>14} {'fitted rates':>14}")
    for label, row in result["designs"].items():
        cells = [row["rates"], row["corrected_by_four"], row["corrected_left_out"], row["fitted_rates_left_out"]]
        shown = ["given" if v is None else f"{v:.0f} ({100 * (v / measured[label] - 1):+.0f} %)" for v in cells]
        print(f"{label:<12} {measured[label]:>8.0f} {row['median_ms']:>8.0f} " + " ".join(f"{s:>14}" for s in shown))
    print("\nerror on designs that were not used")
    for name, e in errors.items():
        print(f"{name:<24} median {e['median_percent']:>5.1f} %, worst {e['worst_percent']:>5.1f} %, {e['designs']:.0f} designs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
