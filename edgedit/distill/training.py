"""Stage "train": pairs in, a folder with the student's averaged weights out; the same command goes on where it stopped."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from edgedit.core.artifact import Manifest, Parent, open_artifact
from edgedit.core.errors import UsageError
from edgedit.core.files import sha256_file
from edgedit.core.pairset import PairSet
from edgedit.core.say import Say, silent
from edgedit.core.spec import DiTSpec
from edgedit.distill.settings import TrainSettings
from edgedit.distill.setup import setup_class
from edgedit.distill.student import StudentTrainer
from edgedit.learn.device import pick_device
from edgedit.learn.loop import Run
from edgedit.learn.ranks import joined
from edgedit.model.checkpoint import KIND, WEIGHTS, load_weights


def train(pairs: str | Path, out: str | Path, settings: TrainSettings, *, say: Say = silent, init: str | Path | None = None,
          restart: bool = False) -> Manifest:
    """Train a student on noise–image pairs; under torchrun, in all its processes together.

    Calling it again goes on from the last checkpoint, exactly on a CPU; with more `steps` or `epochs` it trains further; a
    finished run returns at once.

    Args:
        pairs: folder of kind "pairs".
        out: folder to write or to go on in.
        settings: all choices; see `TrainSettings`.
        say: told of progress in steps, about twice a second.
        init: folder of another student, or its `.safetensors`, whose averaged weights are the start.
        restart: forget what `out` holds.

    Returns:
        The manifest of `out`, kind "student", with `info["complete"]` true.

    Raises:
        UsageError: settings that do not fit the pairs, the device, the number of processes, or the run in `out`.
        ArtifactError: damaged pairs, or no readable checkpoint.
        MissingError: weights of LPIPS or a device that cannot be had.
        NumericsError: a loss that is not finite; the last good checkpoint is kept.
        OutputError: the folder cannot be written; the last checkpoint is kept.
        Interrupted: Ctrl-C or SIGTERM, after saving.
    """
    with joined(settings.device) as ranks:
        ranks.lead(lambda: PairSet.open(pairs) and None)
        data = PairSet.open(pairs, verify=False)
        spec = settings.model.spec(data.shape, data.classes)
        weights, parent = load_init(init, spec) if init is not None else (None, None)
        found = (data.artifact.as_parent("pairs"), parent, *setup_class(settings.setup.name).parents(settings.setup, data))
        device = pick_device(settings, ranks)
        run = Run(Path(out), settings, settings.total_steps(len(data)), tuple(p for p in found if p), KIND, ranks, say)
        return run.learn(lambda: StudentTrainer(data, spec, settings, device, ranks, weights, say), restart=restart)


def load_init(path: str | Path, spec: DiTSpec) -> tuple[dict[str, Tensor], Parent]:
    """Weights to start from, and how the run names them: a student's folder, or a bare `.safetensors` of one.

    Raises:
        ArtifactError: not there, damaged, or not a student.
        UsageError: a student of another design.
    """
    path = Path(path)
    if path.is_dir():
        artifact = open_artifact(path, KIND)
        file, parent = artifact.file(WEIGHTS), artifact.as_parent("init")
        other, weights, _ = load_weights(file)
    else:
        other, weights, _ = load_weights(path)
        parent = Parent("init", "weights", sha256_file(path), str(path), other.label)
    if other != spec:
        raise UsageError(f"{path} is of another design than this run", saw=f"{other.to_dict()}, needed {spec.to_dict()}",
                         fix="choose the preset and pairs that it was trained with")
    return weights, parent
