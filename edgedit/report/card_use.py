"""How a card shows a model at work: two commands, and pictures whose own notes say which bundle made them."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

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
    """A picture and how it was made, by the note that `edgedit generate` leaves beside it."""
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
        request, made_by, same = note["request"], str(note["request"]["bundle"]), note["file"]["sha256"] == sha
        classes, images = len(request["classes"]), int(request["count"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{beside} is not a note of `edgedit generate`", saw=error,
                            fix="remove it, or make the picture again") from error
    if not same:
        raise ArtifactError(f"{file} was altered after it was made", fix="make it again with `edgedit generate`",
                            saw=f"sha256 {sha[:16]}…, its note says {str(note['file']['sha256'])[:16]}…")
    by = next((b for b in chain.bundles if b.manifest.digest == made_by), None)
    if by is None:
        given = ", ".join(f"{b.path} {b.manifest.digest[:12]}" for b in chain.bundles) or "none"
        raise UsageError(f"{file} was made by another bundle", saw=f"bundle {made_by[:12]}; given: {given}", fix=FIX)
    s, start = by.manifest.settings, int(request["start"])
    of = f"{classes} classes in turn" if classes > 1 else f"class {request['classes'][0]}"
    return shown | {"caption": f"{images:,} images of {of}, {s.get('precision')}, guidance {s.get('guidance_scale')}, "
                               f"seed {request['seed']}, from image {start:,} on, none left out."}


def _kept(chain: Chain, sha: str) -> dict[str, str]:
    """The caption of a picture that an evaluation or a record among the folders holds under its hash; nothing for others."""
    for artifact in [*(e.artifact for e in chain.evaluations), *(a for a, _ in chain.records)]:
        for name, entry in artifact.manifest.files.items():
            if entry["sha256"] == sha:
                m = artifact.manifest
                what = {"nearest.png": "images beside the training images that they come nearest to"}.get(name, name)
                return {"caption": f"{what[0].upper()}{what[1:]}: of the {m.kind} {m.info.get('label', '')} ({m.digest[:12]})."}
    return {}
