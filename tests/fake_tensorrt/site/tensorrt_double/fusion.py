"""Which nodes one kernel would do, by the documented rules (jetson.md §5.1), and the engine inspector's account of it.

Attention is one layer where its conditions hold: FP16 or BF16 products, head size 16 … 256 and a multiple of 8; or INT8 with
Q/DQ before the first product, after the softmax and after the second product, head size 16, 32 or 64, at most 512 tokens.
Nothing but one Add (a mask) between the products. Chains of pointwise nodes are one layer too; everything else is one each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import NodeProto, TensorProto

from tensorrt_double.layers import sizes

POINTWISE = {"Abs", "Add", "Cast", "Clip", "Div", "Exp", "Floor", "Gelu", "Mul", "Neg", "Sigmoid", "Sqrt", "Sub", "Tanh"}
_NAMES = {TensorProto.FLOAT: "Float", TensorProto.FLOAT16: "Half", TensorProto.BFLOAT16: "BFloat16", TensorProto.INT8: "Int8",
          TensorProto.INT32: "Int32", TensorProto.INT64: "Int64", TensorProto.BOOL: "Bool", TensorProto.UINT8: "UInt8"}


@dataclass
class View:
    """A graph with its types, makers and users at hand."""

    nodes: list[NodeProto]
    maker: dict[str, NodeProto]
    users: dict[str, list[NodeProto]]
    kinds: dict[str, int]
    shapes: dict[str, list[int] | None]

    def only_user(self, value: str, op: str) -> NodeProto | None:
        """The one node that takes a value, if there is one and it is this operator."""
        users = self.users.get(value, [])
        return users[0] if len(users) == 1 and users[0].op_type == op else None

    def made_by(self, value: str, op: str) -> NodeProto | None:
        """The node that makes a value, if it is this operator."""
        node = self.maker.get(value)
        return node if node is not None and node.op_type == op else None


def view(model: onnx.ModelProto) -> View:
    """Shapes inferred, links made."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    seen = View(list(graph.node), {o: n for n in graph.node for o in n.output}, {}, {}, {})
    for node in graph.node:
        for name in node.input:
            seen.users.setdefault(name, []).append(node)
    for value in (*graph.input, *graph.value_info, *graph.output):
        seen.kinds[value.name], seen.shapes[value.name] = value.type.tensor_type.elem_type, sizes(value)
    for weight in graph.initializer:
        seen.kinds[weight.name], seen.shapes[weight.name] = weight.data_type, list(weight.dims)
    return seen


def fused_attentions(seen: View) -> list[list[NodeProto]]:
    """For each softmax whose attention one kernel does, its nodes, first to last."""
    return [group for node in seen.nodes if node.op_type == "Softmax" if (group := _attention(seen, node)) is not None]


def _attention(seen: View, softmax: NodeProto) -> list[NodeProto] | None:
    mask = seen.made_by(softmax.input[0], "Add")
    scores = mask.input[0] if mask is not None else softmax.input[0]
    first = seen.made_by(scores, "MatMul")
    shares = softmax.output[0]
    middle: list[NodeProto] = []
    quantize = seen.only_user(shares, "QuantizeLinear")
    if quantize is not None:
        dequantize = seen.only_user(quantize.output[0], "DequantizeLinear")
        if dequantize is None:
            return None
        middle, shares = [quantize, dequantize], dequantize.output[0]
    second = seen.only_user(shares, "MatMul")
    if first is None or second is None or second.input[0] != shares or len(seen.users[first.output[0]]) != 1:
        return None
    inputs = [*first.input, second.input[1]]
    shapes = [seen.shapes.get(value) for value in inputs]
    if any(shape is None or len(shape) != 4 for shape in shapes):
        return None
    (_, _, tokens, head), (_, _, _, others), _ = shapes
    quantized = [seen.made_by(value, "DequantizeLinear") for value in inputs]
    if any(quantized) or middle:
        after = seen.only_user(second.output[0], "QuantizeLinear")
        if not (all(quantized) and middle and after is not None and head in (16, 32, 64) and max(tokens, others) <= 512):
            return None
    elif not ({seen.kinds.get(v) for v in inputs} <= {TensorProto.FLOAT16, TensorProto.BFLOAT16}
              and 16 <= head <= 256 and head % 8 == 0):
        return None
    return [first, *([mask] if mask is not None else []), softmax, *middle, second]


def layers(model: onnx.ModelProto, *, fuse: Callable[[str], bool]) -> list[dict[str, Any]]:
    """The inspector's entries at ProfilingVerbosity.DETAILED, in order of execution; `fuse` is asked by an attention's last node."""
    seen = view(model)
    attentions = [group for group in fused_attentions(seen) if fuse(group[-1].name)]
    last = {id(group[-1]): group for group in attentions}
    inside = {id(node) for group in attentions for node in group}
    entries, chain = [], list[NodeProto]()
    for node in seen.nodes:
        if id(node) in inside and id(node) not in last:
            continue
        if chain and not (node.op_type in POINTWISE and len(seen.users.get(chain[-1].output[0], [])) == 1
                          and chain[-1].output[0] in node.input and id(node) not in inside):
            entries.append(_entry(seen, chain, len(entries)))
            chain = []
        if id(node) in last:
            entries.append(_entry(seen, last[id(node)], len(entries), "_gemm_mha_v2"))
        elif node.op_type in POINTWISE:
            chain.append(node)
        else:
            entries.append(_entry(seen, [node], len(entries)))
    return entries + ([_entry(seen, chain, len(entries))] if chain else [])


def _entry(seen: View, group: list[NodeProto], index: int, kernel: str | None = None) -> dict[str, Any]:
    """One layer in the inspector's form (as in github.com/NVIDIA/TensorRT issue 4397)."""
    made = {output for node in group for output in node.output}
    taken = [name for node in group for name in node.input if name and name not in made]
    given = [name for node in group for name in node.output
             if name and (name not in seen.users or any(user not in group for user in seen.users[name]))]
    kind = "kgen"
    if kernel is None:
        kind = "gemm" if group[0].op_type in ("MatMul", "Gemm") else "kgen"
        kernel = "sm80_xmma_gemm_f16f16_f16f16_f16_nn_n_tilesize32x32x64" if kind == "gemm" else (
            "__myl_MaxSubExpSumDivMul" if group[0].op_type == "Softmax" else "__myl_" + "".join(n.op_type[:4] for n in group))
    tactic = f"{kernel}_0x{hashlib.md5(repr((kernel, index)).encode()).hexdigest()}"
    name = f"{kernel}_myl0_{index}" if kind == "kgen" else "+".join(node.name for node in group) + f"_myl0_{index}"
    told = list(dict.fromkeys(node.doc_string for node in group if node.doc_string))
    return {"Name": name, "LayerType": kind, "Inputs": [_tensor(seen, n) for n in taken], "Outputs": [_tensor(seen, n) for n in given],
            "TacticName": tactic, "StreamId": 0, "Metadata": "\x1e".join(told)}


def _tensor(seen: View, name: str) -> dict[str, Any]:
    return {"Name": name, "Dimensions": seen.shapes.get(name) or [], "Format/Datatype": _NAMES.get(seen.kinds.get(name, 0), "Float")}
