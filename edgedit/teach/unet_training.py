"""Stage "teacher train": an image set in, a U-Net teacher's averaged weights out; the same command goes on where it stopped."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from edgedit.core.artifact import Manifest, Parent
from edgedit.core.errors import UsageError
from edgedit.core.say import Say, silent
from edgedit.learn.device import pick_device
from edgedit.learn.loop import Run
from edgedit.learn.ranks import joined
from edgedit.model.teacher import KIND, load_teacher
from edgedit.teach.data import ImageSet, load_data
from edgedit.teach.unet import UNetTrainer, unet_spec
from edgedit.teach.unet_settings import TeacherSettings


def train_teacher(out: str | Path, settings: TeacherSettings, *, cache: Path | None = None, say: Say = silent,
                  init: str | Path | None = None, restart: bool = False) -> Manifest:
    """Train a U-Net with EDM's preconditioning and loss; under torchrun, in all its processes together.

    Args:
        out: folder to write or to go on in.
        settings: all choices; see `TeacherSettings`.
        cache: where downloads are kept.
        init: folder of another teacher of the same sizes, whose averaged weights are the start.
        restart: forget what `out` holds.

    Returns:
        The manifest of `out`, kind "teacher", with `info["complete"]` true.

    Raises:
        As `edgedit.distill.training.train`, and what `load_data` raises.
    """
    with joined(settings.device) as ranks:
        device = pick_device(settings, ranks)
        ranks.lead(lambda: load_data(settings.data, image=settings.image, cache=cache, say=say) and None)
        data = load_data(settings.data, image=settings.image, cache=cache, download=False)
        weights, parent = _load_init(init, data, settings) if init is not None else (None, None)
        parents = tuple(p for p in (Parent("data", "data", data.sha256, label=data.name), parent) if p)
        run = Run(Path(out), settings, settings.total_steps(len(data)), parents, KIND, ranks, say)
        return run.learn(lambda: UNetTrainer(data, settings, device, ranks, weights), restart=restart)


def _load_init(path: str | Path, data: ImageSet, settings: TeacherSettings) -> tuple[dict[str, Tensor], Parent]:
    """Weights to start from; UsageError for a teacher of other sizes (dropout may differ)."""
    denoiser, artifact = load_teacher(path)
    wanted, there = unet_spec(data, settings).to_dict(), denoiser.spec.to_dict()
    if wrong := [k for k in wanted if k != "dropout" and wanted[k] != there[k]]:
        raise UsageError(f"{path} is of another design than this run", saw=f"{wrong[0]}: {there[wrong[0]]}, needed {wanted[wrong[0]]}",
                         fix="choose the preset and data that it was trained with")
    return denoiser.network.state_dict(), artifact.as_parent("init")
