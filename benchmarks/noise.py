"""Noise throughput: edgedit's counter-based generator against numpy generators seeded per image, in the same run.

    python benchmarks/noise.py [--images 512] [--rounds 15]

The peers do the same job, noise that depends on (seed, image) alone: `Generator(Philox(key=[seed, i]))` and
`RandomState(i)`. Rounds are interleaved, so that a busy machine hits all alike; the figures are medians of the per-round
values. Prints one JSON object and exits with 1 when a target (1.3 and 3 times the peers' throughput) is missed.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgedit.core.noise import noise

SHAPE = (3, 32, 32)
TARGETS = {"generator_philox": 1.3, "random_state": 3.0}


def _seconds(task: Callable[[], object]) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--images", type=int, default=512)
    options.add_argument("--rounds", type=int, default=15)
    args = options.parse_args()
    indices, shuffled = range(args.images), np.random.default_rng(0).permutation(args.images)
    out = np.empty((args.images, *SHAPE), np.float32)

    def generator_philox() -> None:
        for i in indices:
            out[i] = np.random.Generator(np.random.Philox(key=[0, i])).standard_normal(SHAPE, dtype=np.float32)

    def random_state() -> None:
        for i in indices:
            out[i] = np.random.RandomState(i).randn(*SHAPE)

    tasks: dict[str, Callable[[], object]] = {
        "edgedit": lambda: noise(0, indices, SHAPE, out=out),
        "edgedit_shuffled": lambda: noise(0, shuffled, SHAPE, out=out),
        "edgedit_batches_of_128": lambda: [noise(0, indices[a : a + 128], SHAPE) for a in range(0, args.images, 128)],
        "generator_philox": generator_philox, "random_state": random_state}
    rounds: list[dict[str, float]] = []
    for n in range(args.rounds + 1):
        times = {name: _seconds(task) for name, task in tasks.items()}
        if n:  # the first round warms up
            rounds.append(times)
    result = {
        "images": args.images, "shape": SHAPE, "rounds": args.rounds, "numpy": np.__version__, "machine": platform.machine(),
        "us_per_image": {name: round(statistics.median(r[name] for r in rounds) / args.images * 1e6, 2) for name in tasks},
        "times_faster": {name: round(statistics.median(r[name] / r["edgedit"] for r in rounds), 2) for name in TARGETS},
        "targets": TARGETS}
    result["reached"] = all(result["times_faster"][name] >= least for name, least in TARGETS.items())
    print(json.dumps(result, indent=1))
    return 0 if result["reached"] else 1


if __name__ == "__main__":
    sys.exit(main())
