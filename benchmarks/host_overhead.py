"""What the host adds to each batch: everything in Python between two launches, with a runtime or driver that computes nothing.

    python benchmarks/host_overhead.py [--batches 300] [--compute-ms 5] [--batch 128] [--skip-tensorrt]

The whole profile path runs (noise worker, queues, times to disk, progress).
* "no-op runtime": sleeps where a device would compute; the gap is from the end of one run to the start of the next.
* "tensorrt": the real TrtRuntime through real pycuda and cuda-python on the software driver of tests/fake_cuda, which computes
  and copies nothing and lets each launched graph take `compute_ms` of a timeline. "between waits" is all that the calling thread
  does from one awaited batch to the next: copy the images out, hand them on, take the next lane, queue it; "processor" is what
  of it the thread really ran. The next batch is queued before the last one is awaited, so that none of it holds the device up
  while it is shorter than a batch: "device busy". With noise made on the host, "between waits" includes waiting for it. Plain
  enqueue leaves TensorRT's own calls out: there is no library here.
Prints one JSON object and exits with 1 when a median (with host noise: of the processor time) is above 0.3 ms.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgedit.core.artifact import create
from edgedit.core.record import BATCHES_FILE, Record
from edgedit.core.spec import DiTSpec
from edgedit.device.bundle import Bundle
from edgedit.device.measure import ProfileSettings
from edgedit.device.profile import profile
from edgedit.device.runtime import Phases, RuntimeChoice

ROOT = Path(__file__).resolve().parents[1]
TARGET_MS = 0.3


class SleepingRuntime:
    """Takes `compute_s` a batch without using the processor, as a device would."""

    name, provider, version, threads = "sleep", "none", "1", None

    def __init__(self, bundle: Bundle, compute_s: float) -> None:
        self.batch, self.phases, self.options = None, Phases(compute_s=compute_s), {}
        self._images = np.zeros((bundle.batch, *bundle.image_shape), np.uint8)
        self._compute_s = compute_s

    def load(self, bundle: Bundle) -> None:
        """Nothing to load."""

    def infer(self, noise: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Grey images."""
        if self._compute_s:
            time.sleep(self._compute_s)
        return self._images

    def close(self) -> None:
        """Nothing to close."""


def stand_in_bundle(folder: Path, batch: int, model: bytes = b"") -> Bundle:
    """A bundle with the facts of the 0.42M design and a graph that does nothing like it."""
    spec = DiTSpec(depth=5, width=64, heads=8)
    with create(folder, "bundle") as draft:
        draft.write("model.onnx", model)
        draft.spec = spec.to_dict()
        draft.settings = {"precision": "fp32", "attention": "pattern", "batch": batch, "dynamic": not model, "guidance_scale": 1.5,
                          "opset": 17}
        draft.info = {"label": spec.label, "class_names": [str(k) for k in range(spec.classes)], "null_class": spec.null_class,
                      "parameters": spec.parameters, "deployed_parameters": spec.deployed_parameters}
    return Bundle.open(folder)


def spread(values: list[float]) -> dict[str, float]:
    """Median and tail, in the unit of the values."""
    ordered = sorted(values)
    return {"median": round(statistics.median(ordered), 4), "p90": round(ordered[int(0.9 * len(ordered))], 4),
            "p99": round(ordered[int(0.99 * len(ordered))], 4), "max": round(ordered[-1], 4)}


def no_op_runtime(folder: Path, args: argparse.Namespace, settings: ProfileSettings) -> dict[str, Any]:
    """Gaps around a runtime that sleeps."""
    bundle = stand_in_bundle(folder / "bundle", args.batch)
    record = profile(bundle.path, SleepingRuntime(bundle, args.compute_ms / 1e3), folder / "record", settings)
    lines = [json.loads(line) for line in (folder / "record" / BATCHES_FILE).read_text().splitlines()]
    gaps = [(after["start_ns"] - before["end_ns"]) / 1e6 for before, after in itertools.pairwise(lines[5:])]
    return {"gap_ms": spread(gaps), "of_which_waiting_for_noise_ms": round(statistics.median(line["wait_ms"] for line in lines[6:]), 4),
            **_common(record, len(lines))}


def tensorrt(folder: Path, args: argparse.Namespace, settings: ProfileSettings) -> dict[str, Any]:
    """The TensorRT path on doubles; what each way costs the host."""
    sys.path.insert(0, str(ROOT / "tests/device"))
    from trt_kit import board, engine, graph

    os.environ["EDGEDIT_FAKE_CUDA_GRAPH_MS"] = str(args.compute_ms)
    found: dict[str, Any] = {}
    spec = DiTSpec(depth=5, width=64, heads=8)
    bundle = stand_in_bundle(folder / "bundle", args.batch, graph(spec, args.batch))
    from tests.fake_cuda import H100, ORIN_NANO

    for board_name, gpu in (("orin, zero-copy", ORIN_NANO), ("h100, copies", H100)):
        with board(gpu, lazy=False) as double, _no_op_plan(double):
            where = engine(folder / f"engine-{gpu['sm_count']}", bundle)
            for way, choice in (("graph, gpu noise", {}), ("graph, host noise", {"device_noise": False}),
                                ("plain enqueue, gpu noise", {"cuda_graph": False})):
                waits: list[Wait] = []
                with _watched_waits(waits):
                    runtime = RuntimeChoice(name="trt", engine=where, **choice)
                    record = profile(bundle.path, runtime, folder / "record", settings, again=True, replace=True)
                pairs = list(itertools.pairwise(waits[settings.warmup_batches + 5 :]))
                found[f"{board_name}, {way}"] = {
                    "between_waits_ms": spread([1e3 * (after.begin_s - before.end_s) for before, after in pairs]),
                    "processor_ms": spread([1e3 * (after.begin_cpu_s - before.end_cpu_s) for before, after in pairs]),
                    "device_busy_percent": round(args.compute_ms * record.batch_ms.count / record.wall_s / 10, 1),
                    **_common(record, record.batch_ms.count)}
    return found


class Wait(NamedTuple):
    """When the calling thread began and ended to wait for a batch: seconds of the clock and of its own processor time."""

    begin_s: float
    begin_cpu_s: float
    end_s: float
    end_cpu_s: float


@contextmanager
def _no_op_plan(double: Any) -> Iterator[None]:
    """TensorRT's run does nothing, but takes its time on the driver's timeline."""
    from edgedit.device.trt.loaded import LoadedPlan

    bind, enqueue = LoadedPlan.bind, LoadedPlan.enqueue
    queue = double.library.cuLaunchHostFunc
    queue.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    LoadedPlan.bind = lambda self, rows, addresses: None
    LoadedPlan.enqueue = lambda self, stream_handle: queue(stream_handle, None, None)
    try:
        yield
    finally:
        LoadedPlan.bind, LoadedPlan.enqueue = bind, enqueue


@contextmanager
def _watched_waits(waits: list[Wait]) -> Iterator[None]:
    """Note when each `collect` begins and ends to wait for its batch."""
    import edgedit.device.trt.lanes as lanes

    plain = lanes.TrtLane.__init__

    class Watched:
        def __init__(self, event: Any) -> None:
            self.record, self.time_since, self._event = event.record, event.time_since, event

        def synchronize(self) -> None:
            begin = time.perf_counter(), time.thread_time()
            self._event.synchronize()
            waits.append(Wait(*begin, time.perf_counter(), time.thread_time()))

    def init(self: Any, *arguments: Any) -> None:
        plain(self, *arguments)
        self._finished = Watched(self._finished)

    lanes.TrtLane.__init__ = init
    try:
        yield
    finally:
        lanes.TrtLane.__init__ = plain


def _common(record: Record, batches: int) -> dict[str, Any]:
    return {"noise_ms_per_batch": round(1e3 * record.phases_s["noise"] / batches, 3), "images_per_s": round(record.images_per_s),
            "peak_memory_mb": record.peak_memory_mb}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--batches", type=int, default=300)
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--compute-ms", type=float, default=5.0)
    options.add_argument("--skip-tensorrt", action="store_true", help="leave out what needs g++, CUDA's headers and the registry")
    args = options.parse_args()
    settings = ProfileSettings(images=args.batches * args.batch, batch=args.batch, power="none", idle_s=0, warmup_batches=1)
    result: dict[str, Any] = {"batch": args.batch, "batches": args.batches, "compute_ms": args.compute_ms, "target_ms": TARGET_MS,
                              "processors": os.cpu_count(), "nice": os.nice(0), "load_average": [round(x, 2) for x in os.getloadavg()]}
    with tempfile.TemporaryDirectory() as folder:
        result["no-op runtime"] = no_op_runtime(Path(folder) / "sleep", args, settings)
        medians = [result["no-op runtime"]["gap_ms"]["median"]]
        if not args.skip_tensorrt:
            import pytest

            try:
                ways = tensorrt(Path(folder) / "trt", args, settings)
            except pytest.skip.Exception as reason:
                result["tensorrt"] = {"skipped": str(reason)}
            else:
                result["tensorrt"] = ways
                medians += [way["processor_ms" if "host noise" in name else "between_waits_ms"]["median"] for name, way in ways.items()]
    result["reached"] = max(medians) < TARGET_MS
    print(json.dumps(result, indent=1))
    return 0 if result["reached"] else 1


if __name__ == "__main__":
    sys.exit(main())
