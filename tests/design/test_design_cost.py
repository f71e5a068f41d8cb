"""The formulas give the exported graphs' own counts."""

from __future__ import annotations

import pytest
import torch

from edgedit.core.errors import UsageError
from edgedit.core.spec import DiTSpec
from edgedit.design.cost import cost
from edgedit.design.operators import Form, operators
from edgedit.export.cost import graph_cost
from edgedit.export.graph import build
from edgedit.export.int8 import Int8Settings, sites_of
from edgedit.export.plan import Plan
from edgedit.model.deploy import fold
from edgedit.model.dit import DiT

VIEWS = ("Reshape", "Shape", "Unsqueeze")
DESIGNS = [(5, 64, 8), (1, 128, 8), (2, 96, 8), (3, 32, 4), (2, 192, 12)]


def graph_of(spec: DiTSpec, precision: str, dialect: str, guidance: float):
    typed = "fp16" if precision == "int8" else precision
    plan = Plan.of(spec, typed, dialect, batch=1, guidance_scale=guidance)
    if precision == "int8":
        plan = Plan(**{**vars(plan), "scales": {site: 0.1 for site in sites_of(range(spec.depth), Int8Settings())}})
    model, chance = DiT(spec), torch.Generator().manual_seed(0)
    for weight in model.parameters():
        if weight is not model.position:  # equal weights, zeros first of all, are stored once
            torch.nn.init.normal_(weight, std=0.1, generator=chance)
    return build(fold(model, guidance), plan)


@pytest.mark.parametrize("design", DESIGNS, ids=str)
@pytest.mark.parametrize(("precision", "dialect", "guidance"), [
    ("fp32", "pattern", 1.5), ("fp32", "ort", 1.5), ("fp16", "pattern", 1.5), ("fp16", "onnx", 1.0), ("fp16", "ort", 1.5),
    ("int8", "pattern", 1.5), ("fp32", "onnx", 1.0)])
def test_bytes_and_operators_are_those_of_the_graph(design, precision, dialect, guidance):
    spec = DiTSpec(*design)
    graph, work = graph_cost(graph_of(spec, precision, dialect, guidance)), cost(spec, precision, guidance, dialect=dialect)
    assert work.operator_bytes == graph.activation_bytes
    assert work.largest_bytes == graph.largest_bytes
    weights_through_int8 = 4 * spec.depth if precision == "int8" else 0  # DequantizeLinear of weights: constants, moved by nobody
    assert work.operators == graph.nodes - sum(graph.operators.get(kind, 0) for kind in VIEWS) - weights_through_int8
    assert work.parameters == pytest.approx(graph.parameters, rel=2e-3)
    assert work.weight_bytes == pytest.approx(graph.weight_bytes, rel=1.5e-2)


def test_bytes_by_operator_type_too():
    spec = DiTSpec(3, 96, 8)
    graph = graph_cost(graph_of(spec, "fp16", "pattern", 1.5))
    mine: dict[str, int] = {}
    for op in operators(spec, Form("fp16", "pattern", 1.5)):
        mine[op.kind] = mine.get(op.kind, 0) + op.reads + op.writes
    assert mine == graph.activation_bytes_by_operator


def test_another_data_set_and_patch():
    spec = DiTSpec(4, 128, 8, patch=4, image=16, channels=1)
    work = cost(spec, "fp16")
    assert work.operator_bytes == graph_cost(graph_of(spec, "fp16", "pattern", 1.5)).activation_bytes


def test_fusing_takes_the_maps_away_and_nothing_else():
    spec = DiTSpec(5, 64, 8)
    fused, not_fused = cost(spec), cost(spec, attention_fused=False)
    assert not_fused.border_bytes - fused.border_bytes == fused.map_bytes == 4 * 2 * 2 * 5 * 8 * 256**2
    assert fused.kernels < not_fused.kernels


def test_flops_are_the_designs_own_and_padding_is_counted_apart():
    spec = DiTSpec(5, 64, 8)
    work = cost(spec, "fp32", 1.0)
    assert work.flops == spec.flops == work.product_flops + work.attention_flops
    assert cost(spec, "fp16").attention_flops == 2 * 2 * work.attention_flops  # head size 8 → 16, guidance
    assert cost(spec, "fp16", 1.0).head_size == 16 and work.head_size == 8


def test_int8_reads_fewer_bytes_and_holds_smaller_weights():
    spec = DiTSpec(7, 192, 12)
    assert cost(spec, "int8").border_bytes < cost(spec, "fp16").border_bytes
    assert cost(spec, "int8").weight_bytes < 0.65 * cost(spec, "fp16").weight_bytes


@pytest.mark.parametrize(("form", "words"), [
    ({"precision": "fp8"}, "no precision 'fp8'"), ({"dialect": "trt"}, "no dialect 'trt'"),
    ({"precision": "int8", "dialect": "ort"}, "INT8 is made for TensorRT"), ({"head_size": 4}, "can only pad")])
def test_what_cannot_be_costed(form, words):
    with pytest.raises(UsageError, match=words):
        cost(DiTSpec(5, 64, 8), **form)
