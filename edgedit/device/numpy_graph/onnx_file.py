"""An ONNX file read without the onnx package: nodes, constants, inputs, outputs; everything else of the format is refused or passed over.

Field numbers are those of onnx/onnx.proto (IR version 3 to 13).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedit.core.errors import ArtifactError
from edgedit.device.numpy_graph.tensor import element_type, read_tensor
from edgedit.device.numpy_graph.wire import DamagedError, Message

FIX = "export the student again: edgedit export STUDENT --out FOLDER"
MOST_BYTES = (1 << 31) - 1
"""Protobuf's own limit of a message."""
_FLOAT, _INT, _TEXT, _TENSOR, _FLOATS, _INTS, _TEXTS = 1, 2, 3, 4, 6, 7, 8


@dataclass(frozen=True)
class Node:
    """One operator. An input or output that is left out is "".

    Attributes:
        kind: "MatMul".
        domain: "" of ONNX itself, "com.microsoft".
        attributes: int, float, str, an array, or a list of the first three, by name.
    """

    kind: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Value:
    """An input or output of the graph; None in `shape` is a dimension that the file leaves open."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Model:
    """A graph whose nodes stand in an order in which they can run, every name made once.

    Attributes:
        opsets: version by domain.
        constants: read-only arrays by name.
        inputs: without those that are constants.
    """

    opsets: Mapping[str, int]
    nodes: tuple[Node, ...]
    constants: Mapping[str, NDArray[Any]]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def read_model(path: Path) -> Model:
    """Read a file. ArtifactError when it cannot be read or is not a whole ONNX model of plain operators."""
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise ArtifactError(f"{path} is too large for an ONNX file", saw=f"{size:,} bytes", fix=FIX)
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read", saw=error.strerror, fix=FIX) from error
    return parse_model(data, str(path))


def parse_model(data: bytes, where: str = "the ONNX file") -> Model:
    """The model in `data`. ArtifactError for anything else; no other exception, and no memory beyond a multiple of the file's.

    Args:
        where: the file's name, for errors.
    """
    try:
        return _model(Message(memoryview(data), "ModelProto"))
    except DamagedError as error:
        raise ArtifactError(f"{where} is not an ONNX file that edgedit can read", saw=error, fix=FIX) from error


def _model(message: Message) -> Model:
    graphs = message.messages(7, "GraphProto")
    if len(graphs) != 1:
        raise DamagedError(f"{len(graphs)} graphs where there should be one")
    if 25 in message:
        raise DamagedError("the model has functions of its own")
    opsets = {_domain(m.text(1)): m.whole(2) for m in message.messages(8, "OperatorSetIdProto")}
    if not opsets:
        raise DamagedError("no operator set is named")
    graph = graphs[0]
    if 15 in graph:
        raise DamagedError("the graph has sparse constants")
    constants: dict[str, NDArray[Any]] = {}
    for name, array in map(read_tensor, graph.messages(5, "TensorProto")):
        if not name or name in constants:
            raise DamagedError(f"two constants are called '{name}'" if name else "a constant has no name")
        array.flags.writeable = False
        constants[name] = array
    inputs = tuple(v for v in map(_value, graph.messages(11, "ValueInfoProto")) if v.name not in constants)
    model = Model(opsets, tuple(map(_node, graph.messages(1, "NodeProto"))), constants, inputs,
                  tuple(map(_value, graph.messages(12, "ValueInfoProto"))))
    _check_names(model)
    return model


def _domain(name: str) -> str:
    return "" if name == "ai.onnx" else name


def _node(message: Message) -> Node:
    kind, name = message.text(4), message.text(3)
    attributes = {}
    for part in message.messages(5, "AttributeProto"):
        key = part.text(1)
        if not key or key in attributes:
            raise DamagedError(f"node '{name}' ({kind}) has the attribute '{key}' twice" if key else f"node '{name}': a nameless attribute")
        attributes[key] = _attribute(part, f"attribute '{key}' of node '{name}' ({kind})")
    return Node(kind, _domain(message.text(7)), name, tuple(message.texts(1)), tuple(message.texts(2)), attributes)


def _attribute(message: Message, what: str) -> Any:
    kind = message.whole(20)
    if kind == _INT:
        return message.whole(3)
    if kind == _FLOAT:
        values = message.floats(2)
        return float(values[-1]) if len(values) else 0.0
    if kind == _TEXT:
        return message.text(4)
    if kind == _INTS:
        return message.wholes(8).tolist()
    if kind == _FLOATS:
        return message.floats(7).tolist()
    if kind == _TEXTS:
        return message.texts(9)
    if kind == _TENSOR:
        tensors = message.messages(5, "TensorProto")
        if len(tensors) != 1:
            raise DamagedError(f"{what} is a tensor and holds {len(tensors)}")
        return read_tensor(tensors[0])[1]
    raise DamagedError(f"{what} is of type {kind}, which is not read")


def _value(message: Message) -> Value:
    name = message.text(1)
    what = f"input or output '{name}'"
    types = message.messages(2, "TypeProto")
    tensors = types[-1].messages(1, "TypeProto.Tensor") if types else []
    if not name or not tensors:
        raise DamagedError(f"{what} is no tensor")
    shapes = tensors[-1].messages(2, "TensorShapeProto")
    if not shapes:
        raise DamagedError(f"{what} has no shape")
    dims = tuple(dim.whole(1) if 1 in dim else None for dim in shapes[-1].messages(1, "Dimension"))
    if any(dim is not None and dim < 0 for dim in dims):
        raise DamagedError(f"{what} has the shape {dims}")
    return Value(name, element_type(tensors[-1].whole(1), what), dims)


def _check_names(model: Model) -> None:
    """Every name is made once, and before it is used."""
    made = set(model.constants)
    for name in (v.name for v in model.inputs):
        if name in made:
            raise DamagedError(f"two values are called '{name}'")
        made.add(name)
    for node in model.nodes:
        if missing := [name for name in node.inputs if name and name not in made]:
            raise DamagedError(f"node '{node.name}' ({node.kind}) uses '{missing[0]}', which nothing before it makes")
        for name in filter(None, node.outputs):
            if name in made:
                raise DamagedError(f"two values are called '{name}'")
            made.add(name)
    if missing := [v.name for v in model.outputs if v.name not in made]:
        raise DamagedError(f"the output '{missing[0]}' is made by nothing")
