"""How a card shows a model at work: two commands, and pictures whose own notes say what made them."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgedit.core.artifact import Artifact
from edgedit.core.errors import ArtifactError, UsageError
from edgedit.core.files import sha256_file
from edgedit.report.card_chain import Chain
from edgedit.report.card_sources import FIX
from edgedit.report.sources import PNG


def run(chain: Chain, places: dict[str, str]) -> list[str]:
    """Two commands that use the model where it lies; what they write stands in nobody's way."""
    name = shlex.quote(places[chain.head.manifest.digest])
    if chain.of == "teacher":
        return [f"edgedit teacher sample {name} --count 64 --out my-images.png",
                f"edgedit pairs --teacher {name} --count 1000 --out my-pairs"]
    if not chain.bundles:
        return [f"edgedit export {name} --out my-bundle --precision fp32",
                "edgedit generate my-bundle --count 64 --all-classes --out my-images.png"]
    ranks: dict[tuple[str, ...], int] = {("fp32", "ort"): 0, ("fp32", "pattern"): 1, ("fp32", "onnx"): 2, ("fp16", "pattern"): 3}
    best = min(chain.bundles, key=lambda b: ranks.get(tuple(str(b.manifest.settings.get(k)) for k in ("precision", "attention")), 4))
    name = shlex.quote(places[best.manifest.digest])
    return [f"edgedit generate {name} --count 64 --all-classes --out my-images.png",
            f"edgedit profile {name} --images 1000 --out my-record"]


def sample(name: str, base: Path, chain: Chain) -> dict[str, Any]:
    """A picture and how it was made, by the note that `edgedit generate` or `edgedit teacher sample` left beside it."""
    file = Path(os.path.normpath(base / name))
    if not file.is_file() or not file.read_bytes().startswith(PNG):
        raise ArtifactError(f"{file} is not a PNG picture", saw=None if file.is_file() else "nothing there", fix="--samples GRID.png")
    sha, beside = sha256_file(file), file.with_name(file.name + ".json")
    shown = {"path": Path(name).as_posix(), "sha256": sha, "alt": f"Images of {chain.head.manifest.info.get('label', 'the model')}",
             "caption": f"{Path(name).name}: how it was made is not recorded beside it."}
    if not beside.is_file():
        return shown | _kept(chain, sha)
    try:
        note = json.loads(beside.read_bytes())
        request, same = note["request"], note["file"]["sha256"] == sha
        caption = _of_a_teacher(request, chain, file) if "teacher" in request else _of_a_bundle(request, chain, file)
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{beside} is not a note of `edgedit generate` or `edgedit teacher sample`", saw=error,
                            fix="remove it, or make the picture again") from error
    if not same:
        raise ArtifactError(f"{file} was altered after it was made", fix="make it again", saw=f"sha256 {sha[:16]}…, its note says "
                            f"{str(note['file']['sha256'])[:16]}…")
    return shown | {"caption": caption}


def _of_a_bundle(request: dict[str, Any], chain: Chain, file: Path) -> str:
    s, start, classes = _maker("bundle", request, chain.bundles, file).manifest.settings, int(request["start"]), len(request["classes"])
    of = f"{classes} classes in turn" if classes > 1 else f"class {request['classes'][0]}"
    return (f"{int(request['count']):,} images of {of}, {s.get('precision')}, guidance {s.get('guidance_scale')}, seed {request['seed']}, "
            f"from image {start:,} on, none left out.")


def _of_a_teacher(request: dict[str, Any], chain: Chain, file: Path) -> str:
    _maker("teacher", request, chain.teachers if chain.of == "student" else [chain.head], file)
    return (f"{int(request['count']):,} images, class by class, {request['steps']} Heun steps, guidance {request['guidance']:g}, "
            f"seed {request['seed']}, none left out.")


def _maker(kind: str, request: dict[str, Any], folders: Sequence[Artifact], file: Path) -> Artifact:
    """The folder that made a picture; UsageError when it is none of the card's."""
    digest = str(request[kind])
    if found := next((f for f in folders if f.manifest.digest == digest), None):
        return found
    given = ", ".join(f"{f.path} {f.manifest.digest[:12]}" for f in folders) or "none"
    raise UsageError(f"{file} was made by another {kind}", saw=f"{kind} {digest[:12]}; given: {given}", fix=FIX)


def _kept(chain: Chain, sha: str) -> dict[str, str]:
    """The caption of a picture that an evaluation or a record among the folders holds under its hash; nothing for others."""
    for artifact in [*(e.artifact for e in chain.evaluations), *(a for a, _ in chain.records)]:
        for name, entry in artifact.manifest.files.items():
            if entry["sha256"] == sha:
                m = artifact.manifest
                what = {"nearest.png": "images beside the training images that they come nearest to"}.get(name, name)
                return {"caption": f"{what[0].upper()}{what[1:]}: of the {m.kind} {m.info.get('label', '')} ({m.digest[:12]})."}
    return {}
