"""Student weights on disk: safetensors with the spec and facts of the training in its metadata. Loading runs no code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgedit.core.artifact import Artifact, open_artifact
from edgedit.core.errors import ArtifactError, NumericsError
from edgedit.core.files import write_atomic
from edgedit.core.spec import DiTSpec
from edgedit.model.dit import DiT

FORMAT = "edgedit-dit-1"
KIND = "student"
WEIGHTS = "student.safetensors"
"""EMA weights of a training run: what is exported and shown."""

USUAL_GUIDANCE = 1.5
"""Scale of classifier-free guidance at inference (the paper, Appendix C)."""


def usual_guidance(facts: dict[str, Any]) -> float:
    """The guidance to run a student with, given the facts of its training ("loss", "data"): 1.5, or 1.0 where its weights have it in
    them: by setup `guided`, by a teacher that was guided in setup `dmd`, or by pairs that were made with guidance."""
    loss, teacher = facts.get("loss") or {}, (facts.get("data") or {}).get("teacher")
    guided_pairs = isinstance(teacher, dict) and teacher.get("guidance", 1.0) != 1.0
    inside = guided_pairs or "distilled_guidance" in loss or "teacher_guidance" in loss
    return 1.0 if inside else USUAL_GUIDANCE


def save_weights(file: str | Path, spec: DiTSpec, weights: dict[str, Tensor], info: dict[str, Any] | None = None) -> None:
    """Write weights atomically.

    Args:
        file: target `.safetensors`.
        spec: sizes, stored in the metadata.
        weights: state dict of `DiT`.
        info: JSON values stored beside the spec (training settings, step, ema_decay …).
    """
    from safetensors.torch import save

    metadata = {"format": FORMAT, "spec": json.dumps(spec.to_dict()), "info": json.dumps(info or {})}
    write_atomic(file, save({k: v.detach().cpu().contiguous() for k, v in weights.items()}, metadata))


def load_weights(file: str | Path) -> tuple[DiTSpec, dict[str, Tensor], dict[str, Any]]:
    """Read weights: (spec, state dict, info).

    Raises:
        ArtifactError: not safetensors, truncated, not of this format, or tensors that do not fit the spec.
        NumericsError: NaN or infinity in a tensor.
    """
    from safetensors import SafetensorError, safe_open

    file = Path(file)
    try:
        with safe_open(file, framework="pt") as stream:
            metadata = stream.metadata() or {}
            weights = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a dict)
        if metadata.get("format") != FORMAT:
            raise ArtifactError(f"{file} holds no DiT-Nano weights", saw=f"format {metadata.get('format')!r}, needed {FORMAT!r}")
        spec, info = DiTSpec.from_dict(json.loads(metadata["spec"])), json.loads(metadata["info"])
    except FileNotFoundError:
        raise ArtifactError(f"{file} is not there") from None
    except (SafetensorError, ValueError, KeyError, OSError) as error:
        raise ArtifactError(f"{file} cannot be read as weights", saw=error, fix="copy it again from its source") from error
    with torch.device("meta"):
        expected = {name: tuple(t.shape) for name, t in DiT(spec).state_dict().items()}
    seen = {name: tuple(t.shape) for name, t in weights.items()}
    if seen != expected:
        wrong = sorted(n for n in seen.keys() | expected.keys() if seen.get(n) != expected.get(n))
        raise ArtifactError(f"{file}: tensors do not fit the design {spec.label}",
                            saw=f"{wrong[0]}: {seen.get(wrong[0])}, needed {expected.get(wrong[0])}")
    check_finite(weights, str(file))
    return spec, weights, info


def check_finite(weights: dict[str, Tensor], where: str) -> None:
    """Raise NumericsError naming the first tensor that holds NaN or infinity."""
    for name, tensor in weights.items():
        if not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise NumericsError(f"{where}: '{name}' is not finite", saw=f"{bad} of {tensor.numel()} values are NaN or infinite",
                                fix="train again from the last good checkpoint, with a lower learning rate")


def load_student(path: str | Path) -> tuple[DiT, Artifact, dict[str, Any]]:
    """Open a training run's folder: (model with EMA weights in eval mode, artifact, facts of the training).

    The facts are those beside the weights, with the manifest's own winning.
    """
    artifact = open_artifact(path, KIND, fix="edgedit train --pairs PAIRS --out FOLDER makes one")
    spec, weights, info = load_weights(artifact.file(WEIGHTS))
    model = DiT(spec)
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False), artifact, {**info, **artifact.manifest.info}
