"""OnnxParser: a serialized model becomes layers; what the real parser of the version cannot read is refused with its errors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import NodeProto, numpy_helper

from tensorrt_double.graph import Network
from tensorrt_double.reader import NEEDS, OPERATORS, read
from tensorrt_double.strict import Part, part
from tensorrt_double.world import ERROR, INFO, VERSION, log, real


@dataclass
class Error(Part):
    """ParserError."""

    code_name: str
    text: str
    index: int = -1
    name: str = ""
    operator: str = ""
    strict_class = "ParserError"

    def code(self) -> Any:
        return getattr(real.ErrorCode, self.code_name)

    def desc(self) -> str:
        return self.text

    def node(self) -> int:
        return self.index

    def node_name(self) -> str:
        return self.name

    def node_operator(self) -> str:
        return self.operator

    def file(self) -> str:
        return "ModelImporter.cpp"

    def func(self) -> str:
        return "parseNode"

    def line(self) -> int:
        return 1

    def local_function_stack(self) -> list[str]:
        return []

    def local_function_stack_size(self) -> int:
        return 0

    def __str__(self) -> str:
        return f"In node {self.index} with name: {self.name} and operator: {self.operator} (parseNode): {self.code_name}: {self.text}"

    __repr__ = __str__


class Parser(Part):
    """OnnxParser: one model into one network."""

    strict_class = "OnnxParser"

    def __init__(self, network: Any, logger: Any) -> None:
        self.network: Network = part(network)
        self.logger, self.errors, self.flags = logger, list[Error](), 0

    num_errors = property(lambda self: len(self.errors))

    def get_error(self, index: int) -> Any:
        return self.errors[index].double

    def clear_errors(self) -> None:
        self.errors.clear()

    def set_flag(self, flag: Any) -> None:
        self.flags |= 1 << int(flag)

    def clear_flag(self, flag: Any) -> None:
        self.flags &= ~(1 << int(flag))

    def get_flag(self, flag: Any) -> bool:
        return bool(self.flags >> int(flag) & 1)

    def supports_operator(self, op_name: str) -> bool:
        return op_name in OPERATORS or NEEDS.get(op_name, (99,)) <= VERSION

    def set_builder_config(self, builder_config: Any) -> bool:
        return True

    def parse_from_file(self, model: str) -> bool:
        try:
            data = Path(model).read_bytes()
        except OSError:
            return self._refuse(Error("MODEL_DESERIALIZE_FAILED", f"Failed to open file: {model}"))
        return self.parse(data, model)

    def parse(self, model: Any, path: str | None = None) -> bool:
        try:
            proto = onnx.load_from_string(bytes(memoryview(model)))
            if path and any(t.data_location == onnx.TensorProto.EXTERNAL for t in proto.graph.initializer):
                onnx.load_external_data_for_model(proto, str(Path(path).parent))
        except Exception:
            return self._refuse(Error("MODEL_DESERIALIZE_FAILED", "Failed to parse the ONNX model."))
        if not proto.graph.node:
            return self._refuse(Error("INVALID_GRAPH", "The graph has no nodes."))
        for index, node in enumerate(proto.graph.node):
            self._judge(index, node, proto)
        if self.errors:
            return False
        read(proto, self.network)
        log(self.logger, INFO, f"Finished parsing network model: {len(self.network.layers)} layers")
        return True

    def _judge(self, index: int, node: NodeProto, proto: onnx.ModelProto) -> None:
        known = node.domain in ("", "ai.onnx") and self.supports_operator(node.op_type)
        if not known:
            self._refuse(Error("UNSUPPORTED_NODE", "Assertion failed: creator: Plugin not found, are the plugin name, version, and "
                               "namespace correct?", index, node.name, node.op_type))
        elif node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2 and node.input[2]:
            zero = next((t for t in proto.graph.initializer if t.name == node.input[2]), None)
            if zero is not None and numpy_helper.to_array(zero).any():
                self._refuse(Error("UNSUPPORTED_NODE", "Assertion failed: shiftIsAllZeros(zeroPoint): TensorRT only supports symmetric "
                                   f"quantization. The zero point for the {node.op_type} operator must be all zeros.", index, node.name,
                                   node.op_type))

    def _refuse(self, error: Error) -> bool:
        self.errors.append(error)
        log(self.logger, ERROR, str(error))
        return False
