"""What the host adds to each batch: time between the end of one run of the graph and the start of the next.

    python benchmarks/host_overhead.py [--batches 300] [--compute-ms 5] [--batch 128]

A stand-in runtime sleeps where a device would compute, so that noise and saving have the time they would have; the whole
profile path (noise worker, queues, times to disk, progress) runs around it. Prints one JSON object and exits with 1 when the
median is above 0.3 ms.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgedit.core.artifact import create
from edgedit.core.record import BATCHES_FILE
from edgedit.core.spec import DiTSpec
from edgedit.device.bundle import Bundle
from edgedit.device.measure import ProfileSettings
from edgedit.device.profile import profile
from edgedit.device.runtime import Phases

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


def stand_in_bundle(folder: Path, batch: int) -> Bundle:
    """A bundle with the facts of the 0.42M design and no graph."""
    spec = DiTSpec(depth=5, width=64, heads=8)
    with create(folder, "bundle") as draft:
        draft.write("model.onnx", b"")
        draft.spec = spec.to_dict()
        draft.settings = {"precision": "fp32", "attention": "pattern", "batch": batch, "dynamic": True, "guidance_scale": 1.5,
                          "opset": 17}
        draft.info = {"label": spec.label, "class_names": [str(k) for k in range(spec.classes)], "null_class": spec.null_class,
                      "parameters": spec.parameters, "deployed_parameters": spec.deployed_parameters}
    return Bundle.open(folder)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--batches", type=int, default=300)
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--compute-ms", type=float, default=5.0)
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = stand_in_bundle(Path(folder) / "bundle", args.batch)
        settings = ProfileSettings(images=args.batches * args.batch, batch=args.batch, power="none", idle_s=0, warmup_batches=1)
        record = profile(bundle.path, SleepingRuntime(bundle, args.compute_ms / 1e3), Path(folder) / "record", settings)
        lines = [json.loads(line) for line in (Path(folder) / "record" / BATCHES_FILE).read_text().splitlines()]
    gaps = sorted((after["start_ns"] - before["end_ns"]) / 1e6 for before, after in itertools.pairwise(lines[5:]))
    result = {"batch": args.batch, "batches": args.batches, "compute_ms": args.compute_ms,
              "gap_ms": {"median": round(statistics.median(gaps), 4), "p90": round(gaps[int(0.9 * len(gaps))], 4),
                         "max": round(gaps[-1], 4)},
              "of_which_waiting_for_noise_ms": round(statistics.median(line["wait_ms"] for line in lines[6:]), 4),
              "noise_ms_per_batch": round(1e3 * record.phases_s["noise"] / len(lines), 3),
              "images_per_s": round(record.images_per_s), "peak_memory_mb": record.peak_memory_mb, "target_ms": TARGET_MS}
    result["reached"] = result["gap_ms"]["median"] < TARGET_MS
    print(json.dumps(result, indent=1))
    return 0 if result["reached"] else 1


if __name__ == "__main__":
    sys.exit(main())
