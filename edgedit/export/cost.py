"""What a graph costs on paper: operators, weights, and the bytes of activations it moves per image."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import onnx
from onnx import ModelProto, TensorProto, helper

_VIEWS = {"Reshape", "Squeeze", "Unsqueeze", "Identity", "Shape"}
_QDQ = ("QuantizeLinear", "DequantizeLinear")
_NUMBERS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8)


@dataclass(frozen=True)
class GraphCost:
    """Counts over one graph.

    Attributes:
        nodes: all operators; `operators` by type, most frequent first.
        parameters: numbers in floating-point initializers and INT8 weights; scales are none.
        weight_bytes: bytes of all initializers.
        activation_bytes: per image, when every operator reads its inputs and writes its outputs in memory; weights are left
            out, and views (Reshape and the like) move nothing. Runtimes that fuse move less: this is the bound that fusing
            starts from.
        activation_bytes_by_operator: the same by type, largest first.
        largest_value, largest_bytes: the biggest single activation per image.
    """

    nodes: int
    operators: dict[str, int]
    parameters: int
    weight_bytes: int
    activation_bytes: int
    activation_bytes_by_operator: dict[str, int]
    largest_value: str
    largest_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def graph_cost(model: ModelProto) -> GraphCost:
    """Count a graph with fixed batch; figures per image are totals over the batch.

    Raises:
        ValueError: a value's shape is not fixed.
    """
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    batch = graph.input[0].type.tensor_type.shape.dim[0].dim_value
    constants = {tensor.name: tensor for tensor in graph.initializer}
    scales = {name for node in graph.node if node.op_type in _QDQ for name in node.input[1:]}
    still = {*constants, *(name for node in graph.node if node.op_type in _QDQ and node.input[0] in constants for name in node.output)}
    sizes = {v.name: _bytes(v) for v in (*graph.input, *graph.value_info, *graph.output)}
    moved: Counter[str] = Counter()
    for node in graph.node:
        if node.op_type not in _VIEWS:
            values = [name for name in (*node.input, *node.output) if name and name not in still]
            moved[node.op_type] += sum(sizes[name] for name in values)
    made = {name: sizes[name] for node in graph.node for name in node.output if name not in still}
    largest = max(made, key=made.__getitem__)
    return GraphCost(
        nodes=len(graph.node), operators=dict(Counter(node.op_type for node in graph.node).most_common()),
        parameters=sum(math.prod(t.dims) for t in constants.values() if t.data_type in _NUMBERS and t.name not in scales),
        weight_bytes=sum(len(t.raw_data) for t in constants.values()),
        activation_bytes=round(moved.total() / batch),
        activation_bytes_by_operator={name: round(n / batch) for name, n in moved.most_common() if n},
        largest_value=largest, largest_bytes=round(made[largest] / batch))


def _bytes(value: onnx.ValueInfoProto) -> int:
    kind = value.type.tensor_type
    if any(not d.HasField("dim_value") for d in kind.shape.dim):
        raise ValueError(f"'{value.name}' has no fixed shape")
    return math.prod(d.dim_value for d in kind.shape.dim) * helper.tensor_dtype_to_np_dtype(kind.elem_type).itemsize
