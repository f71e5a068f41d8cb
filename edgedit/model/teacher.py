"""A teacher on disk: artifact of kind "teacher" with the weights of a `Denoiser` as safetensors, its sizes inside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from edgedit.core.artifact import Artifact, open_artifact
from edgedit.core.errors import ArtifactError, UsageError
from edgedit.core.files import write_atomic
from edgedit.model.checkpoint import check_finite
from edgedit.model.denoiser import Denoiser
from edgedit.model.unet import UNetSpec

KIND, WEIGHTS = "teacher", "teacher.safetensors"
MAKE = "edgedit teacher train --preset unet-small --data cifar10 --out FOLDER, or edgedit teacher convert FILE.pkl --out FOLDER"


def save_teacher(file: str | Path, spec: UNetSpec, tensors: dict[str, Tensor], info: dict[str, Any]) -> None:
    """Write the weights of a `UNet` with its sizes and `info` (plain JSON values) in the file's metadata.

    Raises:
        NumericsError: a weight is not finite; nothing is written.
        OutputError: no space or permission.
    """
    check_finite(tensors, str(file))
    metadata = {"edgedit": json.dumps({"spec": spec.to_dict(), "info": info})}  # one key: safetensors keeps several in any order
    write_atomic(file, save({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, metadata))


def read_teacher(file: str | Path) -> tuple[UNetSpec, dict[str, Tensor]]:
    """(sizes, tensors) of a file that `save_teacher` wrote; ArtifactError when it is something else."""
    try:
        with safe_open(str(file), "pt") as opened:
            body = json.loads((opened.metadata() or {}).get("edgedit", "null"))
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a mapping)
        return UNetSpec.from_dict(body["spec"]), tensors
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, UsageError) as error:
        raise ArtifactError(f"{file} is not a teacher's weights", saw=f"{type(error).__name__}: {error}", fix=MAKE) from error


def load_teacher(path: str | Path, device: torch.device | str = "cpu") -> tuple[Denoiser, Artifact]:
    """The teacher in a folder, in eval mode, its parameters frozen.

    Raises:
        ArtifactError: not there, damaged, of another kind, or weights that do not fit the sizes.
    """
    artifact = open_artifact(path, KIND, fix=MAKE)
    spec, tensors = read_teacher(artifact.file(WEIGHTS))
    with torch.device("meta"):
        model = Denoiser(spec)
    wanted = {name: tuple(t.shape) for name, t in model.network.state_dict().items()}
    seen = {name: tuple(t.shape) for name, t in tensors.items()}
    if wanted != seen:
        wrong = sorted(n for n in wanted.keys() | seen.keys() if wanted.get(n) != seen.get(n))[0]
        raise ArtifactError(f"{path}: the weights do not fit their sizes", fix=MAKE,
                            saw=f"{wrong}: {seen.get(wrong)}, needed {wanted.get(wrong)}")
    model.network.load_state_dict({n: t.float() for n, t in tensors.items()}, assign=True)
    return model.eval().requires_grad_(False).to(device), artifact
