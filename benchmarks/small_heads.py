"""Attention of small heads on a CPU, forward and backward: edgedit's kernel against torch's, in the same run.

    python benchmarks/small_heads.py [--batch 64] [--tokens 256] [--rounds 7] [--threads N] [--out FILE.json]

Peers: torch's scaled_dot_product_attention in float32 and in bfloat16 (the kernel reads and writes either, and reckons in float32).
Head sizes are those of the paper's Table 2 at a width of 64 (4, 8, 16, 32), and beside them a whole training step of (5,64,8), eager
under bfloat16 autocast, with the kernel and without.
Rounds are interleaved, so that a busy machine hits all alike; figures are medians in milliseconds.

Floor of the kernel, by logit: 4·H operations and an exponential forward, 10·H and another backward. At 64 images, 256 tokens and 8 heads
of 8 that is 33.6 million logits, 3.8 GFLOP and 67 million exponentials of 9 vector instructions each.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from edgedit.core.machine import processor
from edgedit.core.spec import DiTSpec
from edgedit.model import small_heads
from edgedit.model.dit import DiT, split_heads


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--batch", type=int, default=64)
    options.add_argument("--tokens", type=int, default=256)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options.add_argument("--out", type=Path)
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    rows = {f"H={head}": heads_of(head, args) for head in (4, 8, 16, 32)}
    record = {"command": " ".join(["python benchmarks/small_heads.py", *sys.argv[1:]]), "cpu": processor(), "threads": args.threads,
              "torch": torch.__version__, "python": platform.python_version(), "batch": args.batch, "tokens": args.tokens,
              "rounds": args.rounds, "milliseconds": rows | {"training step of (5,64,8)": whole_step(args)}}
    text = json.dumps(record, indent=1)
    if args.out:
        args.out.write_text(text + "\n")
    print(text)
    return 0


def heads_of(head: int, args: argparse.Namespace) -> dict[str, float]:
    """Medians by kernel, forward and both, of heads of `head` values at width 64."""
    heads = 64 // head
    qkv = {d: torch.randn(args.batch, args.tokens, 192, dtype=d, requires_grad=True) for d in (torch.float32, torch.bfloat16)}

    def stock(qkv: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*split_heads(qkv, heads))

    tasks: dict[str, Callable[[], object]] = {}
    def ours(qkv: Tensor) -> Tensor:
        return small_heads.attention(qkv, heads)

    for name, dtype, f in (("edgedit float32", torch.float32, ours), ("edgedit bfloat16", torch.bfloat16, ours),
                           ("torch float32", torch.float32, stock), ("torch bfloat16", torch.bfloat16, stock)):
        leaf = qkv[dtype]
        grad = torch.randn_like(f(leaf.detach()))
        tasks[name] = lambda f=f, leaf=leaf, grad=grad: f(leaf).backward(grad)
        tasks[name + ", forward"] = lambda f=f, leaf=leaf: f(leaf.detach())
    return medians(tasks, args.rounds)


def whole_step(args: argparse.Namespace) -> dict[str, float]:
    """Medians of forward, backward and AdamW, with the kernel and without."""
    model = DiT(DiTSpec(5, 64, 8))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    noise, target = torch.randn(2, args.batch, 3, 32, 32)
    labels = torch.arange(args.batch) % 10

    def step(kernel: str) -> None:
        os.environ["EDGEDIT_SMALL_HEADS"] = kernel
        with torch.autocast("cpu", torch.bfloat16):
            loss = (model(noise, labels).float() - target).abs().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return medians({"edgedit": lambda: step("1"), "torch": lambda: step("0")}, args.rounds)


def medians(tasks: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median milliseconds by name, over interleaved rounds after one that warms up."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for n in range(rounds + 1):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if n:
                times[name].append(time.perf_counter() - start)
    return {name: round(1e3 * statistics.median(values), 2) for name, values in times.items()}


if __name__ == "__main__":
    sys.exit(main())
