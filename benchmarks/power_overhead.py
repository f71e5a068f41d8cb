"""What power logging costs: throughput of a CPU-bound numpy loop with 10 Hz logging against without, in pairs.

    python benchmarks/power_overhead.py [--pairs 30] [--seconds 1.0] [--interval 0.1] [--board]

Each pair runs the loop twice, with and without logging, in random order, so that a busy machine hits both alike. Three figures,
medians over pairs with bootstrap intervals where there are pairs:

* `wall_cost_percent`: loops per second of wall time. What a user sees, and as noisy as the machine is busy.
* `cpu_cost_percent`: loops per second of processor time of the whole process, logging threads included. Other programs take no
  part in it; it decides the exit status.
* `logging_threads_percent_of_a_core`: processor time of the logging threads alone, while nothing else runs in the process.

Logging means what
`edgedit profile` does on a Jetson: INA3221 nodes read and tegrastats logged, both to disk. Without `--board` these are the
tests' double (files and a Python script), so a real board's I2C reading time is not in the figures.

Prints one JSON object and exits with 1 when logging costs 1 % or more of throughput.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgedit.device.power import open_power
from edgedit.device.power_log import PowerLog
from tests.fake_jetson import Curve, build_tree, install_tegrastats, tegrastats_environment

TARGET_PERCENT = 1.0


def throughput(seconds: float) -> tuple[float, float]:
    """Rounds of a loop (matrix product, tanh) per second of wall time, and per second of the process's processor time."""
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 96, 96), dtype=np.float32)
    rounds, begin, cpu = 0, time.perf_counter(), time.process_time()
    while (now := time.perf_counter()) - begin < seconds:
        for _ in range(20):
            a = np.tanh(a @ b * 0.1)
        rounds += 20
    return rounds / (now - begin), rounds / (time.process_time() - cpu)


def interval_of_median(values: list[float], draws: int = 2000) -> list[float]:
    """95 % bootstrap interval of the median."""
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(draws))
    return [round(medians[int(draws * q)], 3) for q in (0.025, 0.975)]


def thread_share_percent(log: PowerLog, seconds: float) -> float:
    """Processor time of this process per second while only the logging threads work, in percent of a core."""
    with log:
        time.sleep(0.5)
        begin, cpu = time.perf_counter(), time.process_time()
        time.sleep(seconds)
        return 100 * (time.process_time() - cpu) / (time.perf_counter() - begin)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--pairs", type=int, default=30)
    options.add_argument("--seconds", type=float, default=1.0)
    options.add_argument("--interval", type=float, default=0.1)
    options.add_argument("--board", action="store_true", help="use this machine's own power sources")
    args = options.parse_args()

    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        root = Path("/") if args.board else build_tree(folder / "root")
        if not args.board:
            install_tegrastats(root)
            os.environ.update(tegrastats_environment(Curve()))

        def logging() -> PowerLog:
            return open_power(root=root, interval_s=args.interval, folder=folder)

        sources = [s.name for s in logging().sources]
        if not sources:
            print("this machine has no power source; leave out --board", file=sys.stderr)
            return 4
        throughput(args.seconds)  # warm up
        costs: dict[str, list[float]] = {"wall": [], "cpu": []}
        rng = random.Random(0)
        for _ in range(args.pairs):
            rate = {}
            for logged in rng.sample([True, False], 2):
                context: AbstractContextManager[object] = logging() if logged else nullcontext()
                with context:
                    time.sleep(0.2)  # processes start and end outside of what is timed
                    rate[logged] = throughput(args.seconds)
            for kind, on, off in zip(costs, rate[True], rate[False], strict=True):
                costs[kind].append(100 * (1 - on / off))
        share = thread_share_percent(logging(), 5 * args.seconds)

    cost = statistics.median(costs["cpu"])
    print(json.dumps({
        "benchmark": "power_overhead", "machine": platform.machine(), "cpus": os.cpu_count(),
        "python": platform.python_version(), "load_average": [round(x, 2) for x in load],
        "board": args.board, "sources": sources, "interval_s": args.interval, "pairs": args.pairs, "seconds": args.seconds,
        **{f"{kind}_cost_percent": round(statistics.median(values), 3) for kind, values in costs.items()},
        **{f"{kind}_cost_percent_interval_95": interval_of_median(values) for kind, values in costs.items()},
        "logging_threads_percent_of_a_core": round(share, 3), "target_percent": TARGET_PERCENT,
        "reached": cost < TARGET_PERCENT,
        "costs_percent": {kind: [round(c, 3) for c in values] for kind, values in costs.items()}}, indent=1))
    return 0 if cost < TARGET_PERCENT else 1


if __name__ == "__main__":
    sys.exit(main())
