"""Stage "teacher convert": NVIDIA's published CIFAR-10 network as an artifact that nothing has to be executed to read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from edgedit.core.artifact import MANIFEST, Manifest, check_output, create, open_artifact, read_manifest
from edgedit.core.errors import ArtifactError, NumericsError, UsageError
from edgedit.core.say import Event, Say, silent
from edgedit.core.settings import Settings
from edgedit.model.denoiser import SIGMA_DATA
from edgedit.model.teacher import KIND, WEIGHTS, save_teacher
from edgedit.model.unet import Block, UNet, UNetSpec
from edgedit.teach.nvidia_pickle import file_bytes, read_network

LABEL = "edm-cifar10-32x32-cond-vp"
LICENCE = "CC BY-NC-SA 4.0, NVIDIA: the published weights carry it, and so does this copy of them"
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_NEEDED = f"needed is {LABEL}.pkl: EDM's class-conditional CIFAR-10 network, DDPM++ ('VP')"


class ConvertSettings(Settings):
    """Settings of the stage."""

    expect_sha256: str | None = Field(default=None, pattern="^[0-9a-fA-F]{64}$")
    """Refuse a source with another hash. Without it any hash will do, and is recorded."""


def convert(source: str | Path, out: str | Path, settings: ConvertSettings | None = None, *, say: Say = silent) -> Manifest:
    """Take the tensors out of edm-cifar10-32x32-cond-vp.pkl, without running anything in it, and write a teacher.

    Args:
        source: the .pkl as published (about 223 MB).
        out: the artifact's folder; holds `teacher.safetensors` (float32, the names of `UNet`) and the manifest.
        settings: see `ConvertSettings`.
        say: hears what is being done.

    Returns:
        The manifest; at once if `out` holds this source already.

    Raises:
        ArtifactError: the source is not there, damaged, refused, of another hash, or holds another network (it says which).
        NumericsError: a weight is not finite.
        UsageError: `out` was made from another source.
        OutputError: `out` cannot be written.
    """
    settings = settings or ConvertSettings()
    file, target = Path(source).expanduser(), Path(out)
    check_output(target, kind=KIND)
    raw = file_bytes(file)
    say(Event(f"teacher: {file.name}, {len(raw) / 1e6:.0f} MB"))
    origin = {"name": file.name, "sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}
    wanted = (settings.expect_sha256 or "").lower()
    if wanted not in ("", origin["sha256"]):
        raise ArtifactError(f"{file} is not the file that was expected", saw=f"sha256 {origin['sha256']}, expected {wanted}",
                            fix="fetch it again, or leave out the expected hash")
    if (there := _made_before(target, origin, say)) is not None:
        return there
    spec = UNetSpec.edm_cifar10()
    tensors, facts = read_network(raw, str(file))
    check_network(tensors, facts, spec, str(file))
    weights = {name.removeprefix("model."): t for name, t in tensors.items() if not name.endswith(".resample_filter")}
    say(Event(f"teacher: {len(weights)} tensors, {spec.parameters:,} parameters"))
    info = _info(spec, facts, origin)
    with create(target, KIND) as draft:
        save_teacher(draft.path / WEIGHTS, spec, weights, info)
        draft.settings, draft.info = settings.model_dump(), info
    assert draft.manifest is not None  # set by `create` when its block ends well
    return draft.manifest


def network_shapes(spec: UNetSpec) -> dict[str, tuple[int, ...]]:
    """Names and shapes that NVIDIA's file has for a network: `UNet`'s below "model.", and the filters of resampling blocks.

    For `UNetSpec.edm_cifar10()` 427 = 419 parameters + 8 buffers (science.md §6.2).
    """
    with torch.device("meta"):
        network = UNet(spec)
    shapes = {f"model.{name}": tuple(t.shape) for name, t in network.state_dict().items()}
    filters = [f"model.{name}.{part}.resample_filter" for name, block in network.named_modules()
               if isinstance(block, Block) and block.resample for part in ("conv0", "skip")]
    return {**shapes, **dict.fromkeys(filters, (1, 1, 2, 2))}


def check_network(tensors: dict[str, Tensor], facts: dict[str, Any], spec: UNetSpec, name: str) -> None:
    """Raise ArtifactError unless the tensors are exactly the network of `spec` inside EDM's own preconditioning.

    Class and attributes count as well as tensors: EDM's baselines have the same 427 tensors inside another preconditioning.
    NumericsError if a number is not finite.
    """
    if facts["class_name"] != "EDMPrecond":
        raise ArtifactError(f"{name} holds a network with another preconditioning", fix=_NEEDED,
                            saw=f"class {facts['class_name']}, needed is EDMPrecond (EDM's baselines have others)")
    expected = network_shapes(spec)
    if differ := sorted(key for key in tensors.keys() | expected.keys() if _shape(tensors, key) != expected.get(key)):
        first = differ[0]
        raise ArtifactError(f"{name} holds another network: {_likeness(tensors, facts, spec)}", fix=_NEEDED,
                            saw=f"{len(differ)} of {len(expected)} tensors differ; the first is {first}: "
                                f"{_shape(tensors, first)}, needed is {expected.get(first)}")
    attributes = {"img_resolution": spec.image, "img_channels": spec.channels, "label_dim": spec.classes, "sigma_data": SIGMA_DATA}
    if wrong := [key for key, value in attributes.items() if facts["state"].get(key) != value]:
        raise ArtifactError(f"{name} holds a network with other constants", fix=_NEEDED,
                            saw="; ".join(f"{key}: {facts['state'].get(key)}, needed is {attributes[key]}" for key in wrong))
    for key, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise ArtifactError(f"{name}: '{key}' has another number type", saw=f"{tensor.dtype}, needed is torch.float32", fix=_NEEDED)
        if not bool(torch.isfinite(tensor).all()):
            raise NumericsError(f"{name}: '{key}' is not finite", fix="the file is damaged; fetch it again",
                                saw=f"{int((~torch.isfinite(tensor)).sum())} of {tensor.numel()} values are NaN or infinite")
        if key.endswith(".resample_filter") and not bool((tensor == 0.25).all()):
            raise ArtifactError(f"{name}: '{key}' is another filter", fix=_NEEDED,
                                saw=f"{tensor.flatten().tolist()}, needed is 0.25 four times (the mean of 2 × 2 pixels)")


def _likeness(tensors: Iterable[str], facts: dict[str, Any], spec: UNetSpec) -> str:
    """What a set of names looks like, in words: the other networks that EDM's authors published."""
    names = set(tensors)
    sides = sorted(int(found[1]) for n in names if (found := re.match(r"model\.enc\.(\d{1,4})x", n)))
    if facts["network"] == "DhariwalUNet":
        return "ADM (DhariwalUNet), EDM's network for ImageNet"
    if "model.map_noise.freqs" in names or any("aux_residual" in n for n in names):
        return "NCSN++ ('VE')"
    if "model.map_layer0.weight" not in names:
        return "no network of EDM's"
    if sides and sides[-1] != spec.image:
        return f"a network for images of {sides[-1]} × {sides[-1]} pixels"
    return "DDPM++ without classes" if "model.map_label.weight" not in names else "DDPM++ of other sizes"


def _shape(tensors: dict[str, Tensor], key: str) -> tuple[int, ...] | None:
    return tuple(tensors[key].shape) if key in tensors else None


def _made_before(target: Path, origin: dict[str, Any], say: Say) -> Manifest | None:
    """The manifest in `target` if it was made from this source; a damaged artifact of this source is made again."""
    if not (target / MANIFEST).is_file():
        return None
    before = read_manifest(target).info.get("source")
    if not isinstance(before, dict) or before.get("sha256") != origin["sha256"]:
        raise UsageError(f"{target} holds a teacher made from something else", fix=f"choose another --out, or remove {target}",
                         saw=f"source {before or 'none'}, now sha256 {origin['sha256']}")
    try:
        return open_artifact(target, KIND).manifest
    except ArtifactError as error:
        say(Event(f"teacher: {error.what}; it is made again", level="warning"))
        return None


def _info(spec: UNetSpec, facts: dict[str, Any], origin: dict[str, Any]) -> dict[str, Any]:
    return {"label": LABEL, "name": "edm", "image": spec.image, "channels": spec.channels, "classes": spec.classes,
            "class_names": list(CLASS_NAMES), "sigma_data": SIGMA_DATA, "parameters": spec.parameters, "unet": spec.to_dict(),
            "data": {"name": "cifar10", "split": "train"}, "label_dropout": 0.0, "source": origin,
            "license": LICENCE, "augment": {"values": spec.augment, **facts.get("augment_pipe", {})},
            "trained": {key: facts[key] for key in ("class_name", "network", "init", "loss_fn") if key in facts}}
