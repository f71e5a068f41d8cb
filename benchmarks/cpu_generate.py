"""Generation on a CPU: the exported FP32 bundle in ONNX Runtime against the training form in eager PyTorch, in the same run.

    python benchmarks/cpu_generate.py [--batch 128] [--rounds 7] [--threads 2] [--more]

Both sides make the same guided images (scale 1.5, so each image passes the network twice) from the same random weights with
the same number of threads. The peer is the plain `DiT` under `torch.inference_mode()`, without the conversion to uint8 that
the bundle includes. Rounds are interleaved, so that a busy machine hits both sides; the ratio is the median of the rounds'
ratios. `--more` adds the folded network in eager PyTorch and the other two attention dialects. The time by operator is ONNX
Runtime's own profile of one batch. Prints one JSON object and exits with 1 when a target ratio is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort
import torch

from edgedit.core.artifact import create
from edgedit.core.noise import labels, noise
from edgedit.core.spec import DiTSpec
from edgedit.device.bundle import Bundle
from edgedit.device.runtime import open_runtime
from edgedit.export.bundle import ExportSettings, export
from edgedit.model.checkpoint import KIND, WEIGHTS, load_student, save_weights
from edgedit.model.deploy import fold
from edgedit.model.dit import DiT

GUIDANCE = 1.5
TARGETS = {"(5,64,8)": (DiTSpec(5, 64, 8), 1.15), "(7,192,12)": (DiTSpec(7, 192, 12), 1.5)}


def _student(folder: Path, spec: DiTSpec) -> Path:
    """A student with random weights everywhere: speed does not depend on them, but zeros might be special."""
    model, chance = DiT(spec), torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if name != "position":
            weight.data = 0.5 * weight.shape[-1] ** -0.5 * torch.randn(weight.shape, generator=chance)
    with create(folder, KIND) as draft:
        save_weights(draft.path / WEIGHTS, spec, model.state_dict())
        draft.spec = spec.to_dict()
    return folder


def _operators(model: Path, feeds: dict[str, Any], threads: int) -> dict[str, dict[str, float]]:
    """Milliseconds and share of each operator type in one batch, from ONNX Runtime's profiler after a warm-up."""
    with tempfile.TemporaryDirectory() as scratch:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        options.enable_profiling, options.profile_file_prefix = True, str(Path(scratch) / "profile")
        session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        for _ in range(2):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    spent: Counter[str] = Counter()
    for event in kernels[len(kernels) // 2 :]:
        spent[event["args"]["op_name"]] += event["dur"] / 1e3
    return {name: {"ms": round(ms, 1), "percent": round(100 * ms / spent.total(), 1)} for name, ms in spent.most_common()}


def measure(spec: DiTSpec, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Images per second of both sides, their ratio by round, and where the time goes."""
    student = _student(folder / "student", spec)
    model = load_student(student)[0]
    z, c = noise(0, range(args.batch), (spec.channels, spec.image, spec.image)), labels(0, range(args.batch), spec.classes)
    zt, ct = torch.from_numpy(z), torch.from_numpy(c).long()
    tasks: dict[str, Callable[[], object]] = {"torch_training_form": lambda: model.guided(zt, ct, GUIDANCE)}
    if args.more:
        folded = fold(model, GUIDANCE)
        tasks["torch_folded"] = lambda: folded(zt, ct)
    runtimes = []
    for attention in ("ort", "pattern", "onnx") if args.more else ("ort",):
        out = folder / attention
        export(student, out, ExportSettings(attention=attention, batch=args.batch, guidance_scale=GUIDANCE))
        runtimes.append(open_runtime(Bundle.open(out), "ort", threads=args.threads))
        tasks[f"bundle_{attention}"] = lambda runtime=runtimes[-1]: runtime.infer(z, c)
    rounds: list[dict[str, float]] = []
    with torch.inference_mode():
        for n in range(args.rounds + 1):
            times = {}
            for name, task in tasks.items():
                start = time.perf_counter()
                task()
                times[name] = time.perf_counter() - start
            if n:  # the first round warms up
                rounds.append(times)
    for runtime in runtimes:
        runtime.close()
    ratios = [r["torch_training_form"] / r["bundle_ort"] for r in rounds]
    return {
        "images_per_s": {name: round(args.batch / statistics.median(r[name] for r in rounds), 1) for name in tasks},
        "times_faster": round(statistics.median(ratios), 2), "by_round": [round(r, 2) for r in ratios],
        "operators": _operators(folder / "ort" / "model.onnx", {"noise": z, "labels": c}, args.threads)}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options.add_argument("--more", action="store_true", help="also the folded network in PyTorch and the other dialects")
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    result: dict[str, Any] = {"batch": args.batch, "guidance_scale": GUIDANCE, "threads": args.threads, "rounds": args.rounds,
                              "torch": torch.__version__, "onnxruntime": ort.__version__, "load_before": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as folder:
        result["designs"] = {label: measure(spec, Path(folder) / str(spec.depth), args) for label, (spec, _) in TARGETS.items()}
    result["load_after"] = os.getloadavg()[0]
    result["targets"] = {label: least for label, (_, least) in TARGETS.items()}
    result["reached"] = all(result["designs"][label]["times_faster"] >= least for label, least in result["targets"].items())
    print(json.dumps(result, indent=1))
    return 0 if result["reached"] else 1


if __name__ == "__main__":
    sys.exit(main())
