"""Ways to INT8 on one student: images against FP32's, where Q/DQ stand, and times on this CPU.

    python benchmarks/int8.py STUDENT PAIRS [--modelopt PYTHON] [--calibration 512] [--images 256] [--out FILE]

Every row quantises the same student, calibrated on the same pairs, and makes the same images from noise that no row was
calibrated on. "edgedit" rows: our placement, ranges by each method. "onnxruntime": `quantize_static` on the FP32 graph, as it
comes (symmetric, per-channel weights) and told to take products with weights of the blocks only. "modelopt": NVIDIA ModelOpt,
as it comes with --disable_mha_qdq, and told the same; PYTHON is an interpreter that has `nvidia-modelopt[onnx]` 0.47.
onnxruntime and modelopt keep all activations of all batches in memory for entropy: 20 GB for 256 pairs of 256 tokens and 8 heads.
Findings are the linter's (`edgedit.export.lint`). Times are of whole batches of 32 in ONNX Runtime on this CPU: they say nothing about
an Orin.
"""

from __future__ import annotations

import argparse
import logging
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import onnx

from edgedit.core.noise import labels, noise
from edgedit.export.calibrate import calibrate, choose, open_pairs
from edgedit.export.check import open_session
from edgedit.export.gate import Quality
from edgedit.export.graph import build, build_with_sites
from edgedit.export.int8 import Int8Settings, scales_of, sites_of
from edgedit.export.lint import PRODUCTS, lint
from edgedit.export.plan import Plan
from edgedit.model.checkpoint import load_student, usual_guidance
from edgedit.model.deploy import fold

RESULTS = Path(__file__).parent / "results" / "int8.txt"
BATCH, SEED, ROUNDS = 32, 1 << 40, 30
MODELOPT = """
import json, sys
import numpy as np
from modelopt.onnx.quantization import quantize
a = json.loads(sys.argv[1])
quantize(onnx_path=a["graph"], quantize_mode="int8", calibration_data=dict(np.load(a["data"])), calibration_method=a["method"],
         calibration_eps=["cpu"], output_path=a["out"], high_precision_dtype="fp16", disable_mha_qdq=True, log_level="ERROR",
         **a["more"])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", type=Path)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--modelopt", type=Path)
    parser.add_argument("--calibration", type=int, default=512)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--out", type=Path, default=RESULTS)
    a = parser.parse_args()
    logging.disable(logging.WARNING)
    lines: list[str] = []

    def tell(line: str = "") -> None:
        print(line, flush=True)
        lines.append(line)

    tell(f"$ python benchmarks/int8.py {shlex.join(sys.argv[1:])}")
    import onnxruntime
    tell(f"{_cpu()}, {onnxruntime.__name__} {onnxruntime.__version__}, onnx {onnx.__version__}")
    bench = Bench(a.student, a.pairs, a.calibration, a.images)
    spec = bench.network.spec
    tell(f"{spec.label}, image {spec.image}, {spec.tokens} tokens, head size {spec.head_size}, {bench.calibration} pairs for calibration, "
         f"{a.images} images compared")
    tell(f"\n{'':<44}{'PSNR dB':>8}{'changed':>9}{'mean':>7}{'max':>5}{'Q':>5}{'DQ':>5}{'seconds':>9}  findings")
    for name, make in bench.ways(a.modelopt):
        start = time.monotonic()
        graph = make()
        seconds = time.monotonic() - start
        quality = Quality.of(bench.images(graph), bench.reference)
        kinds = Counter(node.op_type for node in graph.graph.node)
        findings = Counter(finding.rule for finding in lint(graph))
        shown = ", ".join(f"{rule} {n}" for rule, n in findings.most_common()) or "none"
        tell(f"{name:<44}{quality.psnr_db or float('inf'):>8.1f}{quality.changed_percent:>8.1f}%{quality.mean_levels:>7.3f}"
             f"{quality.max_levels:>5}{kinds['QuantizeLinear']:>5}{kinds['DequantizeLinear']:>5}{seconds:>9.1f}  {shown}")
    tell(f"\nthis CPU, batch {BATCH}, best of {ROUNDS} in turn, with other work on the machine (says nothing about an Orin)")
    for name, milliseconds in bench.times().items():
        tell(f"{name:<44}{milliseconds:>10.1f} ms")
    old = a.out.read_text() + "\n\n" if a.out.exists() else ""
    a.out.write_text(old + "\n".join(lines) + "\n")


class Bench:
    """One student with its pairs, and every way to quantise it."""

    def __init__(self, student: Path, pairs: Path, calibration: int, images: int) -> None:
        model, _, facts = load_student(student)
        self.scale = usual_guidance(facts)
        self.network, self.count = fold(model.float(), self.scale), images
        spec = self.network.spec
        self.pairs = open_pairs(pairs, spec)
        indices = choose(self.pairs, calibration)[: calibration // BATCH * BATCH]
        self.calibration, self.shape = len(indices), (spec.channels, spec.image, spec.image)
        self.feed = {"noise": self.pairs.noise(indices), "labels": self.pairs.labels(indices).astype(np.int32)}
        self.folder = Path(tempfile.mkdtemp(prefix="edgedit-int8-"))
        self.plain = self.folder / "fp32.onnx"
        fp32 = self.plan("fp32", BATCH)
        onnx.save(build(self.network, fp32), str(self.plain))
        np.savez(self.folder / "data.npz", **self.feed)
        self.reference = self.images(build(self.network, fp32))

    def plan(self, precision: str, batch: int | None = None, attention: str = "pattern") -> Plan:
        return Plan.of(self.network.spec, precision, attention, batch=batch, guidance_scale=self.scale)

    def images(self, graph: onnx.ModelProto) -> np.ndarray:
        """uint8 images of noise that nothing was calibrated on."""
        session, made = open_session(graph.SerializeToString()), []
        for start in range(0, self.count, BATCH):
            indices = range(start, start + BATCH)
            feed = noise(SEED, indices, self.shape), labels(SEED, indices, self.network.spec.classes)
            made.append(session.run(None, dict(zip(("noise", "labels"), feed, strict=True)))[0])
        return np.concatenate(made)[: self.count]

    def times(self) -> dict[str, float]:
        """Best milliseconds of a batch, all graphs in turn."""
        sessions = {name: open_session(graph.SerializeToString()) for name, graph in self.timed()}
        feed = {"noise": noise(SEED, range(BATCH), self.shape), "labels": labels(SEED, range(BATCH), self.network.spec.classes)}
        best = dict.fromkeys(sessions, float("inf"))
        for _ in range(ROUNDS):
            for name, session in sessions.items():
                start = time.perf_counter()
                session.run(None, feed)
                best[name] = min(best[name], 1e3 * (time.perf_counter() - start))
        return best

    # --- ways -----------------------------------------------------------------------------------------------------------

    def ours(self, **settings: object) -> onnx.ModelProto:
        chosen = Int8Settings.model_validate({"images": self.calibration, **settings})
        graph, places = build_with_sites(self.network, self.plan("fp32"))
        sites = sites_of(range(self.network.spec.depth), chosen)
        found = calibrate(graph, {site: places[site] for site in sites}, self.pairs, chosen)
        return build(self.network, replace(self.plan("fp16", BATCH), scales=scales_of(found.ranges, sites)))

    def theirs(self, *, method: str, told: bool) -> onnx.ModelProto:
        """ONNX Runtime's quantize_static on the FP32 graph."""
        import onnxruntime.quantization as ort

        out, feed = self.folder / "ort.onnx", self.feed

        class Reader(ort.CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self.batches = iter([{k: v[i : i + BATCH] for k, v in feed.items()} for i in range(0, len(feed["labels"]), BATCH)])

            def get_next(self) -> dict[str, np.ndarray] | None:
                return next(self.batches, None)

        more = {"op_types_to_quantize": ["MatMul"], "nodes_to_quantize": self.linears()} if told else {}
        symmetric = {"ActivationSymmetric": True, "WeightSymmetric": True, "CalibTensorRangeSymmetric": True}
        with redirect_stdout(StringIO()):  # it prints what it does
            ort.quantize_static(str(self.plain), str(out), Reader(), quant_format=ort.QuantFormat.QDQ, per_channel=True,
                                activation_type=ort.QuantType.QInt8, weight_type=ort.QuantType.QInt8,
                                calibrate_method=ort.CalibrationMethod[method], extra_options=symmetric, **more)
        return onnx.load(str(out))

    def modelopt(self, python: Path, *, method: str, told: bool) -> onnx.ModelProto:
        import json

        out = self.folder / "modelopt.onnx"
        more = {"op_types_to_quantize": ["MatMul"], "nodes_to_quantize": self.linears()} if told else {}
        asked = {"graph": str(self.plain), "data": str(self.folder / "data.npz"), "out": str(out), "method": method, "more": more}
        done = subprocess.run([str(python), "-c", MODELOPT, json.dumps(asked)], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        return onnx.load(str(out))

    def linears(self) -> list[str]:
        """Names of the blocks' products with weights."""
        nodes = [node for node in onnx.load(str(self.plain)).graph.node if node.op_type in PRODUCTS]
        return [node.name for node in nodes if node.name.startswith("block") and node.name.endswith("/product")]

    def ways(self, modelopt: Path | None) -> Iterator[tuple[str, Callable[[], onnx.ModelProto]]]:
        yield "FP16", lambda: build(self.network, self.plan("fp16", BATCH))
        for method in ("max", "percentile", "entropy", "mse"):
            yield f"edgedit, {method}", lambda method=method: self.ours(method=method)  # type: ignore[misc]
        if self.plan("fp16").head_size in (16, 32, 64):
            yield "edgedit, mse, attention products too", lambda: self.ours(method="mse", attention=True)
        yield "edgedit, mse, residual sums too", lambda: self.ours(method="mse", residual=True)
        for told in (False, True):
            for method in ("MinMax", "Entropy"):
                yield (f"onnxruntime, {method}, {'told' if told else 'as it comes'}",
                       lambda method=method, told=told: self.theirs(method=method, told=told))  # type: ignore[misc]
        for told in (False, True) if modelopt else ():
            for method in ("max", "entropy"):
                yield (f"modelopt, {method}, {'told' if told else 'as it comes'}",
                       lambda method=method, told=told: self.modelopt(modelopt, method=method, told=told))  # type: ignore[misc,arg-type]

    def timed(self) -> Iterator[tuple[str, onnx.ModelProto]]:
        yield "FP32, attention ort", build(self.network, self.plan("fp32", BATCH, "ort"))
        yield "FP32, attention pattern", build(self.network, self.plan("fp32", BATCH))
        yield "FP16, attention pattern", build(self.network, self.plan("fp16", BATCH))
        yield "INT8, attention pattern", self.ours(method="mse")


def _cpu() -> str:
    names = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()} × {len(names)}"


if __name__ == "__main__":
    main()
