"""Tensors and layers of a network, as TensorRT shows them; each layer can say what it is in ONNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from tensorrt_double.strict import Part, part
from tensorrt_double.world import real

if TYPE_CHECKING:
    from tensorrt_double.graph import Network

_TYPES = {TensorProto.FLOAT: "FLOAT", TensorProto.FLOAT16: "HALF", TensorProto.BFLOAT16: "BF16", TensorProto.INT8: "INT8",
          TensorProto.INT32: "INT32", TensorProto.INT64: "INT64", TensorProto.BOOL: "BOOL", TensorProto.UINT8: "UINT8"}

LAYER_CLASSES = {
    "ACTIVATION": "IActivationLayer", "CAST": "ICastLayer", "CONCATENATION": "IConcatenationLayer", "CONSTANT": "IConstantLayer",
    "DEQUANTIZE": "IDequantizeLayer", "ELEMENTWISE": "IElementWiseLayer", "FILL": "IFillLayer", "GATHER": "IGatherLayer",
    "IDENTITY": "IIdentityLayer", "MATRIX_MULTIPLY": "IMatrixMultiplyLayer", "NORMALIZATION": "INormalizationLayer",
    "QUANTIZE": "IQuantizeLayer", "REDUCE": "IReduceLayer", "SELECT": "ISelectLayer", "SHAPE": "IShapeLayer",
    "SHUFFLE": "IShuffleLayer", "SLICE": "ISliceLayer", "SOFTMAX": "ISoftMaxLayer", "UNARY": "IUnaryLayer"}


def data_type(onnx_type: int) -> Any:
    """ONNX element type → DataType; KeyError for one that TensorRT lacks."""
    return getattr(real.DataType, _TYPES[onnx_type])


def onnx_type(kind: Any) -> int:
    """DataType → ONNX element type."""
    return {name: number for number, name in _TYPES.items()}[kind.name]


class Tensor(Part):
    """ITensor: a name, an ONNX element type and sizes (-1 where dynamic); sizes None are asked of the network when wanted."""

    strict_class = "ITensor"
    is_shape_tensor, is_execution_tensor, location = False, True, real.TensorLocation.DEVICE

    def __init__(self, network: Network, name: str, elem_type: int, sizes: list[int] | None) -> None:
        self.network, self.name, self.elem_type, self.sizes = network, name, elem_type, sizes
        self.allowed_formats = 1

    @property
    def dtype(self) -> Any:
        return data_type(self.elem_type)

    @property
    def shape(self) -> Any:
        if self.sizes is None:
            self.network.infer()
        return real.Dims(self.sizes if self.sizes is not None else [])

    @property
    def is_network_input(self) -> bool:
        return self in self.network.inputs

    @property
    def is_network_output(self) -> bool:
        return self in self.network.outputs


class Layer(Part):
    """ILayer: `emit(layer)` gives its ONNX nodes with the names that its tensors have by then."""

    def __init__(self, kind: str, name: str, inputs: list[Tensor], emit: Callable[[Layer], list[NodeProto]],
                 metadata: str = "") -> None:
        self.kind, self.name, self.inputs, self.outputs = kind, name, inputs, list[Tensor]()
        self.emit, self.metadata, self.strict_class = emit, metadata, "ILayer"

    type = property(lambda self: getattr(real.LayerType, self.kind))
    num_inputs = property(lambda self: len(self.inputs))
    num_outputs = property(lambda self: len(self.outputs))

    def castable(self, wanted: type) -> bool:
        """Whether `layer.__class__ = wanted` says what the layer is."""
        return wanted.__name__ in ("ILayer", LAYER_CLASSES.get(self.kind))

    def get_input(self, index: int) -> Any:
        return self.inputs[index].double if 0 <= index < len(self.inputs) else None

    def get_output(self, index: int) -> Any:
        return self.outputs[index].double if 0 <= index < len(self.outputs) else None

    def set_input(self, index: int, tensor: Any) -> None:
        if not 0 <= index < len(self.inputs):
            raise NotImplementedError(f"the double cannot add input {index} to layer '{self.name}'")
        self.inputs[index] = part(tensor)

    def get_output_type(self, index: int) -> Any:
        return self.outputs[index].dtype


class Shuffle(Layer):
    """IShuffleLayer made by add_shuffle: first transpose, reshape, second transpose."""

    def __init__(self, name: str, tensor: Tensor) -> None:
        super().__init__("SHUFFLE", name, [tensor], lambda layer: layer.nodes())
        self.strict_class, self.zero_is_placeholder = "IShuffleLayer", True
        self.first_transpose = self.second_transpose = self.reshape_dims = None

    def nodes(self) -> list[NodeProto]:
        """Transpose, Reshape, Transpose: those that were asked for. A Permutation is 8 long whatever the rank."""
        network, value, made = self.outputs[0].network, self.inputs[0].name, []
        steps: list[tuple[str, list[int] | None]] = [
            ("Transpose", self.first_transpose), ("Reshape", self.reshape_dims), ("Transpose", self.second_transpose)]
        before = len(self.inputs[0].shape)
        after = before if self.reshape_dims is None else len(self.reshape_dims)
        wanted = [(op, [int(v) for v in values][:rank])
                  for (op, values), rank in zip(steps, (before, after, after), strict=True) if values is not None]
        for i, (op, values) in enumerate(wanted or [("Identity", [])]):
            out = self.outputs[0].name if i == max(len(wanted) - 1, 0) else f"{self.name}/{i}"
            if op == "Reshape":
                shape = network.constant(f"{self.name}/shape", np.array(values, np.int64))
                node = helper.make_node(op, [value, shape], [out], allowzero=int(not self.zero_is_placeholder))
            else:
                node = helper.make_node(op, [value], [out], **({"perm": values} if op == "Transpose" else {}))
            value = out
            made.append(node)
        return made


class Attention(Part):
    """IAttention: two layers of the network (ATTENTION_INPUT, ATTENTION_OUTPUT) behind one object."""

    strict_class = "IAttention"
    num_outputs, num_ranks, normalization_quantize_scale = 1, 1, None

    def __init__(self, network: Network, inputs: list[Tensor], norm_op: Any, causal: bool) -> None:
        self.network, self.norm_op, self.causal, self.decomposable = network, norm_op, causal, False
        self._mask: Any = None
        name = f"(Unnamed Layer* {len(network.layers)}) [Attention]"
        self.front = Layer("ATTENTION_INPUT", name + "_input", inputs, lambda layer: [])
        self.back = Layer("ATTENTION_OUTPUT", name, [], lambda layer: self.nodes())
        self.back.outputs = [Tensor(network, f"{name}_output", inputs[0].elem_type, list(inputs[0].shape))]

    name = property(lambda self: self.back.name, lambda self, value: setattr(self.back, "name", value))
    metadata = property(lambda self: self.back.metadata, lambda self, value: setattr(self.back, "metadata", value))
    mask = property(lambda self: self._mask, lambda self, value: setattr(self, "_mask", value))
    num_inputs = property(lambda self: len(self.front.inputs))

    def get_input(self, index: int) -> Any:
        return self.front.get_input(index)

    def get_output(self, index: int) -> Any:
        return self.back.get_output(index)

    def set_input(self, index: int, tensor: Any) -> bool:
        self.front.set_input(index, tensor)
        return True

    def nodes(self) -> list[NodeProto]:
        """Q·Kᵀ (no scale: the caller's business), mask, softmax, ·V."""
        if self.causal or self.norm_op != real.AttentionNormalizationOp.SOFTMAX or self.normalization_quantize_scale is not None:
            raise NotImplementedError("the double of IAttention knows softmax without causal mask and quantisation")
        q, k, v = (tensor.name for tensor in self.front.inputs)
        own = [f"{self.name}/{step}" for step in ("kt", "scores", "masked", "shares")]
        made = [helper.make_node("Transpose", [k], [own[0]], perm=[0, 1, 3, 2]), helper.make_node("MatMul", [q, own[0]], [own[1]])]
        if self._mask is not None:
            made.append(helper.make_node("Add", [own[1], part(self._mask).name], [own[2]]))
        made += [helper.make_node("Softmax", [own[2 if self._mask is not None else 1]], [own[3]], axis=-1),
                 helper.make_node("MatMul", [own[3], v], [self.back.outputs[0].name])]
        for node, step in zip(made, ("kt", "scores", "masked", "shares") if self._mask is not None else ("kt", "scores", "shares"),
                              strict=False):
            node.name = f"{self.name}/{step}"
        made[-1].name = self.name
        return made


def sizes(value: onnx.ValueInfoProto) -> list[int] | None:
    """Sizes of a value, -1 where dynamic; None where even the rank is unknown."""
    kind = value.type.tensor_type
    return [d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim] if kind.HasField("shape") else None
