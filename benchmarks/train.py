"""Training speed: images per second of a whole step (batch, forward, loss, backward, AdamW, average) for some presets.

    python benchmarks/train.py [--preset NAME …] [--loss l1|l2|lpips] [--set key=value …] [--steps 10]

Pairs are random images in a temporary folder, read as in training. One JSON line a preset; nothing else is printed.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from pathlib import Path

import numpy as np
import torch

from edgedit.core.artifact import create
from edgedit.core.pairset import KIND, image_file, label_file
from edgedit.core.settings import resolve
from edgedit.distill import TrainSettings, plan, preset

COUNT = 4096


def random_pairs(out: Path, image: int, channels: int) -> Path:
    """COUNT pairs of uniform random pixels."""
    chance = np.random.default_rng(0)
    with create(out, KIND) as draft:
        np.save(draft.path / image_file(0), chance.integers(0, 256, (COUNT, image, image, channels), np.uint8))
        np.save(draft.path / label_file(0), (np.arange(COUNT) % 10).astype(np.uint8))
        draft.info = {"count": COUNT, "shard_size": COUNT, "image": image, "channels": channels, "classes": 10,
                      "class_names": [str(c) for c in range(10)], "noise": "seed", "seed": 0, "start": 0}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", nargs="*", default=["digits", "dit-nano-0.42m", "dit-nano-5m"])
    parser.add_argument("--loss", default="l1")
    parser.add_argument("--set", nargs="*", default=[], dest="sets")
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"digits": (16, 1)}
        for name in arguments.preset:
            image, channels = sizes.get(name, (32, 3))
            pairs = Path(folder) / f"{image}x{channels}"
            if not pairs.exists():
                random_pairs(pairs, image, channels)
            settings = resolve(TrainSettings, base=preset(name), sets=arguments.sets, options={"loss.name": arguments.loss})
            result = plan(pairs, settings, measure=arguments.steps)
            keep = ("label", "loss", "precision", "device", "step_ms", "images_per_s", "memory_mb")
            machine = torch.cuda.get_device_name() if result["device"].startswith("cuda") else platform.processor() or "cpu"
            print(json.dumps({"preset": name, **{k: result[k] for k in keep}, "batch": settings.batch, "machine": machine,
                              "threads": settings.threads or torch.get_num_threads(), "torch": torch.__version__}), flush=True)


if __name__ == "__main__":
    main()
