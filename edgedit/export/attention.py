"""Attention in three dialects, from the same weights: what fuses differs by runtime, the numbers do not.

`pattern`  MatMul–Softmax–MatMul on [B, h, T, H], which TensorRT 10.x replaces by one fused kernel when its conditions hold
           (`edgedit.export.fusion` states and checks them); readable by every runtime.
`onnx`     the standard `Attention` operator (opset 23): TensorRT ≥ 10.14, ONNX Runtime ≥ 1.23.
`ort`      ONNX Runtime's own `MultiHeadAttention`, with its FastGelu and its LayerNormalization that takes one scale and
           shift per sample (≥ 1.21). Fastest on CPUs; no other runtime reads it.

The softmax scale is already in the query weights (`edgedit.model.deploy`), so every dialect multiplies by 1. Head sizes that
TensorRT never fuses are zero-padded in the weights: zero channels of Q and K add nothing to the products, zero channels of V
come out zero and meet zero rows of the output projection. The function stays the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedit.export.writer import MICROSOFT, Graph

Array = NDArray[Any]


@dataclass(frozen=True)
class AttentionWeights:
    """Weights of one attention layer, ready for x @ W.

    Attributes:
        qkv: (3, w, h·H): query (with the softmax scale), key, value.
        qkv_bias: (3, h·H).
        proj: (h·H, w).
        proj_bias: (w,).
        heads: h.
    """

    qkv: Array
    qkv_bias: Array
    proj: Array
    proj_bias: Array
    heads: int

    @property
    def head_size(self) -> int:
        """H, padding included."""
        return self.proj.shape[0] // self.heads


@dataclass(frozen=True)
class Dialect:
    """How a target wants its transformer blocks written.

    Attributes:
        opset: default version of the ONNX domain, and the oldest that can hold the dialect.
        oldest_opset: the oldest that can.
        pads: whether typed FP16 zero-pads head sizes for TensorRT.
        fused_norm: LayerNormalization takes scale and shift per sample, shape (B, 1, w).
        fused_gelu: FastGelu with the bias inside.
        needs: the runtimes that read it, in words.
        attend: (graph, x, weights) → mixed values before the output projection, (B, T, h·H).
    """

    name: str
    opset: int
    oldest_opset: int
    pads: bool
    fused_norm: bool
    fused_gelu: bool
    needs: str
    attend: Callable[[Graph, str, AttentionWeights], str]


def fusing_head_size(head_size: int) -> int:
    """The smallest head size ≥ `head_size` that TensorRT 10.x fuses in FP16: a multiple of 8, at least 16 (jetson.md §5.1)."""
    return max(16, -(-head_size // 8) * 8)


def pad_heads(weights: AttentionWeights, head_size: int) -> AttentionWeights:
    """The same attention with every head's channels zero-padded to `head_size`."""
    h, extra = weights.heads, head_size - weights.head_size
    if extra <= 0:
        return weights
    width = weights.proj.shape[1]
    qkv = weights.qkv.reshape(3, width, h, -1)
    bias = weights.qkv_bias.reshape(3, h, -1)
    proj = weights.proj.reshape(h, -1, width)
    return AttentionWeights(
        np.pad(qkv, ((0, 0), (0, 0), (0, 0), (0, extra))).reshape(3, width, -1),
        np.pad(bias, ((0, 0), (0, 0), (0, extra))).reshape(3, -1),
        np.pad(proj, ((0, 0), (0, extra), (0, 0))).reshape(-1, width), weights.proj_bias, h)


def _heads_apart(g: Graph, x: str, weights: AttentionWeights, *, key_order: tuple[int, ...]) -> tuple[str, str, str]:
    """x (B, T, w) → q, k, v, each (B, h, T, H), k transposed as asked. One product for all three, then a split."""
    joined = np.concatenate(list(weights.qkv), axis=1)                                    # (w, 3·h·H)
    qkv = g.op("MatMul", g.site(x, "qkv"), g.weight(joined, "qkv/weight", int8=g.quantised("qkv")), label="qkv/product")
    qkv = g.op("Add", qkv, g.constant(weights.qkv_bias.reshape(-1), "qkv/bias"), label="qkv/sum")
    part = weights.proj.shape[0]
    split = g.ops("Split", qkv, g.whole([part] * 3, "qkv/parts"), label="qkv/split", outputs=3, axis=-1)
    shape = g.whole([0, 0, weights.heads, weights.head_size], "heads/shape")
    apart = []
    for name, value, order in zip("qkv", split, ((0, 2, 1, 3), key_order, (0, 2, 1, 3)), strict=True):
        value = g.op("Reshape", value, shape, label=f"{name}/heads")                      # (B, T, h, H)
        apart.append(g.op("Transpose", value, label=name, perm=list(order)))
    return apart[0], apart[1], apart[2]


def _heads_together(g: Graph, mixed: str, weights: AttentionWeights) -> str:
    """(B, h, T, H) → (B, T, h·H)."""
    mixed = g.op("Transpose", mixed, label="mixed/tokens", perm=[0, 2, 1, 3])
    return g.op("Reshape", mixed, g.whole([0, 0, weights.proj.shape[0]], "mixed/shape"), label="mixed")


def attend_pattern(g: Graph, x: str, weights: AttentionWeights) -> str:
    """Both products and the softmax with nothing between them but Q/DQ; the key's transposition belongs to its layout change."""
    q, k, v = _heads_apart(g, x, weights, key_order=(0, 2, 3, 1))                         # k: (B, h, H, T)
    scores = g.op("MatMul", g.site(q, "query"), g.site(k, "key"), label="scores")         # (B, h, T, T)
    shares = g.op("Softmax", scores, label="softmax", axis=-1)
    values = g.op("MatMul", g.site(shares, "shares"), g.site(v, "value"), label="values")
    return _heads_together(g, g.site(values, "values"), weights)


def attend_onnx(g: Graph, x: str, weights: AttentionWeights) -> str:
    """`Attention` on 4-D inputs, the layout of TensorRT's IAttention."""
    q, k, v = _heads_apart(g, x, weights, key_order=(0, 2, 1, 3))
    return _heads_together(g, g.op("Attention", q, k, v, label="attention", scale=1.0), weights)


def attend_ort(g: Graph, x: str, weights: AttentionWeights) -> str:
    """`MultiHeadAttention` takes (B, T, h·H) and adds the biases while it separates the heads."""
    x = g.site(x, "qkv")
    q, k, v = (g.op("MatMul", x, g.weight(weights.qkv[i], f"{name}/weight", int8=g.quantised("qkv")), label=f"{name}/product")
               for i, name in enumerate("qkv"))
    bias = g.constant(weights.qkv_bias.reshape(-1), "qkv/bias")
    mixed = g.op("MultiHeadAttention", q, k, v, bias, label="attention", domain=MICROSOFT, num_heads=weights.heads, scale=1.0)
    return mixed


DIALECTS = {d.name: d for d in (
    # Opset 20: the newest that TensorRT 10.3's parser takes, and the first with Gelu as one operator.
    Dialect("pattern", 20, 17, True, False, False, "TensorRT ≥ 10.1, ONNX Runtime ≥ 1.17", attend_pattern),
    Dialect("onnx", 23, 23, True, False, False, "TensorRT ≥ 10.14, ONNX Runtime ≥ 1.23", attend_onnx),
    Dialect("ort", 20, 17, False, True, True, "ONNX Runtime ≥ 1.21", attend_ort),
)}
