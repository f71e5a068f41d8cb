"""Did attention end in one kernel? Read from the engine inspector's report, block by block.

TensorRT names in each layer's "Metadata" the ONNX nodes that it came from ("[ONNX Layer: name]", several of them one after
another, with or without control characters between; TensorRT issue #4397 shows such a report). A block is fused when one kernel
holds its scores, its softmax and its values. The kernels have `_gemm_mha_v2` or `_gemv_mha_v1` in their names, fused multi-head
attention of other kinds `fmha` or `kgen_mha`. "scaled_dot_product_attention" is no such sign: unfused layers carry it too, when
the exporter named its nodes so (TensorRT issue #3665).

TensorRT 10 lists "Layers" and "Bindings", TensorRT 11 "Layers" and "I/O Tensors"; with less than detailed verbosity a layer is
a plain string. Nothing here raises on a report: what cannot be read is "unknown".
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

KERNELS = ("_mha", "mha_v", "fmha", "kgen_mha", "multihead_attention")
PARTS = ("scores", "softmax", "values")
"""Last parts of the node names that `edgedit export --attention pattern` gives; `--attention onnx` writes one, "attention"."""
OPERATOR = "attention"
_ONNX = re.compile(r"\[ONNX Layer: ([^\]\x1e\x1f]+)\]")
_NAME = re.compile(r"[\w./:-]+")


@dataclass(frozen=True)
class Layer:
    """One layer of an engine: its name, type, kernel, and the ONNX nodes that it came from."""

    name: str
    kind: str = ""
    tactic: str = ""
    nodes: tuple[str, ...] = ()

    @property
    def is_attention_kernel(self) -> bool:
        """Whether its name or kernel says fused multi-head attention."""
        text = f"{self.name} {self.tactic}".lower()
        return any(token in text for token in KERNELS)

    @property
    def kernel(self) -> str:
        """What ran: the tactic where it is told."""
        return self.tactic or self.name


@dataclass(frozen=True)
class Block:
    """The attention of one block: fused (None is unknown), by which kernels, and why not."""

    block: str
    fused: bool | None
    kernels: tuple[str, ...] = ()
    why: str = ""
    expected: bool | None = None
    """Whether the bundle met every condition for fusion when it was exported."""


@dataclass(frozen=True)
class Proof:
    """The verdict on an engine."""

    tensorrt: str
    precision: str
    blocks: tuple[Block, ...]

    @property
    def fused(self) -> int:
        return sum(block.fused is True for block in self.blocks)

    @property
    def unknown(self) -> int:
        return sum(block.fused is None for block in self.blocks)

    @property
    def missed(self) -> list[Block]:
        """Blocks that should have fused by the bundle's own checks, and did not or cannot be told."""
        return [block for block in self.blocks if block.fused is not True and block.expected is True]

    def summary(self) -> str:
        """ "5 of 5 attention blocks fused"."""
        text = f"{self.fused} of {len(self.blocks)} attention blocks fused"
        return text + (f", {self.unknown} unknown" if self.unknown else "")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "fused": self.fused, "unknown": self.unknown, "summary": self.summary()}


def read_layers(report: str | bytes) -> tuple[Layer, ...] | None:
    """The layers of an inspector report; None when it is not one."""
    try:
        body = json.loads(report)
    except (ValueError, RecursionError):
        return None
    found = body.get("Layers") if isinstance(body, dict) else body
    if not isinstance(found, list):
        return None
    return tuple(layer for item in found if (layer := _layer(item)) is not None)


def judge(layers: Iterable[Layer] | None, checks: object, *, precision: str, tensorrt: str) -> Proof:
    """Say for every block whether its attention is one kernel.

    Args:
        layers: of the engine, None when the report could not be read.
        checks: the `fusion` section of the bundle's checks.json (`edgedit.export.fusion.BlockFusion.to_dict`); without it the
            blocks are those that the layers name.
        precision: of the bundle.
        tensorrt: version that built the engine.
    """
    known = {str(entry["block"]): entry for entry in checks if isinstance(entry, dict) and "block" in entry} \
        if isinstance(checks, list) else {}
    layers = tuple(layers) if layers is not None else None
    names = list(known) or _blocks_named(layers or ())
    return Proof(tensorrt, precision, tuple(_judge(name, known.get(name), layers, precision, tensorrt) for name in names))


def _judge(name: str, check: Mapping[str, Any] | None, layers: tuple[Layer, ...] | None, precision: str, tensorrt: str) -> Block:
    expected = bool(check["fuses"]) if check is not None and "fuses" in check else None
    if layers is None:
        return Block(name, None, (), "the inspector's report cannot be read", expected)
    holders = {part: [layer for layer in layers if _holds(layer, name, part)] for part in (*PARTS, OPERATOR)}
    all_holders = [layer for layer in layers if any(layer in found for found in holders.values())]
    if not all_holders:
        return Block(name, None, (), "the inspector names no layer of it", expected)
    kernels = tuple(layer.kernel for layer in all_holders)
    opaque = next((layer for layer in all_holders if layer.name.startswith("{ForeignNode[")), None)
    if opaque is not None:
        return Block(name, None, (opaque.kernel,), "the inspector shows a whole part of the network as one layer", expected)
    marked = [layer for layer in all_holders if layer.is_attention_kernel]
    if marked:
        return Block(name, True, tuple(layer.kernel for layer in marked), "", expected)
    whole = [layer for layer in all_holders if all(layer in holders[part] for part in PARTS)]
    if len(whole) == 1 and len(all_holders) == 1:
        return Block(name, True, kernels, "", expected)
    if holders[OPERATOR] and len(all_holders) == 1:
        return Block(name, True, kernels, "", expected)
    return Block(name, False, kernels, _why(check, expected, precision, tensorrt, kernels), expected)


def _why(check: Mapping[str, Any] | None, expected: bool | None, precision: str, tensorrt: str, kernels: tuple[str, ...]) -> str:
    if precision == "fp32":
        return "FP32 never fuses; export with --precision fp16"
    if expected is False and check is not None:
        found = check.get("findings")
        texts = [str(f.get("text")) for f in found if isinstance(f, dict) and f.get("holds") is False] if isinstance(found, list) else []
        return "; ".join(texts) or "the bundle does not meet TensorRT's conditions"
    shown = ", ".join(kernels[:4]) + (" …" if len(kernels) > 4 else "")
    told = "all conditions hold; " if expected else ""
    return f"{told}TensorRT {tensorrt} chose separate kernels: {shown}"


def _holds(layer: Layer, block: str, part: str) -> bool:
    """Whether a layer came from this block's node of that name: by its ONNX nodes, or by its name where it tells none."""
    named = layer.nodes or tuple(_NAME.findall(layer.name))
    return any(_is_node(node, block, part) for node in named)


def _is_node(node: str, block: str, part: str) -> bool:
    first, *rest = node.strip("/").split("/")
    return first == block and bool(rest) and rest[-1] == part


def _blocks_named(layers: Iterable[Layer]) -> list[str]:
    """Blocks that have a softmax or an attention operator, in the order of the layers."""
    found: dict[str, None] = {}
    for layer in layers:
        for node in layer.nodes or tuple(_NAME.findall(layer.name)):
            first, *rest = node.strip("/").split("/")
            if rest and rest[-1] in ("softmax", OPERATOR):
                found.setdefault(first)
    return list(found)


def _layer(item: object) -> Layer | None:
    if isinstance(item, str):
        return Layer(item, nodes=tuple(_ONNX.findall(item)))
    if not isinstance(item, dict):
        return None
    name, kind, tactic, metadata = (item.get(key) for key in ("Name", "LayerType", "TacticName", "Metadata"))
    if not isinstance(name, str):
        return None
    text = metadata if isinstance(metadata, str) else ""
    return Layer(name, kind if isinstance(kind, str) else "", tactic if isinstance(tactic, str) else "", tuple(_ONNX.findall(text)))
