"""Teachers that are networks: EDM's, or one of the toolkit's own training, from an artifact of kind "teacher".

A pair costs 2·steps - 1 evaluations (35), of each the network's floating-point operations: that is the floor, the sampler adds
under a hundredth. On a processor the network sees `PIECE` images at a time, whose activations stay in its caches: 1.26 times
as fast as 256 at once (4.1M parameters, one core; benchmarks/pairs.py). One thread a process is worth as much per core as two,
and makes the bytes of a shard independent of the machine's cores. All processes map the weights from one file.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgedit.core.artifact import Artifact, Parent, read_manifest
from edgedit.core.errors import ArtifactError, UsageError
from edgedit.core.files import write_atomic
from edgedit.core.say import Event, Say, silent
from edgedit.learn.memory import Pieces
from edgedit.model.denoiser import Denoiser, guided
from edgedit.model.teacher import MAKE, WEIGHTS, load_teacher, read_teacher
from edgedit.teach.sampler import Denoise
from edgedit.teach.settings import IDEAL

PIECE = 16
"""Images that a processor takes at a time; part of the result's last bits, so not a setting."""
WEIGHTS_FILE = "teacher.safetensors"
"""Copy of the weights in the folder of the work: the teacher's own may be trained further meanwhile."""


class NetworkTeacher:
    """A `Teacher` around a `Denoiser`; it takes float64 states and gives float32 images.

    Args:
        model: in eval mode, on `device`.
        facts: "shape" (C, H, W), "class_names" and "identity", as `prepare_network` writes them.
        device: where it is.
        precision: "fp32", "tf32" (as torch is told by the caller), or "bf16" by autocast; the preconditioning stays in float32.
        guidance: see `PairSettings`; other than 1.0 asks with and without class in one pass of twice the rows.
        compiled: by torch.compile.
        say: hears when memory does not hold a batch: the network then sees half as many images at a time, and so on. They come out
            the same but for the rounding of sums, which on a GPU may move a value that lies on the edge between two grey levels.
    """

    one_class_a_batch = False

    def __init__(self, model: Denoiser, facts: dict[str, Any], *, device: str = "cpu", precision: str = "fp32", guidance: float = 1.0,
                 compiled: bool = False, say: Say = silent) -> None:
        c, h, w = facts["shape"]
        self.name: str = facts["identity"]["teacher"]
        self.shape: tuple[int, int, int] = (c, h, w)
        self.class_names: list[str] = list(facts["class_names"])
        self.identity: dict[str, Any] = dict(facts["identity"])
        self.device, self.precision, self.guidance = torch.device(device), precision, guidance
        self.piece = PIECE if self.device.type == "cpu" else None
        self.say = say
        self._pieces = Pieces("the teacher's network", "a device with more memory, or --set precision=bf16; finished shards are kept",
                              self.piece)
        self._model = torch.compile(model, dynamic=False) if compiled else model

    @classmethod
    def mapped(cls, file: Path, facts: dict[str, Any], *, device: str = "cpu", **options: Any) -> NetworkTeacher:
        """From the weights' file, which processes on a CPU map and share; `options` as for the class."""
        spec, tensors = read_teacher(file)
        with torch.device("meta"):
            model = Denoiser(spec)
        model.network.load_state_dict(tensors, assign=True)
        model.eval().requires_grad_(False)
        if torch.device(device).type != "cpu":
            model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(model, facts, device=device, **options)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def trajectory(self) -> Denoise:
        """`denoise`: a network carries nothing from call to call."""
        return self.denoise

    @torch.inference_mode()
    def denoise(self, x: Tensor, sigma: float, labels: Tensor) -> Tensor:
        """D(x; σ, class): x floating point (B, C, H, W), labels int64 (B,), `denoiser.NO_CLASS` allowed → float32 (B, C, H, W)."""
        x = x.float().contiguous(memory_format=torch.channels_last)

        def attempt(pieces: list[range]) -> Tensor:
            return torch.cat([self._piece(x[p.start : p.stop], sigma, labels[p.start : p.stop]) for p in pieces])

        return self._pieces.fit(len(x), attempt, self.say)

    def _piece(self, x: Tensor, sigma: float, labels: Tensor) -> Tensor:
        level = torch.full((len(x),), sigma, dtype=torch.float32, device=x.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return guided(self._model, x, level, labels, self.guidance)


def check_there(path: str | Path) -> None:
    """UsageError where there is nothing at `path`."""
    if not Path(path).exists():
        raise UsageError(f"no teacher '{path}'", saw="neither a known name nor a folder that exists", fix=f"known: {IDEAL}, or the "
                         f"folder of a teacher: {MAKE}")


def prepare_network(path: str | Path, folder: Path, guidance: float, *, say: Say = silent) -> dict[str, Any]:
    """Check a teacher and put its weights into `folder`, for any number of processes to map.

    Returns:
        Facts as `NetworkTeacher` takes them, and "parent", how the pairs name the teacher's artifact.

    Raises:
        UsageError: there is nothing at `path`; guidance that the network was not trained for.
        ArtifactError: the folder is of another kind or damaged (both hashes are named).
        OutputError: `folder` cannot be written.
    """
    check_there(path)
    model, artifact = load_teacher(path)
    spec, info = model.spec, artifact.manifest.info
    _check_guidance(artifact, guidance)
    if info.get("complete") is False:
        say(Event(f"{path}: this teacher's training is not finished (step {info.get('step')} of {info.get('steps')})", level="warning"))
    names = [str(name) for name in info.get("class_names") or range(spec.classes)]
    if len(names) != spec.classes:
        raise ArtifactError(f"{path}: the class names do not fit the network", saw=f"{len(names)} names, {spec.classes} classes", fix=MAKE)
    weights = artifact.file(WEIGHTS).read_bytes()
    known = artifact.manifest.files[WEIGHTS]["sha256"]
    if (seen := hashlib.sha256(weights).hexdigest()) != known:
        raise ArtifactError(f"{artifact.file(WEIGHTS)} changed while it was read", saw=f"sha256 {seen[:16]}…, manifest says {known[:16]}…",
                            fix="wait until the teacher's training has stopped, or copy its folder")
    write_atomic(folder / WEIGHTS_FILE, weights)
    data = info.get("data")
    if isinstance(data, dict):
        data = data.get("name")
    identity = {"teacher": str(info.get("name") or "network"), "label": str(info.get("label", "")), "digest": artifact.manifest.digest,
                "weights_sha256": known, "data": data, "parameters": spec.parameters, "guidance": guidance}
    return {"shape": [spec.channels, spec.image, spec.image], "class_names": names, "identity": identity,
            "parent": asdict(artifact.as_parent("teacher"))}


def _check_guidance(artifact: Artifact, guidance: float) -> None:
    dropout = artifact.manifest.info.get("label_dropout")
    if guidance != 1 and not dropout:
        raise UsageError(f"{artifact.path} was never asked without a class in its training: guidance has no sense for it",
                         saw=f"guidance {guidance:g}, label_dropout {dropout or 0}",
                         fix="guidance = 1.0, or a teacher trained with label dropout")


def parents(facts: dict[str, Any]) -> list[Parent]:
    """The teacher's artifact, from the facts of `prepare_network`; none for other teachers."""
    return [Parent.from_dict(facts["parent"])] if "parent" in facts else []


def check_weights(path: str | Path, info: dict[str, Any], folder: Path, say: Say) -> None:
    """Raise UsageError when the teacher at `path` is not the one that the pairs in `folder` are of (`info`: their "teacher")."""
    if not Path(path).is_dir():
        say(Event(f"{path} is not there, so that it was not compared with the teacher of {folder}", level="warning"))
        return
    now = read_manifest(Path(path)).files.get(WEIGHTS, {}).get("sha256")
    if now != info.get("weights_sha256"):
        raise UsageError(f"{folder} holds pairs of another teacher", fix=f"choose another --out, or remove {folder}",
                         saw=f"weights {info.get('weights_sha256')} there, {path} has {now} now")
