"""`edgedit export`: a student becomes a bundle: `model.onnx`, `checks.json` and a manifest that says how to run it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import onnx
from onnx import ModelProto
from pydantic import Field

from edgedit import __version__
from edgedit.core.artifact import MANIFEST, Manifest, check_output, create, open_artifact
from edgedit.core.errors import ArtifactError, NumericsError, UsageError
from edgedit.core.pairset import PairSet
from edgedit.core.say import Event, Say, silent
from edgedit.core.settings import Settings
from edgedit.core.spec import DiTSpec
from edgedit.export.attention import DIALECTS
from edgedit.export.calibrate import open_pairs
from edgedit.export.check import GraphError, check_runs, check_wellformed
from edgedit.export.cost import graph_cost
from edgedit.export.fusion import BlockFusion, attention_fusion
from edgedit.export.gate import Perceptual
from edgedit.export.graph import BATCH, IMAGES, LABELS, NOISE, build
from edgedit.export.int8 import Int8Settings
from edgedit.export.plan import Plan
from edgedit.export.precision import FP16_MAX, Ranges, scan_ranges
from edgedit.export.quantise import check_placement, int8_facts, quantise
from edgedit.model.checkpoint import USUAL_GUIDANCE, load_student, usual_guidance
from edgedit.model.deploy import DeployedDiT, fold

KIND = "bundle"
MODEL, CHECKS = "model.onnx", "checks.json"
NEWEST_OPSET = 23
CLOSE = 4
"""Warn when a value comes this near to the end of FP16."""


class ExportSettings(Settings):
    """What to export."""

    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    """int8 is a typed FP16 graph with Q/DQ in the blocks that keep the images (`edgedit.export.int8`)."""
    attention: Literal["pattern", "onnx", "ort"] = "pattern"
    """Dialect of the attention: `edgedit.export.attention`."""
    batch: int = Field(default=128, ge=1, le=4096)
    """Images per run; of a dynamic graph, the usual number."""
    dynamic: bool = False
    """Take any number of images per run."""
    guidance_scale: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Classifier-free guidance inside the graph; 1.0 is none and costs half. None takes the student's own: 1.5, or none for one
    that has guidance in its weights."""
    opset: int | None = None
    """Version of the ONNX domain; None chooses by dialect: 20 for pattern (the newest that TensorRT 10.3 reads) and ort, 23 for
    onnx."""
    head_size: int | None = Field(default=None, ge=1)
    """Channels of a head after zero-padding; None pads FP16 graphs for TensorRT to the next size that fuses, others not."""
    int8: Int8Settings = Int8Settings()
    """Calibration and quality gate, for precision int8."""


def export(student: Path, out: Path, settings: ExportSettings | None = None, *, pairs: Path | None = None,
           perceptual: Perceptual | None = None, say: Say = silent) -> Manifest:
    """Fold a student, write its graph, check it, and keep both in a bundle.

    The same student, pairs and settings give the same bytes of `model.onnx`. A bundle that is there already with the same
    settings, student and pairs is returned at once.

    Args:
        student: folder of a training run.
        out: folder of the bundle.
        settings: see `ExportSettings`.
        pairs: folder of the teacher pairs that INT8 is calibrated on; only with precision int8, and needed there.
        perceptual: a metric for INT8's quality gate besides PSNR.

    Raises:
        ArtifactError: no student or pairs there, or damaged ones.
        NumericsError: NaN or infinite weights, values that leave FP16's range, images unlike the student's, INT8 that loses them.
        UsageError: an opset that the dialect does not exist in, a head size below the student's, INT8 without pairs or with pairs
            that do not fit the student.
        OutputError: `out` cannot be written.
    """
    settings = settings or ExportSettings()
    check_output(out)
    model, artifact, facts = load_student(student)
    spec = model.spec
    plan = make_plan(spec, settings, usual_guidance(facts))
    real = _pairs(pairs, spec, settings)
    resolved = {**settings.model_dump(exclude=None if real else {"int8"}), "guidance_scale": plan.guidance_scale, "opset": plan.opset,
                "head_size": plan.head_size}
    parents = [artifact.as_parent("student"), *([real.artifact.as_parent("pairs")] if real else [])]
    if (made := _already(out, resolved, [parent.digest for parent in parents], say)) is not None:
        say(Event(f"{out} is made from this student with these settings already"))
        return made
    network = fold(model.float(), plan.guidance_scale)
    ranges = _ranges(network, plan, settings, say)
    int8 = None
    if real is not None:
        plan, int8 = quantise(network, plan, real, settings.int8, perceptual=perceptual, say=say)
    metadata = {"edgedit.spec": json.dumps(spec.to_dict()), "edgedit.settings": json.dumps(resolved)}
    graph = build(network, plan, metadata)
    data = graph.SerializeToString(deterministic=True)
    checks = _check(graph, data, network, plan, settings, say)
    checks |= {"ranges": ranges.to_dict() if ranges else None, "int8": int8}
    with create(out, KIND) as draft:
        draft.write(MODEL, data)
        draft.write_json(CHECKS, checks)
        draft.parents, draft.settings, draft.spec = parents, resolved, spec.to_dict()
        draft.info = _info(spec, plan, settings, facts, checks["fusion"], ranges)
        if int8 is not None:
            draft.info["precision"] |= {"weights": "int8", "products": "int8", "int8_blocks": int8["blocks"], "elsewhere": "fp16"}
            draft.info["int8"] = int8_facts(int8, spec.depth)
    assert draft.manifest is not None  # set by `create` when its block ends well
    return draft.manifest


def make_plan(spec: DiTSpec, settings: ExportSettings, guidance_scale: float = USUAL_GUIDANCE) -> Plan:
    """Settings with every open choice made; UsageError when they contradict each other.

    Args:
        guidance_scale: what to take where the settings leave it open.
    """
    dialect = DIALECTS[settings.attention]
    if settings.opset is not None and not dialect.oldest_opset <= settings.opset <= NEWEST_OPSET:
        raise UsageError(f"attention '{dialect.name}' is written in opset {dialect.oldest_opset} … {NEWEST_OPSET}",
                         saw=f"opset {settings.opset}", fix=f"leave it out, or use {dialect.opset}")
    if settings.head_size is not None and settings.head_size < spec.head_size:
        raise UsageError("head_size can only pad", saw=f"{settings.head_size}, the student has {spec.head_size}")
    if settings.precision == "int8" and settings.attention == "ort":
        raise UsageError("INT8 is made for TensorRT, which does not read ONNX Runtime's own operators", saw="attention 'ort'",
                         fix="--attention pattern; on a CPU FP32 with --attention ort is the fastest")
    if settings.precision == "int8" and settings.int8.attention and settings.attention != "pattern":
        raise UsageError("INT8 attention is written as MatMul–Softmax–MatMul with Q/DQ between", saw=f"attention '{settings.attention}'",
                         fix="--attention pattern, or leave int8.attention out")
    typed = "fp16" if settings.precision == "int8" else settings.precision
    return Plan.of(spec, typed, settings.attention, batch=None if settings.dynamic else settings.batch,
                   guidance_scale=guidance_scale if settings.guidance_scale is None else settings.guidance_scale, opset=settings.opset,
                   head_size=settings.head_size)


def _pairs(path: Path | None, spec: DiTSpec, settings: ExportSettings) -> PairSet | None:
    """The opened pairs of an INT8 export, None for others; UsageError when pairs and precision do not go together."""
    if settings.precision != "int8":
        if path is not None:
            raise UsageError("only INT8 is calibrated", saw=f"precision {settings.precision}, pairs {path}", fix="--precision int8")
        return None
    if path is None:
        raise UsageError("INT8 is calibrated on teacher pairs; made-up data is not taken", saw="no pairs",
                         fix="--calibrate PAIRS, the folder that the student was trained on")
    return open_pairs(path, spec)


def _already(out: Path, resolved: dict[str, Any], parents: list[str], say: Say) -> Manifest | None:
    """The bundle at `out` when it was made from these parents with these settings and its graph passes the linter still."""
    if not (out / MANIFEST).is_file():
        return None
    try:
        artifact = open_artifact(out, KIND)
    except ArtifactError:  # damaged or of another kind: make it anew, `create` decides whether it may be replaced
        return None
    before = artifact.manifest
    same = before.settings == json.loads(json.dumps(resolved)) and before.tool.get("version") == __version__
    if not same or [p.digest for p in before.parents] != parents:
        return None
    if resolved["precision"] == "int8":
        try:
            check_placement(onnx.load(str(artifact.file(MODEL))))
        except GraphError as error:
            say(Event(f"{out} is made again: {error.what}", level="warning"))
            return None
    return before


def _ranges(network: DeployedDiT, plan: Plan, settings: ExportSettings, say: Say) -> Ranges | None:
    """Largest magnitudes of a typed FP16 or INT8 export, judged; None for FP32."""
    if settings.precision == "fp32":
        return None
    say(Event("measure ranges"))
    wide = Plan.of(network.spec, "fp32", "pattern", batch=None, guidance_scale=plan.guidance_scale)
    ranges = scan_ranges(build(network, wide), network.spec)
    _judge(ranges, say)
    return ranges


def _check(graph: ModelProto, data: bytes, network: DeployedDiT, plan: Plan, settings: ExportSettings, say: Say) -> dict[str, Any]:
    """What `checks.json` holds about the finished graph."""
    say(Event("check the graph"))
    fusion = attention_fusion(graph)
    _tell(fusion, settings, say)
    return {
        "onnx": check_wellformed(graph), "run": check_runs(data, network, batch=settings.batch),
        "fusion": [block.to_dict() for block in fusion], "lint": check_placement(graph, plan),
        "cost": graph_cost(build(network, replace(plan, batch=1))).to_dict(),
    }


def _judge(ranges: Ranges, say: Say) -> None:
    seen = f"|{ranges.where}| reaches {ranges.largest:,.4g}; FP16 ends at {FP16_MAX:,.0f}"
    if ranges.headroom < 1:
        raise NumericsError("this student does not fit FP16", saw=seen, fix="export with --precision fp32")
    if ranges.headroom < CLOSE:
        say(Event(f"little headroom in FP16: {seen}; look at `edgedit compare`", level="warning"))


def _tell(fusion: list[BlockFusion], settings: ExportSettings, say: Say) -> None:
    """Why TensorRT would not fuse what was made for it in FP16. FP32 graphs are references: nothing to warn of."""
    apart = [block for block in fusion if not block.fuses]
    if apart and settings.attention != "ort" and settings.precision != "fp32":
        why = "; ".join(apart[0].reasons)
        say(Event(f"TensorRT will not fuse {len(apart)} of {len(fusion)} attentions: {why}", level="warning"))


def _info(spec: DiTSpec, plan: Plan, settings: ExportSettings, student: dict[str, Any], fusion: list[dict[str, Any]],
          ranges: Ranges | None) -> dict[str, Any]:
    batch: int | str = BATCH if settings.dynamic else settings.batch
    names = student.get("class_names") or [str(i) for i in range(spec.classes)]
    square = [spec.image, spec.image]
    return {
        "label": spec.label, "class_names": list(names), "null_class": spec.null_class,
        "parameters": spec.parameters, "deployed_parameters": spec.deployed_parameters,
        "io": {
            "inputs": [
                {"name": NOISE, "dtype": "float32", "shape": [batch, spec.channels, *square], "meaning": "unit Gaussian noise"},
                {"name": LABELS, "dtype": "int32", "shape": [batch], "meaning": f"class 0 … {spec.classes - 1}"}],
            "outputs": [
                {"name": IMAGES, "dtype": "uint8", "shape": [batch, *square, spec.channels], "meaning": "images, NHWC"}]},
        "needs": plan.dialect.needs, "fused_attention": {"blocks": len(fusion), "fusing": sum(b["fuses"] for b in fusion)},
        "precision": {"weights": plan.precision.name, "products": plan.precision.name, "layer_norm": "fp32",
                      "guidance_and_output": "fp32", "largest_value": ranges.largest if ranges else None},
        "data": student.get("data"),
    }
