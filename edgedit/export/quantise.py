"""From a typed FP16 plan and teacher pairs to a plan with INT8 in it, calibrated and passed by the quality gate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from onnx import ModelProto

from edgedit.core.pairset import PairSet
from edgedit.core.say import Event, Say, silent
from edgedit.export.calibrate import calibrate
from edgedit.export.check import GraphError
from edgedit.export.gate import Perceptual, gate
from edgedit.export.graph import build_with_sites
from edgedit.export.int8 import Int8Settings, block_of, check_attention, scales_of, sites_of
from edgedit.export.lint import lint, quantised_products
from edgedit.export.plan import Plan
from edgedit.model.deploy import DeployedDiT


def quantise(network: DeployedDiT, plan: Plan, pairs: PairSet, settings: Int8Settings, *, perceptual: Perceptual | None = None,
             say: Say = silent) -> tuple[Plan, dict[str, Any]]:
    """Calibrate, choose the blocks, and say what was done.

    Args:
        network: float32, folded.
        plan: typed FP16, without scales.
        pairs: from `calibrate.open_pairs`.
        settings: see `Int8Settings`.
        perceptual: a metric for the gate besides PSNR.

    Returns:
        the plan with scales, and the facts for checks.json: "calibration", "gate", "blocks".

    Raises:
        NumericsError: the images cannot be kept (`gate`), or values are not finite.
        UsageError: attention products that TensorRT would not fuse, too few pairs.
    """
    if settings.attention:
        check_attention(network.spec, plan.head_size)
    wide = Plan.of(network.spec, "fp32", "pattern", batch=None, guidance_scale=plan.guidance_scale)
    graph, places = build_with_sites(network, wide)
    sites = sites_of(range(network.spec.depth), settings)
    found = calibrate(graph, {site: places[site] for site in sites}, pairs, settings, say=say)
    full = replace(plan, scales=scales_of(found.ranges, sites))
    seed = int(pairs.info.get("seed", 0)) + 1 if settings.gate.seed is None else settings.gate.seed
    result = gate(network, full, settings.gate, seed, perceptual=perceptual, say=say)
    say(Event(f"{result.images} images, {result.words}"))
    kept = replace(plan, scales={site: scale for site, scale in full.scales.items() if block_of(site) in result.blocks})
    metric = "measured" if perceptual else "not measured: no LPIPS weights were here"
    return kept, {"calibration": found.to_dict(), "gate": {**result.to_dict(), "perceptual": metric}, "blocks": list(result.blocks),
                  "words": result.words}


def int8_facts(facts: dict[str, Any], depth: int) -> dict[str, Any]:
    """The part of `quantise`'s facts that belongs into a manifest: what a verdict and a reader need."""
    gate_facts, blocks = facts["gate"], facts["blocks"]
    where = "all blocks" if len(blocks) == depth else f"blocks {', '.join(map(str, blocks))} of {depth}, FP16 in the others"
    return {"summary": f"INT8 in {where}; {facts['words']}", "quality": gate_facts["int8"], "fp16_quality": gate_facts["fp16"],
            "limits": gate_facts["limits"], "images": gate_facts["images"], "method": facts["calibration"]["method"]}


def check_placement(model: ModelProto, plan: Plan | None = None) -> dict[str, Any]:
    """Lint a graph that this package wrote.

    Args:
        plan: what the graph was written from: its blocks must be those that are quantised.

    Returns:
        number of products in INT8, by block.

    Raises:
        GraphError: a rule is violated, or other blocks are quantised than the plan says.
    """
    if findings := lint(model):
        first = findings[0]
        raise GraphError(f"{len(findings)} Q/DQ placements break TensorRT's rules; the first: {first.rule}",
                         saw=f"{first.node}: {first.why}")
    counts = quantised_products(model)
    if plan is not None and set(counts) != {site.split("/")[0] for site in plan.scales}:
        raise GraphError("other blocks are quantised than were asked for", saw=f"{sorted(counts)}")
    return {"findings": [], "int8_products": counts}
