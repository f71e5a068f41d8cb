"""Small network teachers on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from edgedit.core.artifact import create
from edgedit.model.denoiser import Denoiser
from edgedit.model.teacher import KIND, WEIGHTS, save_teacher
from edgedit.model.unet import UNetSpec

SPEC = UNetSpec(width=8, multipliers=(1, 2), blocks=1, attention=(4,), image=8, channels=1, classes=3)


def write_teacher(out: Path, spec: UNetSpec = SPEC, *, seed: int = 0, **info: Any) -> Denoiser:
    """A teacher whose every weight is drawn, biases and last layer too, so that classes and levels tell; returns the network."""
    model = Denoiser(spec).eval().requires_grad_(False)
    chance = torch.Generator().manual_seed(seed)
    for weights in model.network.parameters():
        weights += 0.2 * torch.randn(weights.shape, generator=chance)
    facts = {"name": "unet", "label": "unet of a test", "class_names": [f"class {k}" for k in range(spec.classes)], "data": "tests", **info}
    with create(out, KIND) as draft:
        save_teacher(draft.path / WEIGHTS, spec, model.network.state_dict(), facts)
        draft.info = facts
    return model


SLOW_PAIRS = """
import sys, time
from edgedit.teach import workers
from edgedit.teach.pairs import make_pairs
from edgedit.teach.settings import PairSettings
slow = workers.make_shard
def slowly(*args):
    time.sleep(float(sys.argv[3]))
    return slow(*args)
workers.make_shard = slowly
if __name__ == "__main__":
    make_pairs(sys.argv[1], PairSettings.model_validate_json(sys.argv[2]), say=lambda e: print(e.done, e.text, flush=True))
"""
"""Script that makes pairs with a pause before each shard: out, settings as JSON, seconds."""
