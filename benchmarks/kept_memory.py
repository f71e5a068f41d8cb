"""What it is worth on a CPU that training keeps the memory which torch frees (`learn.device.keep_freed_memory`).

    python benchmarks/kept_memory.py [--preset dit-nano-0.42m] [--batch 64] [--steps 20] [--rounds 3] [--eager] [--out FILE.json]

Steps of the toolkit's trainer (bf16, compiled unless --eager, L1 + LPIPS with SqueezeNet at 64 pixels, random trunk and pairs: the same
work as with real ones), each round in two fresh processes in turn: one as it is, one whose environment names GLIBC_TUNABLES, at which
the toolkit leaves the allocator as glibc has it. Figures are medians over the rounds: seconds a step, page faults a step, and the
largest resident set. Floor: no faults once every block has been touched.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.train import Ours, random_pairs, random_trunk
from edgedit.core.machine import processor
from edgedit.core.settings import resolve
from edgedit.distill import TrainSettings, preset
from edgedit.learn.device import find_device

UNUSED = "glibc.malloc.tcache_count=7"
"""glibc's own default: it changes nothing, but says that somebody has chosen."""


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--preset", default="dit-nano-0.42m")
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--eager", action="store_true")
    options.add_argument("--out", type=Path)
    options.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.child:
        print(json.dumps(child(args)))
        return 0
    clean = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES" and not k.startswith("MALLOC_")}
    found: dict[str, list[dict[str, float]]] = {"kept": [], "as glibc has it": []}
    for _ in range(args.rounds):
        for name, more in (("kept", {}), ("as glibc has it", {"GLIBC_TUNABLES": UNUSED})):
            run = subprocess.run([sys.executable, __file__, "--child", *sys.argv[1:]], env=clean | more, check=True, stdout=subprocess.PIPE)
            found[name].append(json.loads(run.stdout))
    medians = {name: {k: statistics.median(run[k] for run in runs) for k in runs[0]} for name, runs in found.items()}
    record = {"command": " ".join(["python benchmarks/kept_memory.py", *sys.argv[1:]]), "cpu": processor(),
              "threads": len(os.sched_getaffinity(0)), "torch": torch.__version__, "libc": " ".join(platform.libc_ver()),
              "rounds": args.rounds, "medians": medians, "all": found}
    text = json.dumps(record, indent=1)
    if args.out:
        args.out.write_text(text + "\n")
    print(text)
    return 0


def child(args: argparse.Namespace) -> dict[str, float]:
    """One process's figures."""
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        torch.save(random_trunk("squeeze"), folder / "trunk.pth")
        settings = resolve(TrainSettings, base=preset(args.preset), options={
            "batch": args.batch, "precision": "bf16", "compile": not args.eager, "loss.name": "l1+lpips", "loss.lpips.net": "squeeze",
            "loss.lpips.resolution": 64, "loss.lpips.weights": str(folder / "trunk.pth")})
        ours = Ours(random_pairs(folder / "pairs", 4 * args.batch), settings, find_device("cpu"), stack)
        for _ in range(5):
            ours.step()
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        for _ in range(args.steps):
            ours.step()
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
        return {"seconds a step": round(seconds / args.steps, 4), "page faults a step": (after.ru_minflt - before.ru_minflt) // args.steps,
                "largest resident set, MB": after.ru_maxrss // 1024}


if __name__ == "__main__":
    sys.exit(main())
