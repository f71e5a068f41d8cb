"""A small writer of ONNX graphs: named nodes and values, shared constants, the same bytes for the same input every time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from edgedit import __version__
from edgedit.export.int8 import quantise_weight

MICROSOFT = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""
_IR_VERSIONS = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}
"""The oldest IR version that carries each opset, so that older runtimes still read the file."""

Dim = int | str | None
Shape = Sequence[Dim]


class Graph:
    """Collects nodes and constants; `model` makes the ModelProto.

    A value is its name. A node's first output has the node's name, which is its scope and label: "block0/attention/softmax".

    Args:
        opset: version of the ONNX default domain.
        scales: INT8 scale of each site (`site`) that is quantised; none by default.
        scale_type: float type of the values there, which is the type of the scales too (opset 20 has one for both).

    Attributes:
        sites: value at every place where a Q/DQ pair may stand, by the site's name.
    """

    def __init__(self, opset: int, scales: Mapping[str, float] | None = None, scale_type: type[np.floating] = np.float16) -> None:
        self.opset, self.scale_type = opset, scale_type
        self.scales = dict(scales or {})
        self.sites: dict[str, str] = {}
        self._scope: list[str] = []
        self._nodes: list[NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], TensorProto] = {}
        self._inputs: list[ValueInfoProto] = []
        self._outputs: list[ValueInfoProto] = []
        self._declared: list[ValueInfoProto] = []
        self._names: set[str] = set()

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Prefix the names of everything made inside with `name/`."""
        self._scope.append(name)
        try:
            yield
        finally:
            self._scope.pop()

    @contextmanager
    def at_top(self) -> Iterator[None]:
        """Leave all scopes for a while: graph outputs have plain names."""
        scope, self._scope = self._scope, []
        try:
            yield
        finally:
            self._scope = scope

    def input(self, name: str, dtype: type[np.generic], shape: Shape) -> str:
        """Declare a graph input."""
        self._inputs.append(_value(name, dtype, shape))
        return self._take(name)

    def output(self, value: str, dtype: type[np.generic], shape: Shape) -> None:
        """Declare a value as graph output."""
        self._outputs.append(_value(value, dtype, shape))

    def declare(self, value: str, dtype: type[np.generic], shape: Shape) -> str:
        """State type and shape of a value where shape inference cannot know it (operators of other domains)."""
        self._declared.append(_value(value, dtype, shape))
        return value

    def constant(self, array: NDArray[Any], label: str) -> str:
        """An initializer; equal arrays are stored once, under the first label."""
        array = np.ascontiguousarray(array)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(array, self._take(self._full(label)))
        return self._constants[key].name

    def whole(self, values: Sequence[int], label: str) -> str:
        """An int64 list, as shapes and axes are given."""
        return self.constant(np.asarray(values, np.int64), label)

    def quantised(self, site: str) -> bool:
        """Whether a site of the current scope is quantised."""
        return self._full(site) in self.scales

    def site(self, value: str, label: str) -> str:
        """A place where INT8 may stand: `value` itself, or its copy through Q/DQ where `scales` names the site."""
        self.sites[self._full(label)] = value
        if not self.quantised(label):
            return value
        return self.through_int8(value, self.scales[self._full(label)], f"{label}/int8")

    def through_int8(self, value: str, scale: float, label: str) -> str:
        """QuantizeLinear, DequantizeLinear, both with one FP16 or FP32 scale per tensor and zero point 0."""
        inputs = self.constant(np.asarray(scale, self.scale_type), f"{label}/scale"), self.constant(np.int8(0), f"{label}/zero")
        return self.op("DequantizeLinear", self.op("QuantizeLinear", value, *inputs, label=f"{label}/q"), *inputs, label=label)

    def weight(self, array: NDArray[Any], label: str, *, int8: bool) -> str:
        """A weight matrix (inputs, outputs); as INT8 with one scale per output and a DequantizeLinear behind it where `int8`."""
        if not int8:
            return self.constant(array, label)
        whole, scale = quantise_weight(array)
        inputs = (self.constant(whole, f"{label}/int8"), self.constant(scale, f"{label}/scale"),
                  self.constant(np.zeros(scale.shape, np.int8), f"{label}/zero"))
        return self.op("DequantizeLinear", *inputs, label=label, axis=1)

    def op(self, kind: str, *inputs: str, label: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output; returns the output."""
        return self.ops(kind, *inputs, label=label, domain=domain, outputs=1, **attributes)[0]

    def ops(self, kind: str, *inputs: str, label: str, outputs: int, domain: str = "", **attributes: Any) -> tuple[str, ...]:
        """Add a node with several outputs; returns them."""
        name = self._take(self._full(label))
        values = (name, *(self._take(f"{name}:{i}") for i in range(1, outputs)))
        node = NodeProto(op_type=kind, name=name, input=inputs, output=values, domain=domain)
        node.attribute.extend(_attribute(key, attributes[key]) for key in sorted(attributes))
        self._nodes.append(node)
        return values

    def model(self, metadata: dict[str, str]) -> ModelProto:
        """The whole model. `metadata` goes into its metadata properties."""
        graph = helper.make_graph(self._nodes, "edgedit", self._inputs, self._outputs, list(self._constants.values()),
                                  value_info=self._declared)
        domains = sorted({node.domain for node in self._nodes} - {""})
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
        model = helper.make_model(graph, producer_name="edgedit", producer_version=__version__, opset_imports=opsets,
                                  ir_version=_IR_VERSIONS.get(self.opset, max(_IR_VERSIONS.values())))
        helper.set_model_props(model, dict(sorted(metadata.items())))
        return model

    def _full(self, label: str) -> str:
        return "/".join((*self._scope, label))

    def _take(self, name: str) -> str:
        if name in self._names:
            raise ValueError(f"two values of one graph are called '{name}'")
        self._names.add(name)
        return name


def _value(name: str, dtype: type[np.generic], shape: Shape) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)


def _attribute(key: str, value: Any) -> AttributeProto:
    if isinstance(value, np.ndarray):
        return helper.make_attribute(key, numpy_helper.from_array(value))
    return helper.make_attribute(key, value)
