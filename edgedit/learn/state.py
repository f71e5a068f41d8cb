"""Checkpoints of a run: `state/step-0001000/` holds everything that going on needs, hashed and written atomically.

Each is an artifact of kind "train-state": `state.safetensors` (weights, average, moments of AdamW, the setup's parts, under
dotted prefixes) and `state.json` (step, wall time, the open window of losses). Nothing is pickled. There is no generator's
state to keep: order, noise and label dropout are functions of (seed, step).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Optimizer

from edgedit.core.artifact import create, open_artifact
from edgedit.core.errors import ArtifactError
from edgedit.core.files import output_error
from edgedit.core.say import Event, Say
from edgedit.model.checkpoint import check_finite

KIND = "train-state"
FOLDER = "state"
_TENSORS, _FACTS, _DAMAGED = "state.safetensors", "state.json", ".damaged"


@dataclass
class Progress:
    """Where a run is, beyond its tensors."""

    step: int = 0
    """Steps taken."""
    wall_s: float = 0.0
    """Time spent training, over all starts."""
    terms: dict[str, list[float]] = field(default_factory=dict)
    """Loss and logged terms of the steps since the last line of metrics, so that the next line is the same after a resume."""
    last_loss: float | None = None
    """Mean loss of the last line of metrics."""


def step_folder(out: Path, step: int) -> Path:
    """Folder of the checkpoint after `step` steps."""
    return out / FOLDER / f"step-{step:07d}"


def save_state(out: Path, tensors: dict[str, Tensor], progress: Progress, keep_last: int) -> None:
    """Write a checkpoint, then remove all but the `keep_last` newest.

    Raises:
        NumericsError: a tensor is not finite; nothing is written.
        OutputError: no space or permission; earlier checkpoints are intact.
    """
    from safetensors.torch import save

    check_finite(tensors, f"step {progress.step}")
    with create(step_folder(out, progress.step), KIND) as draft:
        draft.write(_TENSORS, save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}))
        draft.write_json(_FACTS, asdict(progress))
        draft.info = {"step": progress.step}
    try:
        for old in _folders(out)[:-keep_last]:
            shutil.rmtree(old)
    except OSError as error:
        raise output_error(out, error) from error


def load_state(out: Path, say: Say) -> tuple[dict[str, Tensor], Progress] | None:
    """The newest checkpoint that passes its checks, or None when there is none at all.

    A damaged one is reported, set aside as `step-….damaged` and the one before it is taken.

    Raises:
        ArtifactError: checkpoints exist and none is good.
    """
    _sweep(out)
    folders = _folders(out)
    problem: ArtifactError | None = None
    for folder in reversed(folders):
        try:
            found = _read(folder)
        except ArtifactError as error:
            problem = problem or error
            say(Event(f"checkpoint {folder} is damaged and was set aside; the one before it is taken ({error.what})",
                      level="warning"))
            aside = folder.with_name(folder.name + _DAMAGED)
            shutil.rmtree(aside, ignore_errors=True)
            folder.rename(aside)
        else:
            return found
    if problem is not None:
        raise ArtifactError(f"no checkpoint in {out / FOLDER} can be read", saw=problem.what,
                            fix="begin anew with --restart, or choose another --out")
    return None


def _read(folder: Path) -> tuple[dict[str, Tensor], Progress]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    artifact = open_artifact(folder, KIND)
    try:
        tensors = load_file(artifact.file(_TENSORS))
        progress = Progress(**json.loads(artifact.file(_FACTS).read_bytes()))
    except (SafetensorError, ValueError, TypeError, OSError) as error:
        raise ArtifactError(f"{folder} cannot be read as a checkpoint", saw=error) from error
    return tensors, progress


def _folders(out: Path) -> list[Path]:
    """Checkpoints, oldest first."""
    return sorted(p for p in (out / FOLDER).glob("step-*") if p.is_dir() and not p.name.endswith(_DAMAGED))


def _sweep(out: Path) -> None:
    """Remove what a killed write left (temporary siblings start with a dot)."""
    for left in (*(out / FOLDER).glob(".step-*"), *out.glob(".*.part")):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def restore(target: Tensor, source: Tensor) -> None:
    """Copy into existing storage, which keeps torch's alignment and so the exact path of its CPU kernels."""
    with torch.no_grad():
        target.copy_(source)


def moments(optimizer: Optimizer, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What AdamW knows of each parameter, as "NAME.exp_avg" and so on."""
    return {f"{name}.{key}": t for name, p in parameters.items() for key, t in optimizer.state[p].items()}


def make_room(optimizer: Optimizer, parameters: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Give the optimiser uninitialised moments of the shapes in `saved` (named as `moments` does), to be restored into.

    They lie in memory as their parameter does: otherwise sums are rounded otherwise.
    """
    for name, p in parameters.items():
        mine = {n[len(name) + 1:]: t for n, t in saved.items() if n.startswith(f"{name}.") and "." not in n[len(name) + 1:]}
        optimizer.state[p] = {key: torch.empty_like(p if t.shape == p.shape else t, dtype=t.dtype, device=p.device)
                              for key, t in mine.items()}


def fill(own: Mapping[str, Tensor], saved: Mapping[str, Tensor], what: str) -> None:
    """Copy every saved tensor into its namesake; ArtifactError when names or shapes differ."""
    wrong = sorted(own.keys() ^ saved.keys()) or [n for n, t in saved.items() if t.shape != own[n].shape]
    if wrong:
        raise ArtifactError(f"the checkpoint does not fit {what}", saw=wrong[0], fix="begin anew with --restart")
    for name, tensor in saved.items():
        restore(own[name], tensor)
