"""The rate at which training gets its batches: `Batches` alone, by threads, and what a batch's time goes into.

    python benchmarks/loader.py [--batch 256] [--pairs 20000] [--seconds 2] [--rounds 5] > loader.json

Pairs of 32×32×3 random pixels in a temporary folder, noise by seed. Rounds are interleaved; a rate is the median over rounds.
`cpu_us_per_image` is processor time of one thread, by part, so other programs change it little; `one_core_images_per_s` follows
from it, and from that the cores that a GPU of 20,000 images a second needs. Threads beyond the machine's cores add nothing.
Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from edgedit.core.artifact import create
from edgedit.core.pairset import KIND, PairSet, image_file, label_file, to_float
from edgedit.distill.data import Batches
from edgedit.learn.order import batch_indices, chosen

GPU_IMAGES_PER_S = 20_000
THREADS = (1, 2, 3, 4)


def random_pairs(out: Path, count: int) -> PairSet:
    """`count` pairs of uniform random pixels in shards of 10,000."""
    chance, size = np.random.default_rng(0), 10_000
    with create(out, KIND) as draft:
        for k in range(-(-count // size)):
            n = min(size, count - k * size)
            np.save(draft.path / image_file(k), chance.integers(0, 256, (n, 32, 32, 3), np.uint8))
            np.save(draft.path / label_file(k), (np.arange(n) % 10).astype(np.uint8))
        draft.info = {"count": count, "shard_size": size, "image": 32, "channels": 3, "classes": 10,
                      "class_names": [str(c) for c in range(10)], "noise": "seed", "seed": 0, "start": 0}
    return PairSet.open(out)


def rate(batches: Batches, threads: int, seconds: float) -> float:
    """Images per second of a consumer that does nothing, after the batches that were made ahead."""
    with batches.ahead(0, 1 << 40, threads) as ready:
        iterator = iter(ready)
        for _ in range(4 * threads):
            next(iterator)
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            next(iterator)
            count += 1
        return count * batches.batch / (time.perf_counter() - start)


def cpu_us(work: Callable[[int], object], batch: int, steps: int = 40) -> float:
    """Processor time per image of `work(step)`, microseconds: the median over steps."""
    times = []
    for step in range(steps):
        start = time.thread_time()
        work(step)
        times.append(time.thread_time() - start)
    return statistics.median(times) / batch * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        pairs = random_pairs(Path(folder) / "pairs", args.pairs)
        batches = Batches(pairs, args.batch, 0, 0.1)
        rounds = [{n: rate(batches, n, args.seconds) for n in THREADS} for _ in range(args.rounds)]

        def indices(step: int) -> Any:
            return batch_indices(0, step, args.batch, args.pairs)

        parts = {"noise": cpu_us(lambda s: pairs.noise(indices(s)), args.batch),
                 "images": cpu_us(lambda s: pairs.images(indices(s)), args.batch),
                 "labels": cpu_us(lambda s: pairs.labels(indices(s)), args.batch),
                 "order": cpu_us(indices, args.batch), "dropout": cpu_us(lambda s: chosen(0, s, args.batch, 0.1), args.batch)}
        for name in ("noise", "images", "labels"):
            parts[name] -= parts["order"]
        read = pairs.images(indices(0))
        parts["to_float"] = cpu_us(lambda s: to_float(read), args.batch)
        whole = cpu_us(batches.make, args.batch)
    print(json.dumps({
        "batch": args.batch, "pairs": args.pairs, "cores": len(os.sched_getaffinity(0)), "load_before": round(load, 2),
        "images_per_s": {n: round(statistics.median(r[n] for r in rounds)) for n in THREADS},
        "best_images_per_s": {n: round(max(r[n] for r in rounds)) for n in THREADS},
        "cpu_us_per_image": {"whole": round(whole, 2), **{n: round(t, 2) for n, t in parts.items()}},
        "noise_share": round(parts["noise"] / whole, 3), "one_core_images_per_s": round(1e6 / whole),
        "cores_for_20000_images_per_s": round(GPU_IMAGES_PER_S * whole / 1e6, 2),
        "pinning_and_copy_to_gpu": "not measured", "load_after": round(os.getloadavg()[0], 2)}, indent=1))


if __name__ == "__main__":
    main()
