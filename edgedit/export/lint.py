"""Do the Q/DQ of a graph stand where TensorRT makes INT8 kernels of them? A linter for any ONNX graph (jetson.md §5.2).

Rules, by name:

symmetric    zero points are INT8 and 0: TensorRT refuses others.
scale        scales are constants, finite, positive, and normal numbers of their type.
granularity  activations have one scale; a weight has one per output channel, on the axis of the outputs.
pair         a DequantizeLinear stands behind every QuantizeLinear with the same scale, and before it a QuantizeLinear or an INT8
             constant; no pair directly behind another.
inputs       a product has both inputs quantised or neither: half a pair leaves it in FP16 and costs the conversion.
first_last   the first and the last product with weights are not quantised.
kept         what is dequantised goes to products, or to a residual sum beside a quantised product; never to normalisation, softmax,
             activation, modulation, gates or tables.
attention    both products of an attention with the exact placement (before the first, behind the softmax, before and behind the
             second) and sizes that fuse, or neither.
block        of a block's products with weights all are quantised or none, so that a block is INT8 or FP16 as recorded.

The first component of a node's name is its block: "block3/mlp/down". A graph without such names is one block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from edgedit.export.fusion import attention_fusion, attention_products
from edgedit.export.view import View

Q, DQ = "QuantizeLinear", "DequantizeLinear"
PRODUCTS = {"MatMul", "Gemm", "Conv"}
VIEWS = {"Transpose", "Reshape", "Split", "Identity", "Concat", "Slice", "Squeeze", "Unsqueeze"}
"""Operators that move numbers and change none: Q/DQ may stand on either side of them."""


@dataclass(frozen=True)
class LintFinding:
    """One violation: the rule's name, the node, and what was seen."""

    rule: str
    node: str
    why: str

    def to_dict(self) -> dict[str, str]:
        """Plain values for JSON."""
        return asdict(self)


def lint(model: ModelProto) -> list[LintFinding]:
    """All violations of a graph's Q/DQ placement, in the order of its nodes; empty for a graph without Q/DQ."""
    graph = _Lint(model)
    if not graph.quantisers:
        return []
    rules = (graph.constants, graph.pairs, graph.products, graph.destinations, graph.attention, graph.blocks)
    order = {node.name or node.output[0]: i for i, node in enumerate(graph.view.nodes)}
    return sorted((finding for rule in rules for finding in rule()), key=lambda f: order.get(f.node, -1))


def quantised_products(model: ModelProto) -> dict[str, int]:
    """Products with both inputs dequantised, by block; blocks with none are left out."""
    graph = _Lint(model)
    counts: dict[str, int] = {}
    for node in graph.weighted:
        if graph.sides(node) == (True, True):
            counts[_block(node)] = counts.get(_block(node), 0) + 1
    return counts


class _Lint:
    """The rules over one graph; each yields its findings."""

    def __init__(self, model: ModelProto) -> None:
        self.view = View(model)
        self.quantisers = [node for node in self.view.nodes if node.op_type in (Q, DQ)]
        self.weighted = [node for node in self.view.nodes if node.op_type in PRODUCTS and self.is_weight(node.input[1])]
        self.attentions = [pair for node in self.view.nodes if node.op_type == "Softmax"
                           if (pair := attention_products(self.view, node)) is not None]

    # --- rules ----------------------------------------------------------------------------------------------------------

    def constants(self) -> Iterator[LintFinding]:
        """symmetric, scale."""
        for node in self.quantisers:
            scale = self.view.array(node.input[1])
            if scale is None:
                yield _found("scale", node, "the scale is computed, not a constant")
            elif not (np.isfinite(scale).all() and (scale > 0).all()):
                yield _found("scale", node, f"scales from {float(scale.min()):.4g} to {float(scale.max()):.4g}: they must be positive")
            elif (scale < np.finfo(scale.dtype).smallest_normal).any():
                yield _found("scale", node, f"the scale {float(scale.min()):.4g} is no normal {scale.dtype} number")
            if len(node.input) < 3 or not node.input[2]:
                if node.op_type == Q and not any(a.name == "output_dtype" and a.i == TensorProto.INT8 for a in node.attribute):
                    yield _found("symmetric", node, "no zero point: the numbers are unsigned")
                continue
            zero = self.view.array(node.input[2])
            if zero is None or zero.dtype != np.int8 or zero.any():
                seen = "computed" if zero is None else f"{zero.dtype}, {int(np.abs(zero.astype(np.int64)).max())}"
                yield _found("symmetric", node, f"the zero point is {seen}, not INT8 0")

    def pairs(self) -> Iterator[LintFinding]:
        """pair; granularity of activations."""
        for node in self.quantisers:
            before, after = self.view.maker.get(node.input[0]), self.view.users.get(node.output[0], [])
            if node.op_type == Q:
                if not after or any(user.op_type != DQ for user in after):
                    yield _found("pair", node, "what it makes is used without a DequantizeLinear")
                if before is not None and before.op_type == DQ:
                    yield _found("pair", node, f"directly behind {before.name or before.output[0]}: the value is quantised twice")
                if not self.is_weight(node.input[0]) and (scale := self.view.array(node.input[1])) is not None and scale.size != 1:
                    yield _found("granularity", node, f"{scale.size} scales: an activation has one")
            elif before is not None and before.op_type == Q:
                ours, theirs = self.view.array(node.input[1]), self.view.array(before.input[1])
                if ours is None or theirs is None or not np.array_equal(ours, theirs):
                    yield _found("pair", node, "its scale is not that of its QuantizeLinear")
            elif self.view.array(node.input[0]) is None:
                yield _found("pair", node, "no QuantizeLinear before it, and no constant")

    def products(self) -> Iterator[LintFinding]:
        """inputs, granularity of weights, first_last."""
        ends = self.first_and_last()
        for node in self.weighted:
            activation, weight = self.sides(node)
            if activation != weight:
                yield _found("inputs", node, f"only its {'activation' if activation else 'weight'} is quantised")
            if (activation or weight) and (which := ends.get(node.output[0])):
                yield _found("first_last", node, f"it is the {which} product: keep it in FP16")
            if weight:
                yield from self.weight_scale(node)
        for first, second in self.attentions:
            for node in (first, second):
                sides = [self.dequantised(name) for name in node.input[:2]]
                if sides[0] != sides[1]:
                    yield _found("inputs", node, "one of its two inputs is quantised")

    def weight_scale(self, node: NodeProto) -> Iterator[LintFinding]:
        """granularity of one product's weight."""
        dequantise = self.view.maker[node.input[1]]
        scale, shape = self.view.array(dequantise.input[1]), self.view.shape(node.input[1])
        if scale is None or shape is None:
            return
        transposed = node.op_type == "Conv" or (node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute))
        axis = 0 if transposed else len(shape) - 1
        given = next((a.i for a in dequantise.attribute if a.name == "axis"), 1) % len(shape)
        if scale.ndim != 1 or scale.shape[0] != shape[axis]:
            yield _found("granularity", dequantise, f"{scale.size} scales for {shape[axis]} output channels: needed is one for each")
        elif given != axis:
            yield _found("granularity", dequantise, f"its axis is {given}, the outputs are axis {axis}")

    def destinations(self) -> Iterator[LintFinding]:
        """kept."""
        for node in self.quantisers:
            if node.op_type != DQ:
                continue
            for user, value in self.takers(node.output[0]):
                if user.op_type in PRODUCTS or user.op_type == Q or (user.op_type == "Add" and self.residual(user, value)):
                    continue
                yield _found("kept", node, f"goes to {user.op_type} {user.name or user.output[0]}")

    def attention(self) -> Iterator[LintFinding]:
        """attention."""
        for block in attention_fusion(self.view.model):
            for finding in block.findings:
                if finding.code == "int8" and not finding.holds:
                    yield LintFinding("attention", block.block, finding.text)
        for first, _ in self.attentions:
            for node in self.view.users.get(first.output[0], []):
                if node.op_type == Q:
                    yield _found("attention", node, "Q/DQ between the first product and the softmax")

    def blocks(self) -> Iterator[LintFinding]:
        """block."""
        ends = self.first_and_last()
        groups: dict[str, list[NodeProto]] = {}
        for node in self.weighted:
            if node.output[0] not in ends:
                groups.setdefault(_block(node), []).append(node)
        for nodes in groups.values():
            plain = [node for node in nodes if self.sides(node) == (False, False)]
            if plain and len(plain) < len(nodes):
                yield _found("block", plain[0], f"not quantised, as {len(nodes) - len(plain)} of {len(nodes)} products of its block are")

    # --- looks at the graph ---------------------------------------------------------------------------------------------

    def is_weight(self, value: str) -> bool:
        """Whether a value is constant, dequantised or not."""
        if self.view.array(value) is not None:
            return True
        node = self.view.maker.get(value)
        return node is not None and node.op_type in (Q, DQ, "Transpose", "Cast") and self.is_weight(node.input[0])

    def dequantised(self, value: str) -> bool:
        """Whether a value comes from a DequantizeLinear, views passed over."""
        node = self.view.maker.get(value)
        while node is not None and node.op_type in VIEWS:
            node = self.view.maker.get(node.input[0])
        return node is not None and node.op_type == DQ

    def sides(self, node: NodeProto) -> tuple[bool, bool]:
        """(activation, weight) of a product: dequantised or not."""
        return self.dequantised(node.input[0]), self.dequantised(node.input[1])

    def takers(self, value: str) -> Iterator[tuple[NodeProto, str]]:
        """Nodes that a value reaches through views, and under which name."""
        for user in self.view.users.get(value, []):
            if user.op_type in VIEWS:
                for output in user.output:
                    yield from self.takers(output)
            else:
                yield user, value

    def residual(self, add: NodeProto, value: str) -> bool:
        """Whether an Add sums `value` and the branch of a quantised product."""
        product = next((self.branch(name) for name in add.input if name != value), None)
        return product is not None and self.sides(product) == (True, True)

    def branch(self, value: str) -> NodeProto | None:
        """The product that makes a value over bias, gate and views; None where another sum or operator lies between."""
        node = self.view.maker.get(value)
        if node is None or node.op_type in PRODUCTS:
            return node
        if node.op_type == "Add" and not any(self.view.array(name) is not None for name in node.input):
            return None
        if node.op_type not in {"Add", "Mul"} | VIEWS:
            return None
        return next((product for name in node.input if (product := self.branch(name)) is not None), None)

    def first_and_last(self) -> dict[str, str]:
        """Outputs of products with weights that have none before them ("first") or none behind them ("last")."""
        weighted = {node.output[0] for node in self.weighted}
        behind: set[str] = set()  # values made from a product with weights
        ends = {}
        for node in self.view.nodes:
            if any(name in behind for name in node.input):
                behind.update(node.output)
            elif node.output[0] in weighted:
                ends[node.output[0]] = "first"
            if node.output[0] in weighted:
                behind.update(node.output)
        ahead: set[str] = set()
        for node in reversed(self.view.nodes):
            reached = any(name in ahead for name in node.output)
            if node.output[0] in weighted and not reached:
                ends.setdefault(node.output[0], "last")
            if reached or node.output[0] in weighted:
                ahead.update(node.input)
        return ends


def _found(rule: str, node: NodeProto, why: str) -> LintFinding:
    return LintFinding(rule, node.name or node.output[0], why)


def _block(node: NodeProto) -> str:
    return (node.name or node.output[0]).strip("/").split("/")[0] if "/" in (node.name or node.output[0]) else ""
