"""Will TensorRT replace a block's attention by one fused kernel? Read from the finished graph, with the reason when not.

Conditions for the primitive pattern (TensorRT 10.x guide, "Fused Attention"; jetson.md §5.1), on SM ≥ 75:

* both products take FP16 or BF16; FP32 never fuses;
* head size 16 ≤ H ≤ 256 and H a multiple of 8;
* the softmax scale multiplies Q or K before the first product, never the scores;
* MatMul → (mask Add) → Softmax → MatMul, with no Cast, Reshape or Transpose between;
* Q and V are [B, N, S, H] and K is [B, N, H, S]; the softmax is over the last axis;
* with INT8: Q/DQ before the first product (both inputs), after the softmax, on V and after the second product, all five; head
  size 16, 32 or 64; at most 512 tokens. The values between Q/DQ and the products count as FP16.

When all hold TensorRT may still decline where another plan is faster: the engine inspector has the last word.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from onnx import ModelProto, NodeProto, TensorProto

from edgedit.export.int8 import FUSING_HEADS, FUSING_TOKENS
from edgedit.export.view import View
from edgedit.export.writer import MICROSOFT

HALF: dict[int, str] = {TensorProto.FLOAT16: "FP16", TensorProto.BFLOAT16: "BF16"}
SMALLEST, LARGEST, MULTIPLE = 16, 256, 8
_QDQ = ("QuantizeLinear", "DequantizeLinear")
_PASSING = {"Mul", "Div", "Add", "Sub", "Cast", "Reshape", "Transpose", "Identity", "Where", "Squeeze", "Unsqueeze", *_QDQ}


@dataclass(frozen=True)
class Finding:
    """One condition: its code ("types", "head_size", "scale", "unbroken", "layout", "int8", "operator"), whether it holds, and why."""

    code: str
    holds: bool
    text: str


@dataclass(frozen=True)
class BlockFusion:
    """One attention: where it is, how it is written ("pattern", "onnx", "ort"), whether TensorRT's conditions all hold."""

    block: str
    dialect: str
    fuses: bool
    findings: tuple[Finding, ...]

    @property
    def reasons(self) -> list[str]:
        """Why not: texts of the conditions that fail."""
        return [f.text for f in self.findings if not f.holds]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def attention_fusion(model: ModelProto) -> list[BlockFusion]:
    """Judge every attention of a graph, in order: softmax patterns, `Attention` and `MultiHeadAttention` operators.

    Args:
        model: any ONNX model; shapes are inferred here.
    """
    view = View(model)
    judges: dict[tuple[str, str], tuple[str, Callable[[View, NodeProto], list[Finding]]]] = {
        ("", "Softmax"): ("pattern", _pattern), ("", "Attention"): ("onnx", _operator),
        (MICROSOFT, "MultiHeadAttention"): ("ort", _contrib), (MICROSOFT, "Attention"): ("ort", _contrib)}
    found = []
    for node in view.nodes:
        if (node.domain, node.op_type) in judges:
            dialect, judge = judges[node.domain, node.op_type]
            findings = tuple(judge(view, node))
            where = (node.name or node.output[0]).split("/")[0]
            found.append(BlockFusion(where, dialect, all(f.holds for f in findings), findings))
    return found


# --- MatMul–Softmax–MatMul --------------------------------------------------------------------------------------------------


def _pattern(view: View, softmax: NodeProto) -> list[Finding]:
    first, before = _walk(view, softmax, up=True)
    second, after = _walk(view, softmax, up=False)
    if first is None or second is None:
        side = "before" if first is None else "after"
        return [Finding("operator", False, f"no MatMul {side} the Softmax: this is not attention as TensorRT knows it")]
    q, k = first.input[:2]
    v = second.input[1]
    after = [op for op in after if op not in _QDQ]  # behind the softmax Q/DQ have a place, before it they do not
    return [_types(view, q, k, v), _head_size(view, q), _scale(before), _unbroken(view, first, softmax, before, after),
            _layout(view, softmax, q, k, v), *_int8(view, first, second, q, v)]


def _walk(view: View, softmax: NodeProto, *, up: bool) -> tuple[NodeProto | None, list[str]]:
    """From the softmax to the nearest MatMul, and the operators passed on the way."""
    passed: list[str] = []
    node: NodeProto | None = softmax
    while node is not None:
        if up:
            node = next((view.maker[i] for i in node.input if i in view.maker), None)
        else:
            users = view.users.get(node.output[0], [])
            node = users[0] if len(users) == 1 else None
        if node is not None and node.op_type == "MatMul":
            return node, passed
        if node is None or node.op_type not in _PASSING:
            return None, passed
        passed.append(node.op_type)
    return None, passed


def int8_places(view: View, first: NodeProto, second: NodeProto) -> dict[str, bool]:
    """Which of the five places of an attention hold Q/DQ: inputs of both products, and the second one's output."""
    users = view.users.get(second.output[0], [])
    return {"query": _dequantised(view, first.input[0]), "key": _dequantised(view, first.input[1]),
            "softmax": _dequantised(view, second.input[0]), "value": _dequantised(view, second.input[1]),
            "output": bool(users) and all(node.op_type == "QuantizeLinear" for node in users)}


def _dequantised(view: View, value: str) -> bool:
    return value in view.maker and view.maker[value].op_type == "DequantizeLinear"


def attention_products(view: View, softmax: NodeProto) -> tuple[NodeProto, NodeProto] | None:
    """The two products around a softmax, Q/DQ and the like between passed over; None when this is not attention."""
    first, second = _walk(view, softmax, up=True)[0], _walk(view, softmax, up=False)[0]
    return (first, second) if first is not None and second is not None else None


def _int8(view: View, first: NodeProto, second: NodeProto, q: str, v: str) -> list[Finding]:
    """One finding where anything is quantised, none otherwise."""
    places = int8_places(view, first, second)
    if not any(places[name] for name in ("query", "key", "softmax", "value")):  # the output alone: the next layer's input
        return []
    if not all(places.values()):
        return [Finding("int8", False, f"no Q/DQ at {', '.join(name for name, there in places.items() if not there)}: INT8 attention "
                                       "needs all five places")]
    shape, other = view.shape(q), view.shape(v)
    size, tokens = (shape[-1], [shape[-2], other[-2]]) if shape and other else (None, [None])
    if size not in FUSING_HEADS:
        return [Finding("int8", False, f"head size {size}: INT8 fuses at {', '.join(map(str, FUSING_HEADS))} only")]
    if any(n is None or n > FUSING_TOKENS for n in tokens):
        return [Finding("int8", False, f"{tokens[0]} tokens: INT8 fuses up to {FUSING_TOKENS}")]
    return [Finding("int8", True, "Q/DQ at all five places")]


def _types(view: View, *values: str) -> Finding:
    kinds = [view.kind(value) for value in values]
    names = ", ".join(sorted({HALF.get(kind) or TensorProto.DataType.Name(kind) for kind in kinds}))
    holds = len(set(kinds)) == 1 and kinds[0] in HALF
    return Finding("types", holds, f"products take {names}" + ("" if holds else "; only FP16 or BF16 on both sides fuses"))


def _head_size(view: View, q: str) -> Finding:
    shape = view.shape(q)
    size = shape[-1] if shape else None
    if size is None:
        return Finding("head_size", False, "the head size is not known before run time")
    if not SMALLEST <= size <= LARGEST:
        return Finding("head_size", False, f"head size {size} is outside {SMALLEST} … {LARGEST}")
    if size % MULTIPLE:
        return Finding("head_size", False, f"head size {size} is not a multiple of {MULTIPLE}")
    return Finding("head_size", True, f"head size {size}")


def _scale(before: list[str]) -> Finding:
    late = [op for op in before if op in ("Mul", "Div")]
    if late:
        return Finding("scale", False, f"the scores are scaled ({', '.join(late)}): the scale belongs into Q")
    return Finding("scale", True, "no scaling between the products")


def _unbroken(view: View, first: NodeProto, softmax: NodeProto, before: list[str], after: list[str]) -> Finding:
    odd = [op for op in before if op not in ("Add", "Mul", "Div")] + after  # one Add is a mask; scaling has its own finding
    odd += ["Add"] * (before.count("Add") - 1)
    if odd:
        return Finding("unbroken", False, f"{', '.join(odd)} between the products")
    shared = [value for value in (first.output[0], softmax.output[0]) if len(view.users.get(value, [])) > 1]
    if shared:
        return Finding("unbroken", False, f"'{shared[0]}' is used elsewhere too, so it has to be written out")
    return Finding("unbroken", True, "the products and the softmax follow one another")


def _layout(view: View, softmax: NodeProto, q: str, k: str, v: str) -> Finding:
    shapes = [view.shape(value) for value in (q, k, v)]
    if any(shape is None or len(shape) != 4 for shape in shapes):
        seen = ", ".join("?" if s is None else f"rank {len(s)}" for s in shapes)
        return Finding("layout", False, f"Q, K, V have {seen}; needed are 4 dimensions [B, N, S, H]")
    (_, n, s, h), (_, nk, hk, sk), (_, nv, sv, _) = (tuple(shape or ()) for shape in shapes)
    if not (n == nk == nv and h == hk and sk == sv):
        seen = ", ".join(map(str, shapes))
        return Finding("layout", False, f"Q, K, V are {seen}; needed are [B, N, S, H], [B, N, H, S], [B, N, S, H]")
    axis = next((a.i for a in softmax.attribute if a.name == "axis"), -1)
    if axis not in (-1, 3):
        return Finding("layout", False, f"the softmax is over axis {axis}, not the last")
    return Finding("layout", True, f"[B, {n}, {s}, {h}]")


# --- whole operators --------------------------------------------------------------------------------------------------------


def _operator(view: View, node: NodeProto) -> list[Finding]:
    """ONNX `Attention`: read by TensorRT ≥ 10.14, as IAttention."""
    attributes = {a.name: a for a in node.attribute}
    q, k, v = node.input[:3]
    shape = view.shape(q)
    ranked = shape is not None and len(shape) == 4
    scaled = "scale" not in attributes or attributes["scale"].f != 1.0
    return [Finding("operator", True, "Attention, opset 23: TensorRT ≥ 10.14 reads it, older ones do not"),
            _types(view, q, k, v), _head_size(view, q),
            Finding("scale", not scaled, "the operator scales the scores; fold the scale into Q and set scale = 1" if scaled
                    else "scale = 1: it is already in Q"),
            Finding("layout", ranked, f"{shape}" if ranked else "inputs are not [B, N, S, H]")]


def _contrib(view: View, node: NodeProto) -> list[Finding]:
    """ONNX Runtime's own operators."""
    return [Finding("operator", False, f"{node.domain}.{node.op_type} is ONNX Runtime's own: fused there, unknown to TensorRT; "
                                       "export with --attention pattern or onnx for TensorRT")]
