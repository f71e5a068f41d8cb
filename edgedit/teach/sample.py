"""A grid of a teacher's images, to look at."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edgedit import __version__
from edgedit.core.errors import OutputError, UsageError
from edgedit.core.files import write_atomic
from edgedit.core.machine import processor
from edgedit.core.noise import labels as balanced_labels
from edgedit.core.noise import noise
from edgedit.core.pairset import to_uint8
from edgedit.core.picture import grid, png
from edgedit.core.say import Event, Say, silent
from edgedit.learn.device import find_device
from edgedit.model.teacher import load_teacher
from edgedit.teach.unet import draw

BATCH = 64


def sample_grid(teacher: str | Path, out: str | Path, *, count: int = 64, seed: int = 0, guidance: float = 1.0, steps: int = 18,
                device: str = "auto", say: Say = silent) -> dict[str, Any]:
    """Draw `count` images, class by class, and write them as one PNG, with a note of how they were made beside it (OUT.json).

    Returns:
        label, digest, count, seed, guidance, steps, wall_s.

    Raises:
        ArtifactError: no teacher there, or a damaged one.
        UsageError: guidance for a teacher that was taught no images without a class.
        OutputError: the picture cannot be written.
    """
    file = Path(out)
    if file.suffix.lower() != ".png":
        raise UsageError(f"{file}: the grid is a PNG", fix=f"--out {file.with_suffix('.png')}")
    if not file.parent.is_dir():
        raise OutputError(f"{file} cannot be written", saw=f"no folder {file.parent}", fix=f"mkdir -p {file.parent}")
    place = find_device(device)
    denoiser, artifact = load_teacher(teacher, place)
    info = artifact.manifest.info
    if guidance != 1.0 and not info.get("label_dropout"):
        raise UsageError(f"{teacher} was taught every image with its class: guidance has nothing to lean on", fix="--guidance 1")
    classes = np.sort(balanced_labels(seed, range(count), denoiser.spec.classes)).astype(np.int64)
    z = noise(seed, range(count), (denoiser.spec.channels, denoiser.spec.image, denoiser.spec.image))
    start, parts = time.monotonic(), []
    for k in range(0, count, BATCH):
        say(Event("teacher samples", k, count, unit="images"))
        some, labels = (torch.from_numpy(a[k : k + BATCH]).to(place) for a in (z, classes))
        images = draw(denoiser, some, labels, guidance, steps)
        parts.append(to_uint8(images.cpu().numpy()))
    say(Event("teacher samples", count, count, unit="images"))
    picture = png(grid(np.concatenate(parts), columns=max(1, round(count**0.5))))
    asked = {"teacher": artifact.manifest.digest, "seed": seed, "count": count, "guidance": guidance, "steps": steps,
             "rule": "classes in turn, then sorted by class"}
    made = {"device": place.type, "machine": processor(), "wall_s": round(time.monotonic() - start, 3)}
    note = {"made_by": f"edgedit {__version__}", "request": asked, "made": made,
            "file": {"bytes": len(picture), "sha256": hashlib.sha256(picture).hexdigest()}}
    write_atomic(file, picture)
    write_atomic(file.with_name(file.name + ".json"), json.dumps(note, indent=1).encode() + b"\n")
    return {"out": str(out), "label": info.get("label", ""), "digest": artifact.manifest.digest, "count": count, "seed": seed,
            "guidance": guidance, "steps": steps, "wall_s": made["wall_s"]}
