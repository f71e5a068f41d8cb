"""Networks that can be walked and rewired as TensorRT's, and turned back into ONNX."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tensorrt_double.layers import Attention, Layer, Shuffle, Tensor, onnx_type, sizes
from tensorrt_double.strict import Part, part
from tensorrt_double.world import VERSION, real


class Network(Part):
    """INetworkDefinition."""

    strict_class = "INetworkDefinition"

    def __init__(self, builder: Any, flags: int) -> None:
        self.builder_part, self.flags, self.name = builder, flags, "Unnamed Network 0"
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.layers: list[Layer] = []
        self.attentions: list[Attention] = []
        self.constants: dict[str, TensorProto] = {}
        self.opsets = [helper.make_opsetid("", 17)]
        self.ir_version = 8

    builder = property(lambda self: self.builder_part.double)
    num_inputs = property(lambda self: len(self.inputs))
    num_outputs = property(lambda self: len(self.outputs))
    num_layers = property(lambda self: len(self.layers))

    @property
    def strongly_typed(self) -> bool:
        """TensorRT 11 knows nothing else."""
        return VERSION >= (11,) or bool(self.flags >> int(real.NetworkDefinitionCreationFlag.STRONGLY_TYPED) & 1)

    def get_flag(self, flag: Any) -> bool:
        return bool(self.flags >> int(flag) & 1)

    def get_input(self, index: int) -> Any:
        return self.inputs[index].double if 0 <= index < len(self.inputs) else None

    def get_output(self, index: int) -> Any:
        return self.outputs[index].double if 0 <= index < len(self.outputs) else None

    def get_layer(self, index: int) -> Any:
        return self.layers[index].double if 0 <= index < len(self.layers) else None

    def add_input(self, name: str, dtype: Any, shape: Any) -> Any:
        self.inputs.append(Tensor(self, name, onnx_type(dtype), [int(size) for size in shape]))
        return self.inputs[-1].double

    def mark_output(self, tensor: Any) -> None:
        self.outputs.append(part(tensor))

    def unmark_output(self, tensor: Any) -> None:
        self.outputs.remove(part(tensor))

    def add_shuffle(self, input: Any) -> Any:
        return self.append(Shuffle(f"(Unnamed Layer* {len(self.layers)}) [Shuffle]", part(input)), part(input).elem_type)

    def add_cast(self, input: Any, to_type: Any) -> Any:
        layer = Layer("CAST", f"(Unnamed Layer* {len(self.layers)}) [Cast]", [part(input)], lambda layer: [
            helper.make_node("Cast", [layer.inputs[0].name], [layer.outputs[0].name], to=onnx_type(to_type))])
        layer.strict_class, layer.to_type = "ICastLayer", to_type
        return self.append(layer, onnx_type(to_type))

    def add_identity(self, input: Any) -> Any:
        layer = Layer("IDENTITY", f"(Unnamed Layer* {len(self.layers)}) [Identity]", [part(input)], lambda layer: [
            helper.make_node("Identity", [layer.inputs[0].name], [layer.outputs[0].name])])
        layer.strict_class = "IIdentityLayer"
        return self.append(layer, part(input).elem_type)

    def append(self, layer: Layer, elem_type: int) -> Any:
        """A layer with one output of this type."""
        layer.outputs = [Tensor(self, f"{layer.name}_output", elem_type, None)]
        self.layers.append(layer)
        return layer.double

    def add_attention(self, query: Any, key: Any, value: Any, norm_op: Any, causal: bool) -> Any:
        attention = Attention(self, [part(tensor) for tensor in (query, key, value)], norm_op, bool(causal))
        self.layers += [attention.front, attention.back]
        self.attentions.append(attention)
        return attention.double

    def add_attention_v2(self, query: Any, key: Any, value: Any, norm_op: Any, causal_kind: Any) -> Any:
        return self.add_attention(query, key, value, norm_op, causal_kind != real.CausalMaskKind.NONE)

    def constant(self, name: str, array: Any) -> str:
        """Keep a weight under a name; the name."""
        self.constants[name] = numpy_helper.from_array(np.asarray(array), name)
        return name

    # --- back to ONNX -------------------------------------------------------------------------------------------------------

    def to_onnx(self, outputs: Iterable[Tensor] | None = None) -> onnx.ModelProto:
        """The network as it is now: sorted, without layers that nothing needs. Nodes carry their layer's metadata as doc_string."""
        outputs = list(self.outputs if outputs is None else outputs)
        maker: dict[str, tuple[Layer, list[NodeProto]]] = {}
        for layer in self.layers:
            nodes = layer.emit(layer)
            for node in nodes:
                node.name = node.name or layer.name
                node.doc_string = layer.metadata or f"[{layer.kind}] {layer.name}"
                for output in node.output:
                    maker[output] = layer, nodes
        ordered: list[NodeProto] = []
        seen: set[int] = set()
        stack = [(output.name, False) for output in reversed(outputs)]
        while stack:
            value, ready = stack.pop()
            if value not in maker:
                continue
            layer, nodes = maker[value]
            if ready:
                if id(nodes) not in seen:
                    seen.add(id(nodes))
                    ordered += nodes
            elif id(nodes) not in seen:
                stack.append((value, True))
                inside = {output for node in nodes for output in node.output}
                stack += [(name, False) for node in nodes for name in node.input if name and name not in inside]
        used = {name for node in ordered for name in node.input}
        body = helper.make_graph(ordered, "network", [_info(t) for t in self.inputs], [_info(t) for t in outputs],
                                 [weight for name, weight in self.constants.items() if name in used])
        return helper.make_model(body, opset_imports=self.opsets, ir_version=self.ir_version)

    def infer(self) -> None:
        """Fill in the sizes of tensors that added layers made."""
        missing = [t for layer in self.layers for t in layer.outputs if t.sizes is None]
        graph = onnx.shape_inference.infer_shapes(self.to_onnx([*self.outputs, *missing]), data_prop=True).graph
        known = {value.name: sizes(value) for value in (*graph.value_info, *graph.output)}
        for tensor in missing:
            tensor.sizes = known.get(tensor.name)


def _info(tensor: Tensor) -> onnx.ValueInfoProto:
    shape = None if tensor.sizes is None else [
        (f"{tensor.name}_{i}" if i else "batch") if size < 0 else size for i, size in enumerate(tensor.sizes)]
    return helper.make_tensor_value_info(tensor.name, tensor.elem_type, shape)
