"""The operators of exported graphs as NumPy functions, by domain and name. FP16 is computed in float32 and rounded once per operator.

Semantics: onnx/docs/Operators.md for opsets 17 to 23, ONNX Runtime's docs/ContribOperators.md for com.microsoft.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from edgedit.device.numpy_graph import shapes
from edgedit.device.numpy_graph.bind import Array, Attributes, Kernel, Operator, narrow, own, padded, same_type, unsupported, wide
from edgedit.device.numpy_graph.functions import Floats, attend, blocks, gelu_erf, gelu_tanh, in_blocks, normalise, softmax
from edgedit.device.numpy_graph.tensor import TYPES

MICROSOFT = "com.microsoft"


def _binary(ufunc: np.ufunc) -> Callable[[Attributes], Kernel]:
    def run(x: Sequence[Any], spare: bool) -> tuple[Array, ...]:
        a, b = x
        same_type(a, b)
        if a.dtype == np.float16:
            return (narrow(ufunc(wide(a), wide(b)), a.dtype),)
        shape = np.broadcast_shapes(a.shape, b.shape)
        return (ufunc(a, b, out=a if spare and a.shape == shape and a.flags.writeable else None),)

    return lambda attributes: run


def _unary(function: Callable[[Array], Array]) -> Callable[[Attributes], Kernel]:
    return lambda attributes: lambda x, spare: (narrow(function(wide(x[0])), x[0].dtype),)


def _clip(attributes: Attributes) -> Kernel:
    def run(x: Sequence[Any], spare: bool) -> tuple[Array, ...]:
        value, low, high = padded(x, 3)
        for limit, bound in ((low, np.maximum), (high, np.minimum)):
            if limit is not None:
                same_type(value, limit)
                value = bound(value, limit)
        return (value,)

    return run


def _cast(attributes: Attributes) -> Kernel:
    number = attributes.take("to", 0)
    attributes.only("saturate", 1, 0)  # of 8-bit floats alone
    if number not in TYPES:
        raise unsupported(attributes.node, f"to the element type {number}")
    return lambda x, spare: (x[0].astype(TYPES[number]),)


def _matmul(attributes: Attributes) -> Kernel:
    def run(x: Sequence[Any], spare: bool) -> tuple[Array, ...]:
        same_type(*x)
        a, b = map(wide, x)
        if a.ndim > 2 and b.ndim == 2 and a.flags.c_contiguous:  # one large product instead of one an image
            y = (a.reshape(-1, a.shape[-1]) @ b).reshape(*a.shape[:-1], b.shape[1])
        else:
            y = np.matmul(a, b)
        return (narrow(y, x[0].dtype),)

    return run


def _softmax(attributes: Attributes) -> Kernel:
    axis = attributes.take("axis", -1)

    def run(x: Sequence[Any], spare: bool) -> tuple[Array, ...]:
        y = np.moveaxis(x[0], axis, -1)
        y = in_blocks(softmax, own(y, spare))
        return (narrow(np.moveaxis(y, -1, axis), x[0].dtype),)

    return run


def _layer_norm(attributes: Attributes) -> Kernel:
    axis, epsilon = attributes.take("axis", -1), attributes.take("epsilon", 1e-5)
    attributes.only("stash_type", 1)

    def run(x: Sequence[Any], spare: bool) -> tuple[Array, ...]:
        value, scale, shift = padded(x, 3)
        y = normalise(wide(value), tuple(range(axis % value.ndim, value.ndim)), epsilon)
        y *= scale
        if shift is not None:
            y += shift
        return (narrow(y, value.dtype),)

    return run


def _gelu(attributes: Attributes) -> Kernel:
    kind = attributes.take("approximate", "none")
    functions = {"none": gelu_erf, "tanh": gelu_tanh}
    if kind not in functions:
        raise unsupported(attributes.node, f"with approximate = {kind!r}")
    return lambda x, spare: (narrow(in_blocks(functions[kind], own(x[0], spare)), x[0].dtype),)


def _fast_gelu(attributes: Attributes) -> Kernel:
    def run(x: Sequence[Any], spare: bool) -> tuple[Array, ...]:
        value, bias = padded(x, 2)
        y: Floats = own(value, spare)
        for block in blocks(y):
            if bias is not None:
                block += bias
            gelu_tanh(block)
        return (narrow(y, value.dtype),)

    return run


def _multi_head_attention(attributes: Attributes) -> Kernel:
    """Query, key and value (B, T, h·H), each its own array, and one bias (3·h·H) for all three."""
    heads, scale = attributes.take("num_heads", 0), attributes.take("scale", 0.0)
    attributes.only("unidirectional", 0)
    attributes.take("mask_filter_value", 0.0)  # there is no mask
    if heads < 1:
        raise unsupported(attributes.node, f"with num_heads = {heads}")

    def run(x: Sequence[Any], spare: bool) -> tuple[Array, ...]:
        *values, bias = padded(x, 4)
        same_type(*values)
        shifts = [None] * 3 if bias is None else np.split(bias, np.cumsum([v.shape[2] for v in values])[:2])
        q, k, v = (wide(value) if shift is None else wide(value) + shift for value, shift in zip(values, shifts, strict=True))
        q, k, v = (narrow(y, values[0].dtype).reshape(*y.shape[:2], heads, y.shape[2] // heads) for y in (q, k, v))
        mixed = attend(q.transpose(0, 2, 1, 3), k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3), scale or q.shape[3] ** -0.5)
        return (mixed.transpose(0, 2, 1, 3).reshape(*values[0].shape[:2], values[2].shape[2]),)

    return run


def _attention(attributes: Attributes) -> Kernel:
    """ONNX's own, on (B, h, T, H), without mask, cache, and groups of heads."""
    scale = attributes.take("scale", 0.0)
    attributes.only("is_causal", 0)
    attributes.only("softcap", 0.0)
    attributes.only("softmax_precision", 1, 10)
    attributes.only("qk_matmul_output_mode", 0)

    def run(x: Sequence[Any], spare: bool) -> tuple[Array, ...]:
        q, k, v = x
        same_type(q, k, v)
        if not q.ndim == k.ndim == v.ndim == 4 or not q.shape[:2] == k.shape[:2] == v.shape[:2]:
            raise ValueError("query, key and value must be (B, h, T, H) with the same B and h")
        return (attend(q, k.transpose(0, 1, 3, 2), v, scale or q.shape[3] ** -0.5),)

    return run


def _attention_products(attributes: Attributes) -> Kernel:
    """MatMul–Softmax–MatMul in one, of query, transposed key and value; made by `plan`."""
    def run(x: Sequence[Any], spare: bool) -> tuple[Array, ...]:
        q, k, v = x
        same_type(q, k, v)
        if q.ndim == k.ndim == v.ndim == 4 and q.shape[:2] == k.shape[:2] == v.shape[:2]:
            return (attend(q, k, v, 1),)
        shares = in_blocks(softmax, own(narrow(np.matmul(wide(q), wide(k)), q.dtype), False))
        return (narrow(np.matmul(wide(narrow(shares, q.dtype)), wide(v)), q.dtype),)

    return run


def _along(value: Array, axis: int, like: Array) -> Array:
    """Scales or zero points of one axis, shaped to broadcast; a single one as it is."""
    if value.ndim == 0 or value.shape == (1,):
        return value.reshape(())
    shape = [1] * like.ndim
    shape[axis] = len(value)
    return value.reshape(shape)


def _quantise(attributes: Attributes) -> Kernel:
    axis = attributes.take("axis", 1)
    for name, values in (("saturate", (1, 0)), ("block_size", (0,)), ("output_dtype", (0,)), ("precision", (0,))):
        attributes.only(name, *values)

    def run(x: Sequence[Any], spare: bool) -> tuple[Array, ...]:
        value, scale, zero = padded(x, 3)
        zero = np.zeros((), np.uint8) if zero is None else zero
        same_type(value, scale)
        limits = np.iinfo(zero.dtype)
        y = wide(value) / _along(wide(scale), axis, value)
        np.rint(y, out=y)
        y += _along(zero, axis, value).astype(np.float32)
        return (np.clip(y, limits.min, limits.max, out=y).astype(zero.dtype),)

    return run


def _dequantise(attributes: Attributes) -> Kernel:
    axis = attributes.take("axis", 1)
    for name in ("block_size", "output_dtype"):
        attributes.only(name, 0)

    def run(x: Sequence[Any], spare: bool) -> tuple[Array, ...]:
        value, scale, zero = padded(x, 3)
        y = value.astype(np.float32)
        if zero is not None:
            same_type(value, zero)
            y -= _along(zero, axis, value).astype(np.float32)
        y *= _along(wide(scale), axis, value)
        return (narrow(y, scale.dtype),)

    return run


PRODUCTS = "attention products"
"""Name of the node that `plan` puts in the place of MatMul–Softmax–MatMul."""
OPERATORS: dict[tuple[str, str], Operator] = {
    **{("", kind): Operator(_binary(ufunc), 2, 2) for kind, ufunc in (("Add", np.add), ("Sub", np.subtract), ("Mul", np.multiply))},
    **{("", kind): Operator(_unary(f), 1, 1) for kind, f in (("Floor", np.floor), ("Tanh", np.tanh))},
    ("", "Clip"): Operator(_clip, 1, 3, view=True), ("", "Cast"): Operator(_cast, 1, 1), ("", "MatMul"): Operator(_matmul, 2, 2),
    ("", "Softmax"): Operator(_softmax, 1, 1), ("", "LayerNormalization"): Operator(_layer_norm, 2, 3),
    ("", "Gelu"): Operator(_gelu, 1, 1), (MICROSOFT, "FastGelu"): Operator(_fast_gelu, 1, 2),
    (MICROSOFT, "MultiHeadAttention"): Operator(_multi_head_attention, 3, 4), ("", "Attention"): Operator(_attention, 3, 3),
    ("edgedit", PRODUCTS): Operator(_attention_products, 3, 3),
    ("", "QuantizeLinear"): Operator(_quantise, 2, 3), ("", "DequantizeLinear"): Operator(_dequantise, 2, 3),
    **shapes.OPERATORS,
}
