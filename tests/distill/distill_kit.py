"""Small pair sets and settings for training tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from edgedit.core.artifact import create
from edgedit.core.pairset import KIND, image_file, label_file
from edgedit.core.settings import resolve
from edgedit.distill.settings import TrainSettings


def write_pairs(out: Path, count: int = 48, *, image: int = 8, channels: int = 1, classes: int = 3, shard: int = 20,
                seed: int = 7) -> Path:
    """A pair set whose image is a class's flat grey plus a little of the noise's sign: learnable in a few steps."""
    chance = np.random.default_rng(seed)
    labels = (np.arange(count) % classes).astype(np.uint8)
    grey = np.linspace(40, 210, classes)[labels].reshape(-1, 1, 1, 1)
    images = np.clip(grey + chance.normal(0, 8, (count, image, image, channels)), 0, 255).astype(np.uint8)
    with create(out, KIND) as draft:
        for k in range(-(-count // shard)):
            rows = slice(k * shard, (k + 1) * shard)
            np.save(draft.path / image_file(k), images[rows])
            np.save(draft.path / label_file(k), labels[rows])
        draft.info = {"count": count, "shard_size": shard, "image": image, "channels": channels, "classes": classes,
                      "class_names": [f"class {c}" for c in range(classes)], "noise": "seed", "seed": seed, "start": 0,
                      "teacher": {"name": "test"}, "sampler": {"name": "none"}, "label": "test pairs"}
    return out


TINY: dict[str, Any] = {
    "model": {"depth": 2, "width": 16, "heads": 2}, "loss": {"name": "l1"}, "batch": 8, "steps": 20, "optimizer": {"lr": 3e-3},
    "log_every": 4, "checkpoint_every": 5, "sample_every": 0, "device": "cpu", "threads": 1, "seed": 3,
}


def tiny(**options: Any) -> TrainSettings:
    """Settings of a run of a second or less; dotted names as `optimizer__lr=1e-3`."""
    return resolve(TrainSettings, base=TINY, options={k.replace("__", "."): v for k, v in options.items()})
