"""Training speed of a U-Net teacher: images per second, and the share of its floating-point operations in what the device can do.

    python benchmarks/teacher.py --preset unet-small --batch 64
    python benchmarks/teacher.py --preset unet-large --batch 512 --device cuda --modes fp32,tf32,bf16,bf16+compile

The whole step is timed as `edgedit teacher train` takes it (images picked on the device, noise, loss, backward, AdamW, average), on
random images of CIFAR-10's size, the modes in turn, several rounds; medians and ranges. A backward pass counts as two forward ones.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from edgedit.core.settings import resolve
from edgedit.learn.device import find_device, torch_as_told
from edgedit.model.unet import UNet
from edgedit.teach.data import ImageSet
from edgedit.teach.unet import UNetTrainer
from edgedit.teach.unet_settings import TeacherSettings, unet_preset

RESULTS = Path(__file__).parent / "results" / "teacher.json"


def noise_images(count: int = 2000) -> ImageSet:
    """Random bytes: speed does not depend on what is in an image."""
    chance = np.random.default_rng(0)
    images = chance.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return ImageSet("random", images, np.arange(count) % 10, tuple("abcdefghij"))


def forward_flops(network: UNet) -> int:
    """Floating-point operations of one image through the network (a multiply-add is two)."""
    spec = network.spec
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        UNet(spec)(torch.empty(1, spec.channels, spec.image, spec.image), torch.empty(1), torch.empty(1, spec.classes))
    return int(counter.get_total_flops())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="unet-small")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--modes", default="fp32,bf16", help="of fp32, tf32, bf16, each with +compile")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="a round")
    parser.add_argument("--results", type=Path, default=RESULTS)
    a = parser.parse_args()
    device, data = find_device(a.device), noise_images()
    trainers: dict[str, tuple[TeacherSettings, UNetTrainer]] = {}
    for mode in a.modes.split(","):
        options = {"precision": mode.partition("+")[0], "compile": mode.endswith("+compile"), "batch": a.batch}
        settings = resolve(TeacherSettings, base=unet_preset(a.preset), options=options)
        trainers[mode] = settings, UNetTrainer(data, settings, device)
    flops = 3 * forward_flops(next(iter(trainers.values()))[1].model.network)

    def run(mode: str, steps: int) -> float:
        settings, trainer = trainers[mode]
        with torch_as_told(settings):
            start = time.perf_counter()
            for step in range(steps):
                stepped = trainer.step(trainer.pick(step), step, 1e-4)
            float(stepped.loss)  # waits for the device
            return steps * a.batch / (time.perf_counter() - start)

    rates: dict[str, list[float]] = {mode: [] for mode in trainers}
    for mode in trainers:
        run(mode, 2)  # compiles, warms up
    for _ in range(a.rounds):
        for mode in trainers:
            rates[mode].append(run(mode, a.steps))
    rows: list[dict[str, Any]] = []
    for mode, seen in rates.items():
        middle = statistics.median(seen)
        rows.append({"mode": mode, "images_per_s": round(middle, 1), "range": [round(min(seen), 1), round(max(seen), 1)],
                     "tflops": round(middle * flops / 1e12, 3)})
        print(f"{mode:<14} {middle:8.1f} images/s ({min(seen):.1f} – {max(seen):.1f}), {middle * flops / 1e12:.3f} TFLOP/s")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.processor() or platform.machine()}, " \
                                                                           f"{torch.get_num_threads()} threads"
    body = {"preset": a.preset, "batch": a.batch, "device": name, "torch": torch.__version__,
            "training_gflop_per_image": flops / 1e9, "rows": rows}
    a.results.write_text(json.dumps(body, indent=1) + "\n")


if __name__ == "__main__":
    main()
