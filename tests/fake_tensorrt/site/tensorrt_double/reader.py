"""ONNX nodes become layers, as the parser makes them; which operators it knows."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import NodeProto

from tensorrt_double.graph import Network
from tensorrt_double.layers import Attention, Layer, Tensor, data_type, sizes
from tensorrt_double.world import real

OPERATORS = {
    "Abs": "UNARY", "Add": "ELEMENTWISE", "Cast": "CAST", "Clip": "ACTIVATION", "Concat": "CONCATENATION", "Constant": "CONSTANT",
    "ConstantOfShape": "FILL", "DequantizeLinear": "DEQUANTIZE", "Div": "ELEMENTWISE", "Erf": "UNARY", "Exp": "UNARY",
    "Expand": "SLICE", "Flatten": "SHUFFLE", "Floor": "UNARY", "Gather": "GATHER", "Gelu": "ACTIVATION", "Gemm": "MATRIX_MULTIPLY",
    "Identity": "IDENTITY", "LayerNormalization": "NORMALIZATION", "MatMul": "MATRIX_MULTIPLY", "Max": "ELEMENTWISE",
    "Min": "ELEMENTWISE", "Mul": "ELEMENTWISE", "Neg": "UNARY", "Pow": "ELEMENTWISE", "QuantizeLinear": "QUANTIZE",
    "ReduceMax": "REDUCE", "ReduceMean": "REDUCE", "ReduceSum": "REDUCE", "Reshape": "SHUFFLE", "Round": "UNARY", "Shape": "SHAPE",
    "Sigmoid": "ACTIVATION", "Slice": "SLICE", "Softmax": "SOFTMAX", "Split": "SLICE", "Sqrt": "UNARY", "Squeeze": "SHUFFLE",
    "Sub": "ELEMENTWISE", "Tanh": "ACTIVATION", "Transpose": "SHUFFLE", "Unsqueeze": "SHUFFLE", "Where": "SELECT"}
"""Operators of the deployed graphs and their neighbours (onnx-tensorrt docs/operators.md), with the layer that they become."""
NEEDS = {"Attention": (10, 14)}
OWN_CONSTANTS = {"Reshape", "Split", "Clip", "Slice", "Squeeze", "Unsqueeze", "Expand", "ReduceMax", "ReduceMean", "ReduceSum",
                 "ConstantOfShape"}
"""Operators whose constant second inputs and on become parameters of the layer rather than tensors."""


def read(proto: onnx.ModelProto, network: Network) -> None:
    """Fill a network from a model whose operators are known."""
    graph = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    values = {v.name: v for v in (*graph.input, *graph.value_info, *graph.output)}
    weights = {t.name: t for t in graph.initializer}
    network.name, network.opsets, network.ir_version = graph.name, list(proto.opset_import), min(proto.ir_version, 10)
    network.constants.update(weights)
    tensors: dict[str, Tensor] = {}

    def tensor(name: str) -> Tensor:
        if name not in tensors:
            value = values.get(name)
            tensors[name] = Tensor(network, name, value.type.tensor_type.elem_type if value else 0, sizes(value) if value else None)
        return tensors[name]

    for value in graph.input:
        if value.name not in weights:
            data_type(value.type.tensor_type.elem_type)
            network.inputs.append(tensor(value.name))
    for index, node in enumerate(graph.node):
        name = node.name or f"node_of_{node.output[0]}"
        for place in _tensor_places(node, weights):
            if node.input[place] in weights and node.input[place] not in tensors:
                network.layers.append(_constant(network, weights[node.input[place]], tensors))
        _append(network, node, name, [tensor(node.input[p]) for p in _tensor_places(node, weights)],
                _tensor_places(node, weights), [tensor(o) for o in node.output if o], index)
    network.outputs += [tensor(value.name) for value in graph.output]


def _tensor_places(node: NodeProto, weights: dict[str, onnx.TensorProto]) -> list[int]:
    """Which inputs of a node are inputs of its layer."""
    return [i for i, name in enumerate(node.input)
            if name and not (name in weights and i and node.op_type in OWN_CONSTANTS)
            and not (node.op_type.endswith("QuantizeLinear") or node.op_type == "DequantizeLinear") * (i == 2)]


def _constant(network: Network, weight: onnx.TensorProto, tensors: dict[str, Tensor]) -> Layer:
    layer = Layer("CONSTANT", weight.name, [], lambda layer: [], f"[ONNX Layer: {weight.name}]")
    tensors[weight.name] = Tensor(network, weight.name, weight.data_type, list(weight.dims))
    layer.outputs = [tensors[weight.name]]
    return layer


def _append(network: Network, node: NodeProto, name: str, inputs: list[Tensor], places: list[int], outputs: list[Tensor],
            index: int) -> None:
    """The layer, or for Split the layers, of one node."""
    metadata = f"[ONNX Layer: {name}]"
    if node.op_type == "Attention":
        _append_attention(network, node, name, inputs, outputs, metadata)
        return
    own = NodeProto()
    own.CopyFrom(node)
    own.name = name
    group: list[Layer] = []

    def emit(layer: Layer) -> list[NodeProto]:
        if layer is not group[0]:
            return []
        if any(other.inputs != layer.inputs for other in group):
            raise NotImplementedError(f"the double keeps the slices of '{name}' together: they need one input")
        made = NodeProto()
        made.CopyFrom(own)
        for place, value in zip(places, layer.inputs, strict=True):
            made.input[place] = value.name
        renamed = iter(value.name for other in group for value in other.outputs)
        for i, output in enumerate(own.output):
            made.output[i] = next(renamed) if output else ""
        return [made]

    parts = [[value] for value in outputs] if node.op_type == "Split" else [outputs]
    for i, made in enumerate(parts):
        layer = Layer(OPERATORS[node.op_type], name if not i else f"{name}_{i}", list(inputs), emit, metadata)
        layer.outputs = made
        _describe(layer, node)
        group.append(layer)
    network.layers += group


def _describe(layer: Layer, node: NodeProto) -> None:
    """Parameters of a layer that code may read after a cast to its class."""
    attributes: Any = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    given: dict[str, Any] = {}
    if layer.kind == "SOFTMAX":
        rank = len(layer.inputs[0].sizes or [0])
        given["axes"] = 1 << (attributes.get("axis", -1) % rank)
    elif layer.kind == "MATRIX_MULTIPLY":
        given["op0"] = given["op1"] = real.MatrixOperation.NONE
    elif layer.kind == "CAST":
        given["to_type"] = data_type(attributes["to"])
    elif node.op_type == "Transpose":
        given["first_transpose"] = real.Permutation(attributes["perm"])
    elif layer.kind == "ELEMENTWISE":
        names = {"Add": "SUM", "Mul": "PROD", "Sub": "SUB", "Div": "DIV", "Max": "MAX", "Min": "MIN", "Pow": "POW"}
        given["op"] = getattr(real.ElementWiseOperation, names[node.op_type])
    for key, value in given.items():
        setattr(layer, key, value)


def _append_attention(network: Network, node: NodeProto, name: str, inputs: list[Tensor], outputs: list[Tensor],
                      metadata: str) -> None:
    """ONNX Attention becomes an IAttention that may be decomposed; its scale must be 1, as IAttention has none."""
    scale = next((a.f for a in node.attribute if a.name == "scale"), None)
    if scale != 1.0 or len(inputs) != 3 or any(len(t.sizes or []) != 4 for t in inputs):
        raise NotImplementedError("the double reads Attention with 4-D Q, K, V, no mask and scale 1")
    attention = Attention(network, inputs, real.AttentionNormalizationOp.SOFTMAX, False)
    attention.decomposable, attention.back.outputs = True, outputs
    attention.name, attention.metadata = name, metadata
    network.attentions.append(attention)
    network.layers += [attention.front, attention.back]
