"""A read-only look at any ONNX graph: who makes a value, who takes it, its type and shape."""

from __future__ import annotations

from typing import Any

import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper


class View:
    """A graph with its types, shapes, producers and consumers at hand.

    Attributes:
        model: the graph as it was given.
        nodes: in order.
        maker: node that makes a value; graph inputs and constants have none.
        users: nodes that take a value.
        constants: initializers by name.
    """

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        self.nodes = list(graph.node)
        self.maker = {output: node for node in graph.node for output in node.output}
        self.users: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)
        self.constants = {t.name: t for t in graph.initializer}
        self._types = {v.name: v.type.tensor_type for v in (*graph.input, *graph.value_info, *graph.output)}

    def kind(self, value: str) -> int:
        """ONNX element type, 0 when unknown."""
        return self._types[value].elem_type if value in self._types else 0

    def shape(self, value: str) -> list[int | None] | None:
        """Sizes, None where symbolic; None when the rank is unknown."""
        if value not in self._types or not self._types[value].HasField("shape"):
            return None
        return [d.dim_value if d.HasField("dim_value") else None for d in self._types[value].shape.dim]

    def array(self, value: str) -> NDArray[Any] | None:
        """What a constant holds (an initializer, or the output of a Constant node); None for anything computed."""
        if value in self.constants:
            return numpy_helper.to_array(self.constants[value])
        node = self.maker.get(value)
        if node is None or node.op_type != "Constant":
            return None
        return next((numpy_helper.to_array(a.t) for a in node.attribute if a.name == "value"), None)
