"""Weights files of other projects, read as tensors: nothing in them is run."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgedit.core.errors import ArtifactError, MissingError


def read_tensors(file: Path) -> dict[str, Tensor]:
    """State dict in a .safetensors or torch file, on the CPU; one inside "state_dict" or with the prefix "module." is unwrapped.

    Raises:
        MissingError: no such file.
        ArtifactError: not a state dict, truncated, or a file that wants code to be run.
    """
    if not file.is_file():
        raise MissingError(f"no weights at {file}")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            body: Any = load_file(file)
        else:
            body = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, OSError, zipfile.BadZipFile, TypeError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise ArtifactError(f"{file} cannot be read as weights", saw=said,
                            fix="a state dict is needed, saved by torch.save or as safetensors; download it again") from error
    if isinstance(body, dict) and isinstance(body.get("state_dict"), dict):
        body = body["state_dict"]
    if not isinstance(body, dict) or not body or not all(isinstance(v, Tensor) for v in body.values()):
        raise ArtifactError(f"{file} holds no state dict", saw=type(body).__name__)
    return {str(name).removeprefix("module."): tensor for name, tensor in body.items()}
