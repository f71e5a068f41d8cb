"""Noise on a GPU against noise on this machine's processor: the same numbers, images a second.

    python benchmarks/noise_cuda.py [--images 12800] [--batch 128] [--rounds 20]

Needs an NVIDIA GPU and cupy or pycuda (with nvcc); without them it says so and exits with 0. The kernel is timed by events over
whole batches of (3, 32, 32), the processor by the clock in the same run, on one thread, as the pipeline uses it. The GPU's
numbers are compared with the processor's first. Prints one JSON object and exits with 1 below 20 times or when they differ.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgedit.core.errors import EdgeditError
from edgedit.core.noise import noise
from edgedit.device.cuda.kernels import THREADS, kernel_source, noise_grid

SHAPE, SEED = (3, 32, 32), 1
VALUES = 3 * 32 * 32
TARGET = 20
BOUND = 3e-6


class Skipped(Exception):
    """What is missing."""


def with_cupy(batch: int) -> tuple[Callable[[int], float], Callable[[], np.ndarray], str]:
    """(seconds of so many batches by events, the last batch, the GPU's name) through cupy."""
    import cupy

    try:
        name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise Skipped(f"cupy finds no GPU: {error}") from error
    kernel = cupy.RawModule(code=kernel_source(), options=("--std=c++17",)).get_function("noise")
    out, indices = cupy.empty((batch, *SHAPE), cupy.float32), cupy.arange(batch, dtype=cupy.int64)
    begin, end = cupy.cuda.Event(), cupy.cuda.Event()

    def run(batches: int) -> float:
        begin.record()
        for _ in range(batches):
            kernel(noise_grid(batch, VALUES), (THREADS,), (out, indices, np.uint64(SEED), np.uint32(VALUES)))
        end.record()
        end.synchronize()
        return float(cupy.cuda.get_elapsed_time(begin, end)) / 1e3

    return run, lambda: cupy.asnumpy(out), name


def with_pycuda(batch: int) -> tuple[Callable[[int], float], Callable[[], np.ndarray], str]:
    """The same through edgedit's own device code."""
    from edgedit.device.cuda.device import Device
    from edgedit.device.cuda.kernels import Kernels

    try:
        device = Device()
        kernels = Kernels(device)
    except EdgeditError as error:
        raise Skipped(str(error)) from error
    out, indices = device.allocate(4 * batch * VALUES, "noise"), device.allocate(8 * batch, "image numbers")
    device.cuda.memcpy_htod(indices, np.arange(batch))
    stream, begin, end = device.stream(), device.event(), device.event()

    def run(batches: int) -> float:
        begin.record(stream)
        for _ in range(batches):
            kernels.noise(stream, out, indices, batch, SEED, VALUES)
        end.record(stream)
        end.synchronize()
        return float(end.time_since(begin)) / 1e3

    def fetch() -> np.ndarray:
        host = np.empty((batch, *SHAPE), np.float32)
        device.cuda.memcpy_dtoh(host, out)
        return host

    return run, fetch, device.facts.name


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--images", type=int, default=12_800)
    options.add_argument("--batch", type=int, default=128)
    options.add_argument("--rounds", type=int, default=20)
    args = options.parse_args()
    batches = -(-args.images // args.batch)
    through = "cupy" if importlib.util.find_spec("cupy") else "pycuda"
    try:
        run, fetch, name = (with_cupy if through == "cupy" else with_pycuda)(args.batch)
    except Skipped as reason:
        print(json.dumps({"skipped": str(reason)}, indent=1))
        return 0
    result: dict[str, Any] = {"gpu": name, "through": through, "machine": platform.machine(), "batch": args.batch, "target": TARGET}
    run(3)
    wanted = noise(SEED, range(args.batch), SHAPE)
    result["largest_difference"] = float(np.abs(fetch() - wanted).max())
    gpu, cpu = [], []
    for _ in range(args.rounds):
        gpu.append(batches * args.batch / run(batches))
        begin = time.perf_counter()
        noise(SEED, range(args.batch), SHAPE, out=wanted)
        cpu.append(args.batch / (time.perf_counter() - begin))
    result["images_per_s"] = {"gpu": round(statistics.median(gpu)), "processor": round(statistics.median(cpu))}
    result["times_faster"] = round(statistics.median(gpu) / statistics.median(cpu), 1)
    result["reached"] = result["times_faster"] >= TARGET and result["largest_difference"] <= BOUND
    print(json.dumps(result, indent=1))
    return 0 if result["reached"] else 1


if __name__ == "__main__":
    sys.exit(main())
