"""What a teacher is, and how worker processes get at one: `prepare` writes what it needs to a folder, `attach` opens that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from edgedit.core.errors import UsageError
from edgedit.core.files import write_atomic
from edgedit.core.say import Event, Say, silent
from edgedit.teach.data import load_data
from edgedit.teach.ideal import IdealTeacher, sorted_planes
from edgedit.teach.network import WEIGHTS_FILE, NetworkTeacher, prepare_network
from edgedit.teach.sampler import Denoise
from edgedit.teach.settings import IDEAL, PairSettings
from edgedit.teach.shards import npy_bytes

PLANES_FILE = "teacher-images.npy"
FACTS_FILE = "teacher.json"
SCRATCH = (PLANES_FILE, WEIGHTS_FILE, FACTS_FILE)
"""All files that `prepare` may write."""


class Teacher(Protocol):
    """A class-conditional denoiser with what pairs need to know about it.

    Attributes:
        name: "ideal", "edm", "unet".
        shape: (C, H, W) of one image.
        class_names: names in label order.
        identity: plain values that tell this teacher from others: kind, data or weights with their SHA-256.
        one_class_a_batch: batches of a single class are cheaper for it.
        piece: images that it looks at together, whatever the batch; None for all.
    """

    name: str
    shape: tuple[int, int, int]
    class_names: list[str]
    identity: dict[str, Any]
    one_class_a_batch: bool
    piece: int | None

    @property
    def classes(self) -> int: ...

    def denoise(self, x: Tensor, sigma: float, labels: Tensor) -> Tensor:
        """D(x; σ, class): x floating point (B, C, H, W), labels int64 (B,) → floating point (B, C, H, W)."""

    def trajectory(self) -> Denoise:
        """A denoiser for the calls of one sampling run, which may carry something from call to call; or `denoise` itself."""


def check_fit(settings: PairSettings, say: Say = silent) -> None:
    """Settings of one kind of teacher given with the other: UsageError if they would change its images, else a warning."""
    if settings.teacher == IDEAL:
        network = {"guidance": settings.guidance != 1, "precision": settings.precision != "fp32", "compile": settings.compile}
        if given := [name for name, set_ in network.items() if set_]:
            raise UsageError(f"{' and '.join(given)}: only networks have that; the teacher is '{IDEAL}'",
                             fix="leave it out, or --teacher with the folder of a network")
    elif given := [name for name in ("data", "image") if getattr(settings, name) != PairSettings.model_fields[name].default]:
        say(Event(f"{' and '.join(given)}: of no use here, {settings.teacher} knows its data and image size", level="warning"))


def prepare(settings: PairSettings, folder: Path, *, cache: Path | None = None, say: Say = silent) -> dict[str, Any]:
    """Load what a teacher needs and put it into `folder`, for any number of processes to map.

    Returns:
        Its facts: "shape", "class_names", "identity", and "parent" if it is an artifact itself.

    Raises:
        UsageError, MissingError, ArtifactError: as `load_data` and `prepare_network`.
        OutputError: the folder cannot be written.
    """
    if settings.teacher == IDEAL:
        planes, counts, shape, class_names, identity = sorted_planes(load_data(settings.data, image=settings.image, cache=cache, say=say))
        facts = {"counts": counts, "shape": list(shape), "class_names": class_names, "identity": identity}
        write_atomic(folder / PLANES_FILE, npy_bytes(planes))
    else:
        facts = prepare_network(settings.teacher, folder, settings.guidance, say=say)
    write_atomic(folder / FACTS_FILE, json.dumps(facts))
    return facts


def read_facts(folder: Path) -> dict[str, Any]:
    """What `prepare` returned."""
    facts: dict[str, Any] = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
    return facts


def attach(folder: Path, *, device: str = "cpu", precision: str = "fp32", guidance: float = 1.0, compiled: bool = False,
           say: Say = silent) -> Teacher:
    """The teacher that `prepare` put into `folder`; processes on one machine share the memory of its images or weights. A network
    tells `say` when memory does not hold a batch."""
    facts = read_facts(folder)
    if "counts" not in facts:
        return NetworkTeacher.mapped(folder / WEIGHTS_FILE, facts, device=device, precision=precision, guidance=guidance,
                                     compiled=compiled, say=say)
    planes = np.load(folder / PLANES_FILE, mmap_mode="c", allow_pickle=False)
    c, h, w = facts["shape"]
    return IdealTeacher(planes, facts["counts"], (c, h, w), facts["class_names"], facts["identity"], device=device)
