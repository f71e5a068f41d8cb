"""Training speed: setup GET with LPIPS against a plain loop, and by setting, in interleaved rounds of one run.

    python benchmarks/train.py [--preset dit-nano-0.42m] [--net vgg] [--weights FILE] [--batch 8] [--rounds 5]
                               [--device cpu|cuda] [--threads N] [--compile] > train.json

`plain` is what one would write from the papers: the training form of the student in eager fp32, a DataLoader of single pairs,
torch's AdamW, an average by parameter, and LPIPS by package `lpips` on both images resized to 224, as GET does, the target's
features anew in every step. `224` is this toolkit's trainer at the same definition of the loss; the other rows change what their
names say: the side to which LPIPS resizes, bf16, `cached` (targets' features kept from epoch to epoch; measured with a full
cache, and `fill_images_per_s` is how fast the first epoch fills it) and `compiled` (torch.compile; --compile, and always on a
GPU). `l1` needs no network: the student alone.

Without --weights the trunk holds random numbers: the same work, another metric. Pairs are random images in a temporary folder.
A rate is images over the seconds of a round, all steps of a case together; `times_faster` is the median over the rounds of the
ratio to `plain` in the same round, by the wall clock and by processor time. On a CPU both sides have one thread unless --threads
says more, and then goals go by processor time, which other programs on the machine distort little; otherwise by the wall clock.
Prints one JSON object and exits with 1 when a goal is missed. Takes about five minutes on a CPU.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from edgedit.core.artifact import create
from edgedit.core.pairset import KIND, PairSet, image_file, label_file, to_float
from edgedit.core.settings import resolve
from edgedit.distill import TrainSettings, preset
from edgedit.distill.lpips_weights import build_trunk, load_trunk
from edgedit.distill.student import StudentTrainer
from edgedit.learn.device import torch_as_told
from edgedit.model.dit import DiT

LEAST_S = 1.0
"""A case runs at least about this long in a round."""


def random_pairs(out: Path, count: int, image: int = 32, channels: int = 3) -> PairSet:
    """`count` pairs of uniform random pixels."""
    chance = np.random.default_rng(0)
    with create(out, KIND) as draft:
        np.save(draft.path / image_file(0), chance.integers(0, 256, (count, image, image, channels), np.uint8))
        np.save(draft.path / label_file(0), (np.arange(count) % 10).astype(np.uint8))
        draft.info = {"count": count, "shard_size": count, "image": image, "channels": channels, "classes": 10,
                      "class_names": [str(c) for c in range(10)], "noise": "seed", "seed": 0, "start": 0}
    return PairSet.open(out)


def random_trunk(net: str) -> dict[str, Tensor]:
    """A state dict of He-initialised layers under torchvision's names."""
    from torchvision import models

    with torch.device("meta"):
        shapes = {"vgg": models.vgg16, "alex": models.alexnet, "squeeze": models.squeezenet1_1}[net](weights=None).features.state_dict()
    chance = torch.Generator().manual_seed(0)
    return {f"features.{n}": torch.randn(t.shape, generator=chance) * (2 / math.prod(t.shape[1:])) ** 0.5 if t.ndim > 1
            else torch.zeros(t.shape) for n, t in shapes.items()}


def package_lpips(net: str, trunk: dict[str, Tensor]) -> nn.Module:
    """Package `lpips`, as it comes, over a given trunk."""
    import lpips

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    metric.net.load_state_dict({n: trunk["features." + n.split(".", 1)[1]] for n in metric.net.state_dict()})
    return metric


class Singles(Dataset[tuple[Tensor, int, Tensor]]):
    """One pair at a time."""

    def __init__(self, data: PairSet) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, i: int) -> tuple[Tensor, int, Tensor]:
        noise, image = self.data.noise([i])[0], to_float(self.data.images([i]))[0]
        return torch.from_numpy(noise), int(self.data.labels([i])[0]), torch.from_numpy(image)


class Plain:
    """The plain loop."""

    def __init__(self, data: PairSet, settings: TrainSettings, metric: nn.Module, device: torch.device) -> None:
        self.device, self.metric, self.decay = device, metric.to(device), settings.ema_decay
        self.model = DiT(settings.model.spec(data.shape, data.classes)).to(device)
        self.average = deepcopy(self.model)
        self.adamw = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], 1e-4, weight_decay=0.01)
        self.loader = DataLoader(Singles(data), settings.batch, shuffle=True, drop_last=True,
                                 num_workers=4 if device.type == "cuda" else 0, persistent_workers=device.type == "cuda")
        self.ready = self.forever()

    def forever(self) -> Iterator[list[Tensor]]:
        while True:
            yield from self.loader

    def loss(self, prediction: Tensor, images: Tensor) -> Tensor:
        big = [F.interpolate(x, size=(224, 224), mode="bilinear", align_corners=False) for x in (prediction, images)]
        return self.metric(*big).mean()

    def step(self) -> Tensor:
        noise, labels, images = (t.to(self.device) for t in next(self.ready))
        labels = torch.where(torch.rand(labels.shape, device=self.device) < 0.1, self.model.spec.null_class, labels)
        loss = self.loss(self.model(noise, labels), images)
        self.adamw.zero_grad()
        loss.backward()
        self.adamw.step()
        with torch.no_grad():
            for kept, p in zip(self.average.parameters(), self.model.parameters(), strict=True):
                kept.lerp_(p, 1 - self.decay)
        return loss.detach()


class Ours:
    """This toolkit's trainer, with its loader."""

    def __init__(self, data: PairSet, settings: TrainSettings, device: torch.device, stack: ExitStack) -> None:
        self.settings, self.n = settings, 0
        self.trainer = StudentTrainer(data, settings.model.spec(data.shape, data.classes), settings, device)
        self.batches = iter(stack.enter_context(self.trainer.batches(0, 1 << 40)))

    def step(self) -> Tensor:
        with torch_as_told(self.settings):
            loss = self.trainer.step(next(self.batches), self.n, self.settings.optimizer.lr).loss
        self.n += 1
        return loss


def cases(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Settings by name of a row."""
    out: dict[str, dict[str, Any]] = {}
    for side in (224, 64, 32):
        for precision in ("fp32", "tf32", "bf16") if args.device == "cuda" else ("fp32", "bf16"):
            for compiled in (False, True) if args.compile else (False,):
                for cached in (False, True):
                    words = [str(side), precision * (precision != "fp32"), "cached" * cached, "compiled" * compiled]
                    out[", ".join(w for w in words if w)] = {
                        "loss.lpips.resolution": side, "precision": precision, "loss.lpips.cache_gb": 64 * cached, "compile": compiled}
    return out | {"l1": {"loss.name": "l1"}}


def timed(step: Callable[[], Tensor], steps: int) -> tuple[float, float]:
    """Seconds a step by the wall clock, the device's work included, and of processor time, over `steps` steps."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        loss = step()
    loss.item()
    return (time.perf_counter() - wall) / steps, (time.process_time() - cpu) / steps


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Rates of all cases."""
    device = torch.device(args.device)
    data = random_pairs(folder / "pairs", 2 * args.batch)
    trunk = random_trunk(args.net) if args.weights is None else load_trunk(args.net, args.weights)[0]
    build_trunk(args.net, trunk)  # says so when they do not fit
    torch.save(trunk, folder / "trunk.pth")
    base = {"device": args.device, "batch": args.batch, "loss.name": "lpips", "loss.lpips.net": args.net,
            "loss.lpips.weights": str(folder / "trunk.pth")}
    out: dict[str, Any] = {}
    with ExitStack() as stack:
        steps: dict[str, Callable[[], Tensor]] = {}
        for name, options in cases(args).items():
            ours = Ours(data, resolve(TrainSettings, base=preset(args.preset), options=base | options), device, stack)
            if name == "224":
                plain = Plain(data, ours.settings, package_lpips(args.net, trunk), device)
                steps["plain"] = plain.step
                a, b = (torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(k)).to(device) * 2 - 1 for k in (1, 2))
                with torch.no_grad():
                    expected = plain.loss(a, b).item()
                    out["loss_plain"], out["relative_difference"] = expected, ours.trainer.setup.metric(a, b).item() / expected - 1
            steps[name] = ours.step
            first = 2 * timed(ours.step, 2)[0]
            if "cached" in name:
                if len(ours.trainer.setup.metric.cache.rows) != len(data):
                    raise SystemExit(f"case '{name}' keeps no features")
                out.setdefault("fill_images_per_s", {})[name] = round(len(data) / first, 2)
        repeats = {name: max(1, round(LEAST_S / timed(step, 1)[0])) for name, step in steps.items()}
        rounds = [{name: timed(step, repeats[name]) for name, step in steps.items()} for _ in range(args.rounds)]
    for name in steps:
        wall, cpu = ([r["plain"][k] / r[name][k] for r in rounds] for k in (0, 1))
        out.setdefault("cases", {})[name] = {
            "images_per_s": round(args.batch / statistics.median(r[name][0] for r in rounds), 2),
            "best_images_per_s": round(args.batch / min(r[name][0] for r in rounds), 2), "steps_a_round": repeats[name],
            "times_faster": round(statistics.median(wall), 2), "by_round": [round(r, 2) for r in wall],
            "images_per_cpu_second": round(args.batch / statistics.median(r[name][1] for r in rounds), 2),
            "times_faster_by_cpu_time": round(statistics.median(cpu), 2), "by_round_cpu_time": [round(r, 2) for r in cpu]}
    return out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="dit-nano-0.42m")
    parser.add_argument("--net", default="vgg", choices=("vgg", "alex", "squeeze"))
    parser.add_argument("--weights", type=Path, help="state dict of the trunk, torchvision's; random numbers without it")
    parser.add_argument("--batch", type=int, help="default: 8 on a CPU, 128 on a GPU")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, help="of torch; default: 1 on a CPU, torch's choice on a GPU")
    parser.add_argument("--compile", action="store_true", help="also torch.compile (always on a GPU)")
    args = parser.parse_args()
    gpu = args.device == "cuda"
    torch.set_num_threads(args.threads or (torch.get_num_threads() if gpu else 1))
    args.batch, args.compile = args.batch or (128 if gpu else 8), args.compile or gpu
    result: dict[str, Any] = {
        "preset": args.preset, "net": args.net, "trunk": str(args.weights.name) if args.weights else "random (same work, another metric)",
        "batch": args.batch, "device": torch.cuda.get_device_name() if gpu else "cpu", "threads": torch.get_num_threads(),
        "torch": torch.__version__, "rounds": args.rounds, "load_before": round(os.getloadavg()[0], 2)}
    with tempfile.TemporaryDirectory() as folder:
        result |= measure(Path(folder), args)
    result["load_after"] = round(os.getloadavg()[0], 2)
    clock = "times_faster_by_cpu_time" if torch.get_num_threads() == 1 and not gpu else "times_faster"
    faster = {name: case[clock] for name, case in result["cases"].items()}
    equal = "224, bf16, cached, compiled" if gpu else "224"
    result["goals_by"] = clock
    result["goals"] = {f"equal definition ({equal})": [faster[equal], 4 if gpu else 1.3],
                       "64 or 32": [max(f for n, f in faster.items() if n[:2] in ("64", "32")), 10]}
    result["gpu"] = "measured" if gpu else "not measured"
    result["reached"] = all(got >= goal for got, goal in result["goals"].values())
    print(json.dumps(result, indent=1))
    return 0 if result["reached"] else 1


if __name__ == "__main__":
    sys.exit(main())
