"""The linter: our graphs pass, and every rule fails on a graph that breaks it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, helper, numpy_helper

from edgedit.core.spec import DiTSpec
from edgedit.export.check import GraphError
from edgedit.export.fusion import attention_fusion
from edgedit.export.graph import build
from edgedit.export.int8 import Int8Settings, sites_of
from edgedit.export.lint import lint, quantised_products
from edgedit.export.plan import Plan
from edgedit.export.quantise import check_placement
from edgedit.model.deploy import fold

SPEC = DiTSpec(2, 32, 4, image=8, classes=3)


@pytest.fixture(scope="module")
def write(make_dit) -> Callable[..., ModelProto]:
    """write(blocks, **settings) → the typed FP16 graph with INT8 in `blocks`."""
    network = fold(make_dit(SPEC), 1.5)

    def make(blocks=(0, 1), head_size=None, attention="pattern", **settings) -> ModelProto:
        plan = Plan.of(SPEC, "fp16", attention, batch=2, guidance_scale=1.5, head_size=head_size)
        return build(network, replace(plan, scales={site: 0.05 for site in sites_of(blocks, Int8Settings(**settings))}))

    return make


def node(model: ModelProto, name: str) -> NodeProto:
    return next(n for n in model.graph.node if n.name == name)


def put(model: ModelProto, name: str, array: np.ndarray) -> str:
    """Add or replace an initializer."""
    kept = [t for t in model.graph.initializer if t.name != name]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, numpy_helper.from_array(array, name)])
    return name


def pair(model: ModelProto, value: str, user: str) -> None:
    """Put a Q/DQ pair between a value and one of its users."""
    inputs = put(model, "extra/scale", np.float16(0.1)), put(model, "extra/zero", np.int8(0))
    at = next(i for i, n in enumerate(model.graph.node) if n.name == user)
    taker = model.graph.node[at]
    taker.input[list(taker.input).index(value)] = "extra"
    model.graph.node.insert(at, helper.make_node("DequantizeLinear", ["extra/q", *inputs], ["extra"], name="extra"))
    model.graph.node.insert(at, helper.make_node("QuantizeLinear", [value, *inputs], ["extra/q"], name="extra/q"))


def cut(model: ModelProto, name: str) -> None:
    """Take the Q/DQ pair before a node's first input out."""
    user = node(model, name)
    dequantise = node(model, user.input[0])
    user.input[0] = node(model, dequantise.input[0]).input[0]


# --- graphs that pass -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"attention": "onnx"}, {"residual": True}, {"blocks": (1,)}, {"blocks": ()}])
def test_our_graphs_pass(write, options):
    model = write(**options)
    assert lint(model) == []
    assert quantised_products(model) == {f"block{i}": 4 for i in options.get("blocks", (0, 1))}


def test_graphs_without_int8_pass(make_dit):
    for precision, attention in (("fp32", "pattern"), ("fp16", "pattern"), ("fp16", "onnx"), ("fp32", "ort")):
        assert lint(build(fold(make_dit(SPEC), 1.5), Plan.of(SPEC, precision, attention, batch=2, guidance_scale=1.5))) == []


def test_int8_attention_passes_and_fuses(make_dit):
    """Padded to 16, with Q/DQ at all five places; the output's pair is the projection's input."""
    plan = Plan.of(SPEC, "fp16", "pattern", batch=2, guidance_scale=1.5, head_size=16)
    model = build(fold(make_dit(SPEC), 1.5), replace(plan, scales={s: 0.05 for s in sites_of((0, 1), Int8Settings(attention=True))}))
    assert lint(model) == [] and quantised_products(model) == {"block0": 4, "block1": 4}
    onnx.checker.check_model(model, full_check=True)
    for block in attention_fusion(model):
        assert block.fuses and [f.text for f in block.findings if f.code == "int8"] == ["Q/DQ at all five places"]


def test_fp16_attention_fuses_as_before(write):
    assert all(block.fuses and "int8" not in {f.code for f in block.findings} for block in attention_fusion(write()))


# --- each rule fails ------------------------------------------------------------------------------------------------------------


def zero_point_of_three(m):
    name = "block0/attention/qkv/int8/q"
    node(m, name).input[2] = put(m, "three", np.int8(3))


def unsigned(m):
    for name in ("block0/attention/qkv/int8/q", "block0/attention/qkv/int8"):
        node(m, name).input[2] = put(m, "unsigned", np.uint8(0))


def no_zero_point(m):
    del node(m, "block0/attention/qkv/int8/q").input[2]


def scale(value):
    def change(m):
        for name in ("block0/attention/qkv/int8/q", "block0/attention/qkv/int8"):
            node(m, name).input[1] = put(m, "odd", np.float16(value))
    return change


def computed_scale(m):
    m.graph.node.insert(0, helper.make_node("Identity", [node(m, "block0/mlp/up/int8/q").input[1]], ["moved"], name="moved"))
    for name in ("block0/mlp/up/int8/q", "block0/mlp/up/int8"):
        node(m, name).input[1] = "moved"


def scales_per_channel(m):
    for name in ("block0/mlp/up/int8/q", "block0/mlp/up/int8"):
        node(m, name).input[1] = put(m, "many", np.full(32, 0.05, np.float16))
        node(m, name).input[2] = put(m, "zeros", np.zeros(32, np.int8))


def weight_per_tensor(m):
    node(m, "block0/mlp/up/weight").input[1] = put(m, "one", np.float16(0.01))
    node(m, "block0/mlp/up/weight").input[2] = put(m, "zero", np.int8(0))


def weight_of_inputs(m):
    dequantise = node(m, "block0/mlp/down/weight")                                          # (128, 32): axis 0 has 128
    dequantise.attribute[0].i = 0
    dequantise.input[1] = put(m, "inputs", np.full(128, 0.01, np.float16))
    dequantise.input[2] = put(m, "zeros", np.zeros(128, np.int8))


def square_weight_on_the_wrong_axis(m):
    node(m, "block0/attention/proj/weight").attribute[0].i = 0


def quantise_only(m):
    user = node(m, "block0/mlp/down/product")
    user.input[0] = node(m, user.input[0]).input[0]


def two_scales(m):
    node(m, "block0/mlp/up/int8").input[1] = put(m, "other", np.float16(0.07))


def twice(m):
    pair(m, node(m, "block0/mlp/up/product").input[0], "block0/mlp/up/product")


def half_a_product(m):
    cut(m, "block0/mlp/up/product")


def first_layer(m):
    quantise_product(m, "embed/patch/product")


def last_layer(m):
    quantise_product(m, "output/product")


def quantise_product(m, name):
    user = node(m, name)
    pair(m, user.input[0], name)
    weight = next(t for t in m.graph.initializer if t.name == user.input[1])
    outputs = weight.dims[1]
    inputs = [put(m, "w/int8", np.ones(tuple(weight.dims), np.int8)), put(m, "w/scale", np.full(outputs, 0.01, np.float16)),
              put(m, "w/zero", np.zeros(outputs, np.int8))]
    at = list(m.graph.node).index(user)
    m.graph.node.insert(at, helper.make_node("DequantizeLinear", inputs, ["w"], name="w", axis=1))
    user.input[1] = "w"


def between(value, user):
    return lambda m: pair(m, value, user)


def softmax_alone(m):
    pair(m, "block0/attention/softmax", "block0/attention/values")


def scores(m):
    pair(m, "block0/attention/scores", "block0/attention/softmax")


def half_a_block(m):
    cut(m, "block1/mlp/down/product")
    product = node(m, "block1/mlp/down/product")
    product.input[1] = put(m, "plain", np.ones((128, 32), np.float16))


def table(m):
    gather = next(n for n in m.graph.node if n.op_type == "Gather")
    rows = next(t for t in m.graph.initializer if t.name == gather.input[0])
    inputs = [put(m, "t", np.ones(tuple(rows.dims), np.int8)), put(m, "ts", np.float32(0.1)), put(m, "tz", np.int8(0))]
    m.graph.node.insert(0, helper.make_node("DequantizeLinear", inputs, ["table"], name="table"))
    gather.input[0] = "table"


@pytest.mark.parametrize(("rule", "change", "words"), [
    ("symmetric", zero_point_of_three, "int8, 3"), ("symmetric", unsigned, "uint8"), ("symmetric", no_zero_point, "unsigned"),
    ("scale", scale(0), "positive"), ("scale", scale(-0.1), "positive"), ("scale", scale(np.inf), "positive"),
    ("scale", scale(np.nan), "positive"), ("scale", scale(1e-6), "no normal"), ("scale", computed_scale, "computed"),
    ("granularity", scales_per_channel, "an activation has one"), ("granularity", weight_per_tensor, "one for each"),
    ("granularity", weight_of_inputs, "one for each"), ("granularity", square_weight_on_the_wrong_axis, "axis is 0"),
    ("pair", quantise_only, "without a DequantizeLinear"), ("pair", two_scales, "not that of"), ("pair", twice, "quantised twice"),
    ("inputs", half_a_product, "only its weight"), ("first_last", first_layer, "first product"), ("first_last", last_layer, "last product"),
    ("kept", between("block0/mlp/up", "block0/mlp/gelu"), "goes to Gelu"),
    ("kept", between("block1/attention/norm/input", "block1/attention/norm"), "goes to LayerNormalization"),
    ("kept", between("block0/mlp/down", "block0/mlp/gated"), "goes to Mul"),
    ("kept", between("block0/mlp/gated", "block0/mlp/residual"), "goes to Add"),
    ("kept", table, "goes to Gather"),
    ("attention", softmax_alone, "all five places"), ("attention", scores, "before the softmax|between the first product"),
    ("block", half_a_block, "of 4 products of its block"),
])
def test_each_rule_can_fail(write, rule, change, words):
    model = write()
    change(model)
    found = [f for f in lint(model) if f.rule == rule]
    assert found and re.search(words, found[0].why), lint(model)
    with pytest.raises(GraphError, match="break TensorRT's rules"):
        check_placement(model)


def test_one_missing_place_of_int8_attention(make_dit):
    """Taking out any of the pairs of a complete attention is found."""
    plan = Plan.of(SPEC, "fp16", "pattern", batch=2, guidance_scale=1.5, head_size=16)
    sites = sites_of((0, 1), Int8Settings(attention=True))
    for name in ("query", "key", "shares", "value", "values"):
        scales = {s: 0.05 for s in sites if s != f"block1/attention/{name}"}
        found = lint(build(fold(make_dit(SPEC), 1.5), replace(plan, scales=scales)))
        assert {f.rule for f in found} & {"attention", "inputs"}, name


@pytest.mark.parametrize(("size", "tokens", "words"), [(8, 16, "head size 8"), (24, 16, "head size 24"), (16, 576, "576 tokens")])
def test_int8_attention_of_sizes_that_do_not_fuse(make_dit, size, tokens, words):
    spec = DiTSpec(1, 32, 4, image=2 * int(tokens**0.5), classes=3)
    plan = Plan.of(spec, "fp16", "pattern", batch=1, guidance_scale=1.0, head_size=size)
    model = build(fold(make_dit(spec)), replace(plan, scales={s: 0.05 for s in sites_of((0,), Int8Settings(attention=True))}))
    found = [f for f in lint(model) if f.rule == "attention"]
    assert len(found) == 1 and words in found[0].why


def test_other_blocks_than_planned_are_noticed(write):
    plan = replace(Plan.of(SPEC, "fp16", "pattern", batch=2, guidance_scale=1.5), scales={"block0/mlp/up": 0.05})
    with pytest.raises(GraphError, match="other blocks"):
        check_placement(write(), plan)
