"""What a record was made from, where it is still at hand: the INT8 gate of its bundle, the facts of its TensorRT engine.

An ancestor is used only if the folder found holds the very artifact that the record names, every hash right.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from edgedit.core.artifact import Artifact, Parent, open_artifact
from edgedit.core.errors import ArtifactError
from edgedit.core.record import Record
from edgedit.report.lines import finite
from edgedit.report.sources import RecordSource
from edgedit.report.tables import Facts, Table, spoken
from edgedit.report.words import SPACE, count, number, quantity, seconds


def find(artifact: Artifact, kind: str) -> Artifact | None:
    """The nearest ancestor of a kind that is at hand and unaltered; None when there is none."""
    for parent in _walk(artifact.manifest.parents):
        if parent.kind != kind or not parent.path:
            continue
        for folder in (Path(parent.path), artifact.path.resolve().parent / Path(parent.path).name):
            try:
                found = open_artifact(folder, kind)
            except ArtifactError:
                continue
            if found.manifest.digest == parent.digest:
                return found
    return None


def _walk(parents: Sequence[Parent]) -> Iterator[Parent]:
    for parent in parents:
        yield parent
        yield from _walk(parent.parents)


def gate(source: RecordSource) -> Table | None:
    """The INT8 quality gate: how far INT8's and FP16's images were from FP32's, and the limits; None without an INT8 bundle at hand."""
    bundle = find(source.artifact, "bundle")
    facts = None if bundle is None else bundle.manifest.info.get("int8")
    if not isinstance(facts, dict):
        return None
    columns = [facts.get("quality") or {}, facts.get("fp16_quality") or {}, facts.get("limits") or {}]
    asked = (("PSNR", "psnr_db", "dB"), ("Values changed", "changed_percent", "%"), ("Mean error", "mean_levels", "levels"),
             ("Largest error", "max_levels", "levels"), ("Perceptual distance", "perceptual", ""))
    rows = []
    for name, key, unit in asked:
        values = [finite(c.get(key)) for c in columns]
        if any(v is not None for v in values):
            shown = ["–" if v is None else f"{number(v)}{SPACE + unit if unit else ''}" for v in values]
            equal = [key == "psnr_db" and key in c and c[key] is None for c in columns]
            rows.append((name, *("equal images" if same else text for same, text in zip(equal, shown, strict=True))))
    method = f" Calibration: {facts['method']}." if facts.get("method") else ""
    pictures = f" {count(facts['images'], 'images')}, the same noise and classes." if isinstance(facts.get("images"), int) else ""
    return Table("INT8 quality gate", ("Distance from FP32's images", "INT8", "FP16", "Limit for INT8"), tuple(rows), "lrrr",
                 f"{facts.get('summary', '')}.{pictures}{method}") if rows else None


def engine(record: Record) -> Facts:
    """What a record says of its TensorRT engine; empty for other runtimes."""
    told = record.protocol.options
    if "engine" not in told:
        return []
    fusion = told.get("fusion")
    fused = None
    if isinstance(fusion, dict) and "fused" in fusion and "blocks" in fusion:
        unknown = f", {fusion['unknown']} unknown" if fusion.get("unknown") else ""
        fused = f"{fusion['fused']} of {fusion['blocks']} blocks run as one kernel{unknown}"
    noise = {"gpu": "made on the GPU", "cpu": "made on the CPU and uploaded"}.get(str(told.get("noise")), told.get("noise"))
    graph, zero = told.get("cuda_graph"), told.get("zero_copy")
    shared = {True: "yes: host and GPU share the buffers", False: "no", None: None}.get(zero, spoken(zero))
    rows = [
        ("TensorRT", record.protocol.provider),
        ("Engine", told["engine"]),
        ("Engine file", told.get("engine_path")),
        ("Fused attention", fused),
        ("CUDA graph", spoken(graph) if graph is not None else None),
        ("Noise", spoken(noise) if noise is not None else None),
        ("Zero copy", shared),
        ("Engine memory", quantity(memory, "MB") if (memory := finite(told.get("engine_memory_mb"))) is not None else None),
    ]
    return [(name, str(value)) for name, value in rows if value not in (None, "")]


def built(record: Record) -> tuple[Facts, Table | None]:
    """How the engine was built and which attention fused, where its folder is at hand and is the record's own.

    A record names its engine by the SHA-256 of the engine's key, as JSON with sorted keys (docs/formats.md).
    """
    told = record.protocol.options
    path = told.get("engine_path")
    if not isinstance(path, str) or "engine" not in told:
        return [], None
    try:
        artifact = open_artifact(path, "engine")
    except ArtifactError:
        return [], None
    info = artifact.manifest.info
    if hashlib.sha256(json.dumps(info.get("key"), sort_keys=True).encode()).hexdigest() != told["engine"]:
        return [], None  # another engine lies there now
    made, attention = info.get("build") or {}, info.get("attention") or {}
    rows = [
        ("Built in", seconds(finite(made.get("wall_s")))) if "wall_s" in made else ("", ""),
        ("Attention asked for, used", f"{attention.get('asked')}, {attention.get('used')}") if attention.get("used") else ("", ""),
        ("Size of the plan", quantity(plan / 1e6, "MB")) if (plan := finite(info.get("plan_bytes"))) is not None else ("", ""),
        ("Workspace", quantity(finite(made.get("workspace_mb")), "MB")) if made.get("workspace_mb") else ("", ""),
        ("Builder's warnings", str(len(made["warnings"]))) if isinstance(made.get("warnings"), list) else ("", ""),
        ("Engine's manifest", artifact.manifest.digest),
    ]
    return [(name, value) for name, value in rows if name], _blocks(artifact)


def _blocks(artifact: Artifact) -> Table | None:
    try:
        body: Any = json.loads(artifact.file("fusion.json").read_bytes())
        blocks = [b for b in body["blocks"] if isinstance(b, dict)]
    except (ArtifactError, ValueError, KeyError, TypeError):
        return None
    words = {True: "one kernel", False: "separate kernels", None: "cannot be told"}
    rows = tuple((str(b.get("block", "")), words[b.get("fused") if isinstance(b.get("fused"), bool) else None],
                  ", ".join(map(str, b.get("kernels") or ())) or "–", str(b.get("why") or "–")) for b in blocks)
    return Table("Attention of each block in the engine", ("Block", "Runs as", "Kernels", "Why not"), rows, "llll") if rows else None
