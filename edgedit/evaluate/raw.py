"""A run's weights as the last step left them, beside the averaged ones that are exported: what the average is worth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from edgedit.core.artifact import open_artifact
from edgedit.core.errors import ArtifactError, MissingError
from edgedit.learn.state import FOLDER, KIND

_MODEL = "model."


@dataclass(frozen=True)
class Raw:
    """Weights of a checkpoint.

    Attributes:
        weights: state dict of the network.
        step: after how many steps.
        digest: of the checkpoint's manifest.
    """

    weights: dict[str, Tensor]
    step: int
    digest: str


def raw_weights(run: str | Path) -> Raw:
    """The weights of the newest checkpoint of a run, which is only read.

    Raises:
        MissingError: no checkpoints: a shipped student, or one whose `state/` was removed.
        ArtifactError: the newest one is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folders = sorted(p for p in (Path(run) / FOLDER).glob("step-*") if p.is_dir() and p.suffix == "")
    if not folders:
        raise MissingError(f"{run} has no checkpoints, which alone hold raw weights", saw=f"nothing in {Path(run) / FOLDER}",
                           fix="--weights ema, or the folder where it was trained")
    artifact = open_artifact(folders[-1], KIND)
    try:
        name = next(n for n in artifact.manifest.files if n.endswith(".safetensors"))
        tensors = {n.removeprefix(_MODEL): t for n, t in load_file(artifact.file(name)).items() if n.startswith(_MODEL)}
    except (StopIteration, SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(f"{folders[-1]} cannot be read as a checkpoint", saw=error) from error
    return Raw(tensors, int(artifact.manifest.info["step"]), artifact.manifest.digest)
