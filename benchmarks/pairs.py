"""Speed of a teacher's pairs and their size on disk, as JSON.

    python benchmarks/pairs.py [--data digits|cifar10|PATH] [--count 2048] [--workers 0]
    python benchmarks/pairs.py --teacher PATH [--device cuda] [--precision bf16] [--compile] [--count 256] [--workers 0]

Rates "per CPU-second" are of one thread's processor time, so that other programs on the machine change them little.

Of the ideal teacher, `floor` is what the two float32 matrix products of each of the 35 evaluations would allow at the product speed
measured just before; `full` is the teacher that searches all images each time, `trajectory` the one with bounds carried along the
run, on the same batch of one class. Of a network, `floor` is what 35 evaluations of its own products and convolutions would allow at
that speed (of a GPU there is no such figure), and `pieces` compares batches of `network.PIECE` with whole ones of 256. `end_to_end`
is the whole stage by the wall clock, with starting processes, loading and writing.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgedit.core.noise import noise
from edgedit.core.pairset import to_uint8
from edgedit.model.teacher import load_teacher
from edgedit.teach.data import load_data
from edgedit.teach.ideal import IdealTeacher
from edgedit.teach.network import PIECE
from edgedit.teach.pairs import make_pairs
from edgedit.teach.sampler import evaluations, heun, sigmas
from edgedit.teach.settings import PairSettings
from edgedit.teach.trajectory import Trajectory


def gemm_flops(rows: int, images: int, values: int) -> float:
    """Float32 products of the teacher's shape, in floating-point operations a second on this thread (best of 5)."""
    a, b = torch.randn(rows, values), torch.randn(images, values)
    best = float("inf")
    for _ in range(5):
        start = time.thread_time()
        a @ b.T
        best = min(best, time.thread_time() - start)
    return 2 * rows * images * values / best


def measure_ideal(data: str, count: int) -> dict[str, Any]:
    """Rates of the teacher without weights, on one thread."""
    teacher = IdealTeacher.of(load_data(data))
    images, values, rows = teacher.parts[0].count, teacher.parts[0].values, min(205, count)
    flops = gemm_flops(rows, images, values)
    z, labels, levels = torch.from_numpy(noise(0, range(rows), teacher.shape)), torch.zeros(rows, dtype=torch.int64), sigmas()
    teacher.denoise(z[:1], 1.0, labels[:1])  # the class as float32
    rates, results = {}, {}
    trajectory = Trajectory(teacher)
    for name, denoise in (("full", teacher.denoise), ("trajectory", trajectory)):
        start = time.thread_time()
        results[name] = to_uint8(heun(denoise, z, levels, labels).numpy())
        rates[name] = rows / (time.thread_time() - start)
    needed = evaluations(len(levels) - 1) * 4 * images * values
    return {"images_a_class": images, "values": values, "gemm_gflops_per_cpu_second": flops / 1e9, "gflop_an_image": needed / 1e9,
            "floor_images_per_cpu_second": flops / needed, "full_images_per_cpu_second": rates["full"],
            "trajectory_images_per_cpu_second": rates["trajectory"],
            "searched_share": trajectory.searched / (evaluations(len(levels) - 1) * rows * images),
            "pixels_that_differ": float(np.mean(results["full"] != results["trajectory"]))}


def measure_network(path: str) -> dict[str, Any]:
    """Rates of a network on one thread: evaluations in pieces and in a whole batch, beside the floor."""
    from torch.utils.flop_counter import FlopCounterMode

    model, _ = load_teacher(path)
    spec = model.spec
    rates = {}
    with torch.inference_mode():
        x = torch.randn(256, spec.channels, spec.image, spec.image).contiguous(memory_format=torch.channels_last)
        level, labels = torch.ones(256), torch.arange(256) % spec.classes
        with FlopCounterMode(display=False) as counter:
            model(x[:1], level[:1], labels[:1])
        for rows in (PIECE, 256):
            best = float("inf")
            for _ in range(4 if rows == 256 else 12):
                start = time.thread_time()
                model(x[:rows], level[:rows], labels[:rows])
                best = min(best, time.thread_time() - start)
            rates[rows] = rows / best
    flops, needed = gemm_flops(256, 1024, 1152), evaluations(18) * counter.get_total_flops()
    return {"parameters": spec.parameters, "gemm_gflops_per_cpu_second": flops / 1e9, "gflop_an_image": needed / 1e9,
            "floor_images_per_cpu_second": flops / needed, "images_per_cpu_second": rates[PIECE] / evaluations(18),
            "images_per_cpu_second_in_whole_batches": rates[256] / evaluations(18),
            "pieces_are_faster_by": rates[PIECE] / rates[256]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="ideal")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--count", type=int, default=2048)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ideal = options.teacher == "ideal"
    facts = {} if options.device != "cpu" else measure_ideal(options.data, options.count) if ideal else measure_network(options.teacher)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = options.workers or (cores if options.device == "cpu" else 1)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pairs"
        settings = PairSettings(teacher=options.teacher, count=options.count, workers=workers, device=options.device,
                                precision=options.precision, compile=options.compile,
                                shard_size=max(1, min(2048, -(-options.count // workers))),
                                **({"data": options.data} if ideal else {}))
        start = time.perf_counter()
        make_pairs(out, settings)
        wall_s = time.perf_counter() - start
        size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(json.dumps({
        "teacher": options.teacher, "data": options.data if ideal else None, "count": options.count, "workers": workers,
        "device": options.device, "precision": options.precision, "compile": options.compile, **facts,
        "end_to_end_images_per_s": options.count / wall_s, "end_to_end_wall_s": wall_s,
        "bytes_per_image_on_disk": size / options.count, "load_average": os.getloadavg()[0],
    }, indent=1))


if __name__ == "__main__":
    main()
