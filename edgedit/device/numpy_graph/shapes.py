"""Operators that move numbers without changing them: Reshape, Transpose, Split, Concat, Gather, Shape, ConstantOfShape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from edgedit.device.numpy_graph.bind import Array, Attributes, Kernel, Operator, padded, same_type, unsupported
from edgedit.device.numpy_graph.tensor import MOST_DIMENSIONS, MOST_ELEMENTS


def _reshape(attributes: Attributes) -> Kernel:
    keep = not attributes.take("allowzero", 0)

    def run(x: Sequence[Any], spare: bool) -> tuple[Array, ...]:
        value, wanted = x
        return (value.reshape([value.shape[i] if size == 0 and keep else size for i, size in enumerate(wanted.tolist())]),)

    return run


def _transpose(attributes: Attributes) -> Kernel:
    order: list[int] = attributes.take("perm", [])
    return lambda x, spare: (np.transpose(x[0], order or None),)


def _split(attributes: Attributes) -> Kernel:
    axis, count = attributes.take("axis", 0), len(attributes.node.outputs)
    if attributes.take("num_outputs", count) != count:
        raise unsupported(attributes.node, f"with {count} outputs and another num_outputs")

    def run(x: Sequence[Any], spare: bool) -> tuple[Array, ...]:
        value, sizes = padded(x, 2)
        whole = value.shape[axis]
        each = -(-whole // count)
        parts = [each] * (count - 1) + [whole - each * (count - 1)] if sizes is None else sizes.tolist()
        if len(parts) != count or min(parts) < 0 or sum(parts) != whole:
            raise ValueError(f"{whole} cannot be split into {parts}")
        ends = np.cumsum([0, *parts]).tolist()
        along = np.moveaxis(value, axis, 0)
        return tuple(np.moveaxis(along[a:b], 0, axis) for a, b in pairwise(ends))

    return run


def _concat(attributes: Attributes) -> Kernel:
    axis = attributes.take("axis", 0)

    def run(x: Sequence[Any], spare: bool) -> tuple[Array, ...]:
        same_type(*x)
        return (np.concatenate(x, axis),)

    return run


def _gather(attributes: Attributes) -> Kernel:
    axis = attributes.take("axis", 0)
    return lambda x, spare: (np.take(x[0], x[1], axis),)


def _shape(attributes: Attributes) -> Kernel:
    start, end = attributes.take("start", 0), attributes.take("end", MOST_DIMENSIONS)
    return lambda x, spare: (np.array(x[0].shape[start:end], np.int64),)


def _constant_of_shape(attributes: Attributes) -> Kernel:
    value = attributes.take("value", np.zeros(1, np.float32))
    if value.size != 1:
        raise unsupported(attributes.node, f"with a value of {value.size} numbers")

    def run(x: Sequence[Any], spare: bool) -> tuple[Array, ...]:
        shape = x[0].tolist()
        if math.prod(shape) > MOST_ELEMENTS // 8:
            raise ValueError(f"{shape} is no shape of a batch")
        return (np.full(shape, value.reshape(()), value.dtype),)

    return run


OPERATORS: dict[tuple[str, str], Operator] = {
    ("", "Reshape"): Operator(_reshape, 2, 2, view=True), ("", "Transpose"): Operator(_transpose, 1, 1, view=True),
    ("", "Split"): Operator(_split, 1, 2, view=True, many=True), ("", "Concat"): Operator(_concat, 1, 64),
    ("", "Gather"): Operator(_gather, 2, 2), ("", "Shape"): Operator(_shape, 1, 1),
    ("", "ConstantOfShape"): Operator(_constant_of_shape, 1, 1),
}
