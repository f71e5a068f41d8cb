"""From a node of the file to a function of arrays: attributes taken by name and type, everything unknown refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgedit.core.errors import ArtifactError
from edgedit.device.numpy_graph.onnx_file import Node

FIX = "pip install 'edgedit[cpu]', then --runtime ort"
Array = NDArray[Any]
Kernel = Callable[[Sequence[Any], bool], tuple[Array, ...]]
"""(inputs, spare) → outputs. An input that is left out is None. `spare`: the first input is not used again and may be overwritten."""
T = TypeVar("T")


def unsupported(node: Node, what: str) -> ArtifactError:
    """The error of a node that NumPy does not run."""
    kind = f"{node.domain}.{node.kind}" if node.domain else node.kind
    return ArtifactError(f"the numpy runtime does not run {kind} {what}".rstrip(), saw=f"node '{node.name}'", fix=FIX)


class Attributes:
    """A node's attributes, each taken once; `finish` refuses what nobody took."""

    def __init__(self, node: Node, opset: int) -> None:
        self.node, self.opset = node, opset
        self._left = dict(node.attributes)

    def take(self, name: str, default: T) -> T:
        """The attribute or `default`, whose type it must have."""
        if name not in self._left:
            return default
        value = self._left.pop(name)
        if not isinstance(value, type(default)):
            raise unsupported(self.node, f"with {name} = {value!r}")
        return value

    def only(self, name: str, *allowed: Any) -> None:
        """Take an attribute that may be absent or one of `allowed`."""
        value = self._left.pop(name, allowed[0])
        if not isinstance(value, (int, float, str)) or value not in allowed:
            raise unsupported(self.node, f"with {name} = {value!r}")

    def finish(self) -> None:
        """ArtifactError where an attribute is left."""
        for name, value in self._left.items():
            raise unsupported(self.node, f"with {name} = {value!r}")


@dataclass(frozen=True)
class Operator:
    """How one kind of node becomes a kernel.

    Attributes:
        make: takes the attributes, returns the kernel.
        least, most: inputs; those after `least` may be left out.
        view: whether outputs may share memory with the first input.
        many: whether it has more than one output.
    """

    make: Callable[[Attributes], Kernel]
    least: int
    most: int
    view: bool = False
    many: bool = False


def bind(operator: Operator | None, node: Node, opset: int) -> Kernel:
    """The kernel of a node. ArtifactError where operator, attribute or number of inputs is not known."""
    if operator is None:
        raise unsupported(node, "")
    given = [i for i, name in enumerate(node.inputs) if name]
    if given[: operator.least] != list(range(operator.least)) or max(given, default=-1) >= operator.most:
        raise unsupported(node, f"with the inputs {', '.join(name or '-' for name in node.inputs)}")
    if not node.outputs or not all(node.outputs) or (len(node.outputs) > 1 and not operator.many):
        raise unsupported(node, f"with the outputs {', '.join(name or '-' for name in node.outputs)}")
    attributes = Attributes(node, opset)
    kernel = operator.make(attributes)
    attributes.finish()
    return kernel


def padded(inputs: Sequence[Any], count: int) -> list[Any]:
    """Inputs with None for those that are left out at the end."""
    return [*inputs, *[None] * (count - len(inputs))]


def wide(array: Array) -> Array:
    """FP16 as float32, for arithmetic; other types as they are."""
    return array.astype(np.float32) if array.dtype == np.float16 else array


def narrow(array: Array, dtype: np.dtype[Any]) -> Array:
    """`array` rounded to `dtype`; beyond FP16's range that is infinity, as in other runtimes."""
    return array if array.dtype == dtype else array.astype(dtype)


def same_type(*arrays: Array) -> None:
    """ValueError unless all are of one type: ONNX converts nothing by itself."""
    if len({array.dtype for array in arrays}) > 1:
        raise ValueError(f"inputs of different types: {', '.join(str(array.dtype) for array in arrays)}")


def own(array: Array, spare: bool) -> Array:
    """A contiguous float32 array that may be overwritten: `array` itself where it is spare, else a copy."""
    if spare and array.dtype == np.float32 and array.flags.c_contiguous and array.flags.writeable:
        return array
    return np.array(array, np.float32, order="C")
