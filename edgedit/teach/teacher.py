"""What a teacher is, and how worker processes get at one: `prepare` writes what it needs to a folder, `attach` opens that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from edgedit.core.errors import UsageError
from edgedit.core.files import write_atomic
from edgedit.core.say import Say, silent
from edgedit.teach.data import load_data
from edgedit.teach.ideal import IdealTeacher, sorted_planes
from edgedit.teach.sampler import Denoise

PLANES_FILE = "teacher-images.npy"
FACTS_FILE = "teacher.json"


class Teacher(Protocol):
    """A class-conditional denoiser with what pairs need to know about it.

    Attributes:
        name: "ideal" …
        shape: (C, H, W) of one image.
        class_names: names in label order.
        identity: plain values that tell this teacher from others: kind, data or weights with their SHA-256.
        one_class_a_batch: batches of a single class are cheaper for it.
    """

    name: str
    shape: tuple[int, int, int]
    class_names: list[str]
    identity: dict[str, Any]
    one_class_a_batch: bool

    @property
    def classes(self) -> int: ...

    def denoise(self, x: Tensor, sigma: float, labels: Tensor) -> Tensor:
        """D(x; σ, class): x floating point (B, C, H, W), labels int64 (B,) → floating point (B, C, H, W)."""

    def trajectory(self) -> Denoise:
        """A denoiser for the calls of one sampling run, which may carry something from call to call; or `denoise` itself."""


def prepare(kind: str, data: str, image: int | None, folder: Path, *, cache: Path | None = None,
            say: Say = silent) -> dict[str, Any]:
    """Load what a teacher needs and put it into `folder`, for any number of processes to map; returns its identity.

    Raises:
        UsageError, MissingError, ArtifactError: as `load_data`; UsageError for an unknown kind.
        OutputError: the folder cannot be written.
    """
    if kind != IdealTeacher.name:
        raise UsageError(f"unknown teacher '{kind}'", fix=f"known: {IdealTeacher.name}")
    planes, counts, shape, class_names, identity = sorted_planes(load_data(data, image=image, cache=cache, say=say))
    facts = {"counts": counts, "shape": shape, "class_names": class_names, "identity": identity}
    write_atomic(folder / PLANES_FILE, npy_bytes(planes))
    write_atomic(folder / FACTS_FILE, json.dumps(facts))
    return identity


def attach(folder: Path, *, device: str = "cpu") -> Teacher:
    """The teacher that `prepare` put into `folder`; processes on one machine share the memory of its images."""
    facts = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
    planes = np.load(folder / PLANES_FILE, mmap_mode="c", allow_pickle=False)
    c, h, w = facts["shape"]
    return IdealTeacher(planes, facts["counts"], (c, h, w), facts["class_names"], facts["identity"], device=device)


def npy_bytes(array: np.ndarray[Any, Any]) -> bytes:
    """The array as a .npy file's bytes."""
    from io import BytesIO

    stream = BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()
