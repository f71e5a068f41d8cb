"""The fusion check says yes only where every condition of TensorRT holds, and names the one that does not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgedit.core.spec import DiTSpec
from edgedit.export.cost import graph_cost
from edgedit.export.fusion import attention_fusion
from edgedit.export.graph import build
from edgedit.export.plan import Plan
from edgedit.model.deploy import fold


def attention(*, head=16, kind=TensorProto.FLOAT16, scale="", between="", after="", rank=4, axis=-1, mask=False,
              spy=False) -> onnx.ModelProto:
    """A hand-written attention with one thing wrong at a time."""
    lead = ["B", 4] if rank == 4 else ["B"]
    make = helper.make_tensor_value_info
    q, v = make("q", kind, [*lead, 64, head]), make("v", kind, [*lead, 64, head])
    k = make("k", kind, [*lead, head, 64])
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    constants = [numpy_helper.from_array(array, name) for array, name in (
        (np.asarray(0.25, dtype), "c"), (np.zeros((64, 64), dtype), "mask"), (np.array([0, 4, 64, 64]), "shape"))]
    nodes, value = [helper.make_node("MatMul", ["q", "k"], ["s0"])], "s0"

    def then(op: str, *more: str, **attributes) -> None:
        nonlocal value
        nodes.append(helper.make_node(op, [value, *more], [f"{value}_"], **attributes))
        value += "_"

    def pass_through(op: str) -> None:
        then(op, *(["shape"] if op == "Reshape" else []), **({"to": kind} if op == "Cast" else {}))

    if scale:
        then(scale, "c")
    if mask:
        then("Add", "mask")
    if between:
        pass_through(between)
    then("Softmax", axis=axis)
    if after:
        pass_through(after)
    nodes.append(helper.make_node("MatMul", [value, "v"], ["out"]))
    outputs = [make("out", kind, None)]
    if spy:
        nodes.append(helper.make_node("Identity", ["s0"], ["spy"]))
        outputs.append(make("spy", kind, None))
    graph = helper.make_graph(nodes, "hand", [q, k, v], outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


@pytest.mark.parametrize("good", [{}, {"head": 24}, {"head": 256}, {"kind": TensorProto.BFLOAT16}, {"mask": True}])
def test_what_fuses(good):
    [block] = attention_fusion(attention(**good))
    assert block.fuses and block.dialect == "pattern" and not block.reasons


@pytest.mark.parametrize(("bad", "code", "words"), [
    ({"head": 8}, "head_size", "head size 8 is outside"), ({"head": 264}, "head_size", "264 is outside"),
    ({"head": 20}, "head_size", "not a multiple of 8"), ({"kind": TensorProto.FLOAT}, "types", "FLOAT; only FP16"),
    ({"scale": "Mul"}, "scale", "belongs into Q"), ({"scale": "Div"}, "scale", "belongs into Q"),
    ({"between": "Cast"}, "unbroken", "Cast between"), ({"after": "Cast"}, "unbroken", "Cast between"),
    ({"between": "Reshape"}, "unbroken", "Reshape between"), ({"spy": True}, "unbroken", "used elsewhere"),
    ({"rank": 3}, "layout", "rank 3"), ({"axis": 2}, "layout", "axis 2"),
])
def test_what_does_not_fuse_and_why(bad, code, words):
    [block] = attention_fusion(attention(**bad))
    failing = [f for f in block.findings if not f.holds]
    assert not block.fuses and [f.code for f in failing] == [code]
    assert words in failing[0].text


def test_a_softmax_without_products_is_no_attention():
    make = helper.make_tensor_value_info
    graph = helper.make_graph([helper.make_node("Softmax", ["x"], ["y"])], "g", [make("x", TensorProto.FLOAT16, [2, 3])],
                              [make("y", TensorProto.FLOAT16, [2, 3])])
    [block] = attention_fusion(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))
    assert not block.fuses and "no MatMul before" in block.reasons[0]


@pytest.mark.parametrize(("precision", "dialect", "dynamic", "fuses"), [
    ("fp16", "pattern", False, True), ("fp16", "pattern", True, True),
    ("fp16", "onnx", False, True), ("fp16", "onnx", True, True),
    ("fp32", "pattern", False, False), ("fp32", "onnx", False, False), ("fp16", "ort", False, False)])
def test_own_graphs(make_dit, precision, dialect, dynamic, fuses):
    """Head size 8 is padded to 16 in FP16, so every block of an FP16 graph for TensorRT fuses."""
    spec = DiTSpec(3, 32, 4, image=8, classes=2)
    plan = Plan.of(spec, precision, dialect, batch=None if dynamic else 2, guidance_scale=1.5)
    blocks = attention_fusion(build(fold(make_dit(spec)), plan))
    assert [b.block for b in blocks] == ["block0", "block1", "block2"]
    assert {b.dialect for b in blocks} == {dialect} and {b.fuses for b in blocks} == {fuses}


def test_unpadded_head_is_found(make_dit):
    spec = DiTSpec(1, 32, 4, image=8, classes=2)
    plan = Plan.of(spec, "fp16", "pattern", batch=2, guidance_scale=1.5, head_size=8)
    [block] = attention_fusion(build(fold(make_dit(spec)), plan))
    assert block.reasons == ["head size 8 is outside 16 … 256"]


def test_cost_counts(make_dit):
    spec = DiTSpec(2, 32, 4, image=8, classes=3)
    network = fold(make_dit(spec))
    costs = {(p, b): graph_cost(build(network, Plan.of(spec, p, "pattern", batch=b, guidance_scale=1.5, head_size=8)))
             for p in ("fp32", "fp16") for b in (1, 4)}
    one = costs["fp32", 1]
    constants = 32 + 4                                                # ones of the normalisation; 0, 255, guidance scale
    assert one.parameters == spec.deployed_parameters - spec.width + constants - 1
    assert one.operators["MatMul"] == 2 + 6 * spec.depth and sum(one.operators.values()) == one.nodes
    tokens, scores = 2 * spec.tokens, 2 * spec.heads * spec.tokens**2   # both halves of the guidance
    products = (32 + 96) + (32 + 32) + (32 + 128) + (128 + 32)          # qkv, proj, up, down: read and written per token
    attention = 4 * 32 * tokens + 2 * scores                            # q, k and v read, mixed values written, scores twice
    assert one.activation_bytes_by_operator["Softmax"] == 4 * spec.depth * 2 * scores
    assert one.activation_bytes_by_operator["MatMul"] == 4 * (
        spec.tokens * (12 + 32) + spec.depth * (tokens * products + attention) + tokens * (32 + 12))
    assert costs["fp32", 4].activation_bytes == pytest.approx(one.activation_bytes, rel=0.001)
    assert costs["fp16", 1].weight_bytes < 0.75 * one.weight_bytes
    assert costs["fp16", 1].activation_bytes_by_operator["Softmax"] * 2 == one.activation_bytes_by_operator["Softmax"]


def test_cost_needs_fixed_shapes(make_dit):
    spec = DiTSpec(1, 32, 4, image=8, classes=3)
    with pytest.raises(ValueError, match="no fixed shape"):
        graph_cost(build(fold(make_dit(spec)), Plan.of(spec, "fp32", "pattern", batch=None, guidance_scale=1.0)))
