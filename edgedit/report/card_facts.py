"""The facts of a model card, as plain JSON: only what manifests, evaluations, ladders and records say. Unknown is None."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgedit.core.artifact import Artifact, Manifest, Parent
from edgedit.core.errors import UsageError
from edgedit.core.record import Record
from edgedit.core.spec import DiTSpec
from edgedit.report import derived
from edgedit.report.card_chain import MODEL_FILE, Chain, data_name, mapping, teacher_of, walk
from edgedit.report.lines import finite
from edgedit.report.sources import PARITY_FILE, ParitySource, Rung

TEACHERS = {
    "ideal": "the exact optimal denoiser of the data set, in closed form: it has no weights, and its images end on training images",
    "unet": "a U-Net with EDM's preconditioning and loss",
    "edm": "EDM's published CIFAR-10 network, converted",
}
"""What a teacher of each kind is (docs/setups.md, docs/evaluation.md)."""


def model(chain: Chain) -> dict[str, Any]:
    """What it is: design, parameters, images, classes."""
    m = chain.head.manifest
    spec = m.spec or mapping(m.info.get("unet"))
    one = DiTSpec.from_dict(m.spec) if m.spec else None
    return {"label": str(m.info.get("label") or ""), "sizes": dict(spec), "parameters": m.info.get("parameters"),
            "deployed_parameters": m.info.get("deployed_parameters"), "flops": None if one is None else one.flops,
            "image": spec.get("image"), "channels": spec.get("channels"), "classes": spec.get("classes"),
            "class_names": [str(n) for n in m.info.get("class_names") or ()], "digest": chain.digest,
            "made": chain.subject.manifest.created if chain.subject is not None else None,
            "tool": dict(m.tool), "precisions": sorted({str(b.manifest.settings.get("precision")) for b in chain.bundles})}


def data(chain: Chain) -> dict[str, Any]:
    """The real images behind it all, as far as the chain names them."""
    told = teacher_of(chain.head)
    facts = next((mapping(a.manifest.info.get("data")) for a in _teachers(chain) if a.manifest.info.get("data")), {})
    parents = [*chain.ancestors.values(), *(p for a in chain.teachers for p in walk(a.manifest.parents))]
    named = sorted({p.digest for p in parents if p.kind == "data"})
    sha = facts.get("sha256") or told.get("data_sha256") or (named[0] if len(named) == 1 else None)
    # an ideal teacher's "images" are its data; a network's pairs do not tell
    return {"name": data_name(chain), "sha256": sha, "images": facts.get("images") or told.get("images"), "split": facts.get("split")}


def teacher(chain: Chain) -> dict[str, Any] | None:
    """Who taught the student, from its manifest where it is given, else as the pairs name it; None for a card of a teacher."""
    if chain.of == "teacher":
        return None
    told, at_hand = teacher_of(chain.head), chain.teachers[-1] if chain.teachers else None
    info = {} if at_hand is None else at_hand.manifest.info
    kind, taught = info.get("name") or told.get("teacher"), chain.parent("pairs")
    label = info.get("label") or told.get("label") or (taught.label if taught else None) or told.get("data")
    return {"kind": kind, "what": TEACHERS.get(str(kind)), "label": label,
            "parameters": info.get("parameters") or told.get("parameters"), "weights_sha256": told.get("weights_sha256"),
            "digest": told.get("digest"), "licence": info.get("license"),
            "trained": None if at_hand is None else training(at_hand.manifest, chain)}


def pairs(chain: Chain) -> dict[str, Any] | None:
    """The pairs that the student was taught with; None for a card of a teacher."""
    if chain.of == "teacher":
        return None
    parent = chain.parent("pairs")
    at_hand = next((a for a in chain.pairs if parent is not None and a.manifest.digest == parent.digest), None)
    info = at_hand.manifest.info if at_hand is not None else mapping(chain.head.manifest.info.get("data"))
    settings = {} if at_hand is None else at_hand.manifest.settings
    told = mapping(info.get("teacher"))
    return {"given": at_hand is not None, "count": info.get("count"), "seed": info.get("seed"), "start": info.get("start"),
            "noise": info.get("noise"), "sampler": mapping(info.get("sampler")) or None, "teacher": told.get("teacher"),
            "guidance": told.get("guidance"), "precision": settings.get("precision"), "device": settings.get("device"),
            "digest": None if parent is None else parent.digest}


def training(m: Manifest, chain: Chain) -> dict[str, Any]:
    """How weights were trained, from their own manifest, and what their start had seen, from its manifest where that was given."""
    info, s = m.info, m.settings
    setup = s.get("setup", info.get("setup"))
    return {"complete": info.get("complete"), "step": info.get("step"), "steps": info.get("steps"), "ended_by": info.get("ended_by"),
            "minutes": s.get("minutes"), "images_seen": info.get("images_seen"),
            "setup": mapping(setup).get("name") if isinstance(setup, dict) else setup,
            "setup_options": {k: v for k, v in mapping(setup).items() if k != "name" and not _is_path(v)},
            "loss": mapping(info.get("loss")) or None, "final_loss": finite(info.get("final_loss")),
            "optimizer": mapping(s.get("optimizer")) or None, "batch": s.get("batch"), "wall_s": finite(info.get("wall_s")),
            "device": info.get("device"), "machine": info.get("machine"),
            "processes": info.get("processes"), "precision": info.get("precision"),
            "compiled": s.get("compile"), "ema_decay": info.get("ema_decay"), "ema_warmup": s.get("ema_warmup"),
            "label_dropout": info.get("label_dropout"), "flips": info.get("flips"), "seed": s.get("seed"),
            "init": next((_start(p, chain) for p in m.parents if p.role == "init"), None),
            "converted": mapping(info.get("source")) or None}


def _start(parent: Parent, chain: Chain) -> dict[str, Any]:
    given = next((a for a in (*chain.teachers, *chain.others) if a.manifest.digest == parent.digest), None)
    info = {} if given is None else given.manifest.info
    told = {key: info.get(key) for key in ("complete", "step", "steps", "images_seen")}
    return {"label": parent.label or parent.digest[:12], **told, "wall_s": finite(info.get("wall_s"))}


def bundle(artifact: Artifact, name: str, parities: Sequence[ParitySource]) -> dict[str, Any]:
    """A bundle, and how far its images are from its student's."""
    m = artifact.manifest
    s, file, fused = m.settings, mapping(m.files.get(MODEL_FILE)), mapping(m.info.get("fused_attention"))
    return {"name": name, "digest": m.digest, "precision": s.get("precision"), "attention": s.get("attention"), "batch": s.get("batch"),
            "dynamic": s.get("dynamic"), "guidance": s.get("guidance_scale"), "opset": s.get("opset"), "head_size": s.get("head_size"),
            "bytes": file.get("bytes"), "onnx_sha256": file.get("sha256"), "needs": m.info.get("needs"),
            "fused": [fused["fusing"], fused["blocks"]] if {"fusing", "blocks"} <= fused.keys() else None,
            "parity": [p for ladder in parities if (p := _rung(ladder, m.digest))], "int8": _gate(m)}


def record(artifact: Artifact, found: Record, bundles: dict[str, str]) -> dict[str, Any]:
    """One measurement of speed."""
    p, env = found.protocol, found.environment
    power = found.power
    return {"digest": artifact.manifest.digest, "bundle": bundles.get(found.subject.bundle_digest), "precision": found.subject.precision,
            "bundle_digest": found.subject.bundle_digest, "started": found.started_utc, "complete": found.complete,
            "machine": derived.machine(found), "board": env.board, "cpu": env.cpu, "cores": env.cpu_count, "gpu": env.gpu, "os": env.os,
            "power_mode": env.power_mode, "runtime": derived.compute_device(found), "threads": p.threads,
            "images": derived.images_done(found), "batch": p.batch, "guidance": derived.guidance(found),
            "images_per_s": found.images_per_s, "wall_s": found.wall_s, "batch_ms_median": found.batch_ms.median,
            "batch_ms_p99": found.batch_ms.p99, "batches": found.batch_ms.count, "phases_s": dict(found.phases_s),
            "overlapped": p.overlap, "saved": p.save, "peak_memory_mb": found.peak_memory_mb,
            "mj_per_image": None if power is None else power.mj_per_image, "power_boundary": None if power is None else power.boundary,
            "warnings": [v.text for v in found.verdicts if v.level in ("warning", "error")]}


def licence(chain: Chain, asked: str) -> str:
    """The licence: what the maker says, or the weights' own; UsageError when the two differ."""
    own = str(chain.head.manifest.info.get("license") or "") if chain.of == "teacher" else ""
    if own and asked and not own.upper().replace(" ", "-").startswith(asked.upper().replace(" ", "-")):
        raise UsageError(f"the weights in {chain.head.path} carry another licence", saw=f"the manifest: {own}; --licence {asked}",
                         fix="leave --licence out")
    return own or asked


def chain_table(chain: Chain, places: dict[str, str]) -> list[dict[str, Any]]:
    """Every artifact of the model, ancestors nearest first, with where it lies beside the card.

    "place" is "" for a folder that was given and lies elsewhere, None for one that was not given; "bare" for a manifest alone.
    """
    def row(role: str, kind: str, label: str, digest: str) -> dict[str, Any]:
        return {"role": role, "kind": kind, "label": label, "digest": digest, "place": places.get(digest), "bare": digest in chain.bare}

    rows = []
    if chain.subject is not None:
        m = chain.subject.manifest
        rows.append(row("this model", m.kind, str(m.info.get("label", "")), m.digest))
    rows += [row(p.role, p.kind, p.label, p.digest) for p in chain.ancestors.values()]
    told = {r["digest"] for r in rows}
    given = [("teacher", chain.teachers), ("other pairs of the teacher", chain.pairs), ("bundle", chain.bundles),
             ("evaluation", [e.artifact for e in chain.evaluations]),
             ("parity", [p.artifact for p in chain.parities if p.artifact]), ("record", [a for a, _ in chain.records])]
    for role, artifacts in given:
        rows += [row(role, a.manifest.kind, str(a.manifest.info.get("label", "")), a.manifest.digest)
                 for a in artifacts if a.manifest.digest not in told]
    return rows


def _teachers(chain: Chain) -> list[Artifact]:
    return chain.teachers if chain.of == "student" else [chain.head]


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and ("/" in value or Path(value).suffix != "")


def _rung(ladder: ParitySource, digest: str) -> dict[str, Any] | None:
    """How far a bundle's images were from the reference, in one ladder; None where it was not on it.

    A ladder's last rungs are its bundles, in the order of the parents, each named "FOLDER: …".
    """
    if ladder.artifact is None:
        return None
    m = ladder.artifact.manifest
    bundles = [p for p in m.parents if p.role == "bundle"]
    names = [str(n) for n in m.info.get("rungs") or ()][-len(bundles):] if bundles else []
    named = {p.digest: n for p, n in zip(bundles, names, strict=False) if n.partition(":")[0] == Path(p.path).name}
    rung: Rung | None = next((r for r in ladder.rungs if r.name == named.get(digest) and r.against == ladder.reference), None)
    if rung is None:
        return None
    rows = json.loads(ladder.artifact.file(PARITY_FILE).read_bytes())["rungs"]  # read before, when the ladder was opened
    verdict = next((r.get("verdict") for r in rows if (r["name"], r["against"]) == (rung.name, rung.against)), None)
    return {"against": rung.against, "psnr_db": rung.psnr_db, "max_levels": rung.max_levels, "changed_percent": rung.changed_pixels_percent,
            "images": ladder.images, "seeds": ladder.seeds, "note": rung.note, "verdict": verdict, "digest": m.digest}


def _gate(m: Manifest) -> dict[str, Any] | None:
    """INT8's quality gate: errors, limits, and whether they were kept; None for other precisions."""
    if m.settings.get("precision") != "int8":
        return None
    facts = mapping(m.info.get("int8"))
    quality, limits = mapping(facts.get("quality")), mapping(facts.get("limits"))
    psnr, mean = finite(quality.get("psnr_db")), finite(quality.get("mean_levels"))
    seen, most = finite(quality.get("perceptual")), finite(limits.get("perceptual"))
    least, worst = finite(limits.get("psnr_db")), finite(limits.get("mean_levels"))
    equal = "psnr_db" in quality and psnr is None
    kept = None
    if least is not None and (equal or psnr is not None):
        near = equal or (psnr is not None and psnr >= least)
        kept = near and (worst is None or mean is None or mean <= worst) and (seen is None or most is None or seen <= most)
    return {"summary": facts.get("summary"), "passed": kept, "psnr_db": psnr, "equal": equal, "mean_levels": mean, "limits": limits or None,
            "images": facts.get("images"), "method": facts.get("method")}
