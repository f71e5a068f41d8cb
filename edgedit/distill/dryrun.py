"""What a run would be, before it is started: sizes, steps, work, and time measured over a few steps."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch

from edgedit.core.pairset import PairSet
from edgedit.distill.settings import TrainSettings
from edgedit.distill.setup import setup_class
from edgedit.distill.student import StudentTrainer
from edgedit.learn.device import pick_device, torch_as_told


def plan(pairs: str | Path, settings: TrainSettings, *, measure: int = 3) -> dict[str, Any]:
    """Try a few steps in memory and reckon the rest; nothing is written.

    Args:
        pairs: folder of kind "pairs".
        settings: the run's.
        measure: steps to time, after one that is not timed.

    Returns:
        Plain values: settings, spec, label, parameters, trainable_parameters, deployed_parameters, pairs, steps, epochs,
        images, student_flops (of all steps; a backward pass counted as two forward ones, the loss network left out), loss,
        device, precision, step_ms, images_per_s and wall_s (from the time measured), and memory_mb (peak of a CUDA device,
        else None).
    """
    data = PairSet.open(pairs, verify=False)
    spec = settings.model.spec(data.shape, data.classes)
    setup_class(settings.setup.name).parents(settings.setup, data)  # what the run would refuse
    device = pick_device(settings)
    steps = settings.total_steps(len(data))
    images = steps * settings.batch
    with torch_as_told(settings):
        trainer = StudentTrainer(data, spec, settings, device)
        start = 0.0
        with trainer.batches(0, 1 + measure) as batches:
            for step, batch in enumerate(batches):
                if step == 1:
                    start = time.perf_counter()
                float(trainer.step(batch, step, settings.optimizer.lr).loss)
        step_s = (time.perf_counter() - start) / measure
    return {
        "settings": settings.model_dump(mode="json"), "spec": spec.to_dict(), "label": spec.label,
        "parameters": spec.parameters, "trainable_parameters": spec.trainable_parameters,
        "deployed_parameters": spec.deployed_parameters, "pairs": len(data), "steps": steps, "epochs": images / len(data),
        "images": images, "student_flops": 3 * spec.flops * images, "loss": trainer.setup.facts(), "device": str(device),
        "precision": settings.precision, "step_ms": step_s * 1e3, "images_per_s": settings.batch / step_s,
        "wall_s": min(step_s * steps, 60 * (settings.minutes or math.inf)),
        "memory_mb": torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None,
    }
