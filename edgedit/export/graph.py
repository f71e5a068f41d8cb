"""The deployed DiT as an ONNX graph, written by hand: noise float32 [B,C,S,S], labels int32 [B] → images uint8 [B,S,S,C].

The graph computes what `edgedit.model.deploy.DeployedDiT` computes. Guidance is inside: the embedding is computed once for B
images and doubled, the null class joins the labels, and the halves meet again in FP32 just before quantisation. The step to
grey levels is folded into the output layer: 127.5 into its weights, 127.5·bias + 128 into its bias; an affine combination
such as guidance passes the 128 through unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from onnx import ModelProto, helper
from torch import Tensor

from edgedit.export.attention import Array, AttentionWeights, pad_heads
from edgedit.export.plan import Plan
from edgedit.export.writer import MICROSOFT, Graph
from edgedit.model.deploy import GATE_MLP, GATE_MSA, SCALE_MLP, SCALE_MSA, SHIFT_MLP, SHIFT_MSA, DeployedBlock, DeployedDiT
from edgedit.model.dit import LN_EPS

BATCH = "batch"
"""Name of the dynamic batch dimension."""
NOISE, LABELS, IMAGES = "noise", "labels", "images"


class Writer:
    """Writes one network into a Graph; `build` is the way in.

    Letters in shape comments: B batch, N = 2B with guidance and B without, T tokens, w width, n = p·p·C.
    """

    def __init__(self, network: DeployedDiT, plan: Plan) -> None:
        self.network, self.spec, self.plan = network, network.spec, plan
        self.g = Graph(plan.opset, plan.scales, plan.precision.dtype)
        self.guided = plan.guidance_scale != 1.0
        self.type = plan.precision.dtype

    def write(self) -> None:
        """The whole graph."""
        g, spec = self.g, self.spec
        batch = self.plan.batch or BATCH
        noise = g.input(NOISE, np.float32, [batch, spec.channels, spec.image, spec.image])
        labels = g.input(LABELS, np.int32, [batch])
        with g.scope("embed"):
            x = self.embed(noise)                                                         # (B, T, w)
        with g.scope("condition"):
            shifts, scales, gates = self.condition(labels)                                # lists of (N, 1, w)
        normed = None
        if not self.plan.dialect.fused_norm:
            with g.scope("embed"):
                normed = self.normalise(x)                                                # shared by both halves
        if self.guided:
            x = g.op("Concat", x, x, label="guidance/both", axis=0)                       # (N, T, w)
            if normed is not None:
                normed = g.op("Concat", normed, normed, label="guidance/both_normed", axis=0)
        for i, block in enumerate(cast(Sequence[DeployedBlock], self.network.blocks)):
            own = slice(2 * i, 2 * i + 2)
            with g.scope(f"block{i}"):
                x = self.block(block, x, normed if i == 0 else None, shifts[own], scales[own], gates[own])
        with g.scope("output"):
            levels = self.output(x, shifts[-1], scales[-1])                               # (N, T, n) float32
            if self.guided:
                levels = self.guide(levels)                                               # (B, T, n)
            self.quantise(levels)
        g.output(IMAGES, np.uint8, [batch, spec.image, spec.image, spec.channels])

    # --- parts ----------------------------------------------------------------------------------------------------------

    def embed(self, noise: str) -> str:
        """Patches, one product, one constant: positions and patch bias merged."""
        g, s = self.g, self.spec
        x = noise if self.type is np.float32 else self.cast(noise, self.type, "typed")
        x = g.op("Reshape", x, g.whole([0, s.channels, s.grid, s.patch, s.grid, s.patch], "cells/shape"), label="cells")
        x = g.op("Transpose", x, label="patches", perm=[0, 2, 4, 1, 3, 5])                # (B, g, g, C, p, p)
        x = g.op("Reshape", x, g.whole([0, s.tokens, s.patch_values], "tokens/shape"), label="tokens")
        return self.linear(x, _numpy(self.network.patch.weight).T, _numpy(self.network.embedding_constant), "patch")

    def condition(self, labels: str) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
        """Rows of the folded table: (shifts, scales, gates), two a block, then shift and scale of the output layer.

        Shifts and scales belong to the normalisation and have its type; gates multiply what a typed product gave.
        """
        g, s = self.g, self.spec
        if self.guided:
            labels = g.op("Concat", labels, self.null_labels(labels), label="both_labels", axis=0)
        table = _numpy(self.network.table)                                                # (K, 6d+2, w)
        rows = {name: [6 * i + j for i in range(s.depth) for j in kinds] + last for name, kinds, last in (
            ("shift", (SHIFT_MSA, SHIFT_MLP), [6 * s.depth]), ("scale", (SCALE_MSA, SCALE_MLP), [6 * s.depth + 1]),
            ("gate", (GATE_MSA, GATE_MLP), []))}
        norm = rows["shift"] + rows["scale"]
        values = self.rows(labels, table[:, norm].astype(self.plan.precision.norm_dtype), "modulation")
        gates = self.rows(labels, self.typed(table[:, rows["gate"]], "gates"), "gates")
        return values[: len(rows["shift"])], values[len(rows["shift"]) :], gates

    def rows(self, labels: str, table: Array, label: str) -> tuple[str, ...]:
        """Gather (N, m, w), split into m values (N, 1, w): they broadcast over tokens as they are."""
        g = self.g
        gathered = g.op("Gather", g.constant(table, f"{label}/table"), labels, label=f"{label}/rows", axis=0)
        count = table.shape[1]
        return g.ops("Split", gathered, g.whole([1] * count, f"{label}/parts"), label=label, outputs=count, axis=1)

    def null_labels(self, labels: str) -> str:
        """As many labels of the null class as there are images."""
        null = np.array([self.spec.null_class], np.int32)
        if self.plan.batch is not None:
            return self.g.constant(np.repeat(null, self.plan.batch), "null_labels")
        return self.g.op("ConstantOfShape", self.g.op("Shape", labels, label="count"), label="null_labels", value=null)

    def block(self, block: DeployedBlock, x: str, normed: str | None, shifts: Sequence[str], scales: Sequence[str],
              gates: Sequence[str]) -> str:
        """Attention, then MLP: normalised, modulated, gated and added."""
        g, weights = self.g, self.attention_weights(block)
        with g.scope("attention"):
            y = self.modulate(x, normed, shifts[0], scales[0])
            mixed = self.plan.dialect.attend(g, y, weights)
            if self.plan.dialect.name == "ort":
                g.declare(mixed, self.type, [*self.forward_shape, weights.proj.shape[0]])
            y = self.linear(mixed, weights.proj, weights.proj_bias, "proj", int8=g.quantised("proj") or g.quantised("values"))
            x = self.add_gated(x, y, gates[0])
        with g.scope("mlp"):
            y = self.modulate(x, None, shifts[1], scales[1])
            y = self.gelu(y, _numpy(block.up.weight).T, _numpy(block.up.bias))
            y = self.linear(y, _numpy(block.down.weight).T, _numpy(block.down.bias), "down", int8=g.quantised("down"))
            return self.add_gated(x, y, gates[1])

    def output(self, x: str, shift: str, scale: str) -> str:
        """Grey levels per token, float32 (N, T, n), not clipped: the product in the graph's type, everything after in FP32."""
        g, layer = self.g, self.network.linear
        y = self.modulate(x, None, shift, scale)
        weight = g.constant(self.typed(_numpy(layer.weight).T * 127.5, "output/weight"), "weight")
        y = g.op("MatMul", y, weight, label="product")
        if self.type is not np.float32:
            y = self.cast(y, np.float32, "product_fp32")
        bias = (_numpy(layer.bias) * 127.5 + 128).astype(np.float32)
        return g.op("Add", y, g.constant(bias, "bias"), label="levels")

    def guide(self, levels: str) -> str:
        """u + s·(c - u) over the halves (science.md §3.3)."""
        g = self.g
        conditional, unconditional = self.halves(levels)
        away = g.op("Sub", conditional, unconditional, label="guidance/away")
        away = g.op("Mul", away, g.constant(np.float32(self.plan.guidance_scale), "guidance/scale"), label="guidance/scaled")
        return g.op("Add", unconditional, away, label="guidance")

    def halves(self, value: str) -> tuple[str, ...]:
        """Split 2B into B and B; without sizes where the batch is dynamic."""
        g, batch = self.g, self.plan.batch
        if batch is not None:
            return g.ops("Split", value, g.whole([batch, batch], "guidance/parts"), label="guidance/halves", outputs=2, axis=0)
        extra: dict[str, Any] = {"num_outputs": 2} if self.plan.opset >= 18 else {}
        return g.ops("Split", value, label="guidance/halves", outputs=2, axis=0, **extra)

    def quantise(self, levels: str) -> None:
        """Float levels (B, T, n) → uint8 [B,S,S,C]. The cast stays last: TensorRT knows uint8 only at a network's border.

        Floor makes the truncation part of the graph, so that no runtime's rounding of a float-to-integer cast matters.
        """
        g, s = self.g, self.spec
        x = g.op("Clip", levels, g.constant(np.float32(0), "black"), g.constant(np.float32(255), "white"), label="clipped")
        x = g.op("Floor", x, label="truncated")
        x = g.op("Reshape", x, g.whole([0, s.grid, s.grid, s.patch, s.patch, s.channels], "cells/shape"), label="cells")
        x = g.op("Transpose", x, label="rows", perm=[0, 1, 3, 2, 4, 5])                   # (B, g, p, g, p, C)
        x = g.op("Reshape", x, g.whole([0, s.image, s.image, s.channels], "pixels/shape"), label="pixels")
        with g.at_top():
            self.cast(x, np.uint8, IMAGES)

    # --- pieces ---------------------------------------------------------------------------------------------------------

    def linear(self, x: str, weight: Array, bias: Array, label: str, *, int8: bool = False) -> str:
        """x @ weight + bias in the graph's type; `int8`: of weights, and of x where the scales name the site."""
        y = self.g.op("MatMul", self.g.site(x, label), self.g.weight(self.typed(weight, label), f"{label}/weight", int8=int8),
                      label=f"{label}/product")
        return self.g.op("Add", y, self.g.constant(self.typed(bias, label), f"{label}/bias"), label=label)

    def normalise(self, x: str, scale: str | None = None, shift: str | None = None) -> str:
        """LayerNormalization as one operator, in FP32; scale and shift per sample where the dialect fuses them."""
        g, kind = self.g, self.plan.precision.norm_dtype
        if self.type is not kind:
            x = self.cast(x, kind, "norm/input")
        if scale is None or shift is None:
            return g.op("LayerNormalization", x, g.constant(np.ones(self.spec.width, kind), "norm/ones"), label="norm",
                        axis=-1, epsilon=LN_EPS)
        return g.op("LayerNormalization", x, scale, shift, label="norm", axis=-1, epsilon=LN_EPS)

    def modulate(self, x: str, normed: str | None, shift: str, scale: str) -> str:
        """adaLN: normalise (unless given) · scale + shift, then back to the graph's type."""
        g = self.g
        if self.plan.dialect.fused_norm:
            y = self.normalise(x, scale, shift)
        else:
            y = g.op("Mul", normed or self.normalise(x), scale, label="modulate/scaled")
            y = g.op("Add", y, shift, label="modulate")
        return y if self.type is self.plan.precision.norm_dtype else self.cast(y, self.type, "modulate/typed")

    def gelu(self, x: str, weight: Array, bias: Array) -> str:
        """The MLP's first product, bias and tanh-GELU, in the form the dialect and opset know."""
        g = self.g
        if self.plan.dialect.fused_gelu:
            up = g.weight(self.typed(weight, "up"), "up/weight", int8=g.quantised("up"))
            y = g.op("MatMul", g.site(x, "up"), up, label="up/product")
            y = g.op("FastGelu", y, g.constant(self.typed(bias, "up"), "up/bias"), label="gelu", domain=MICROSOFT)
            return g.declare(y, self.type, [*self.forward_shape, weight.shape[1]])
        y = self.linear(x, weight, bias, "up", int8=g.quantised("up"))
        if self.plan.opset >= 20:
            return g.op("Gelu", y, label="gelu", approximate="tanh")
        half, one, root, cubic = (g.constant(np.asarray(v, self.type), f"gelu/{n}") for n, v in (
            ("half", 0.5), ("one", 1), ("root", (2 / np.pi) ** 0.5), ("cubic", 0.044715)))
        cube = g.op("Mul", g.op("Mul", g.op("Mul", y, y, label="gelu/square"), y, label="gelu/cube"), cubic, label="gelu/bend")
        inner = g.op("Mul", g.op("Add", y, cube, label="gelu/sum"), root, label="gelu/inner")
        outer = g.op("Add", g.op("Tanh", inner, label="gelu/tanh"), one, label="gelu/outer")
        return g.op("Mul", g.op("Mul", y, half, label="gelu/halved"), outer, label="gelu")

    def add_gated(self, x: str, y: str, gate: str) -> str:
        """x + gate·y."""
        return self.g.op("Add", self.g.site(x, "residual"), self.g.op("Mul", y, gate, label="gated"), label="residual")

    def cast(self, value: str, dtype: type[np.generic], label: str) -> str:
        """To another element type."""
        return self.g.op("Cast", value, label=label, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def attention_weights(self, block: DeployedBlock) -> AttentionWeights:
        """A block's attention weights in the graph's type and head size."""
        w = self.spec.width
        qkv = _numpy(block.qkv.weight).reshape(3, w, w).transpose(0, 2, 1)
        plain = AttentionWeights(self.typed(qkv, "qkv"), self.typed(_numpy(block.qkv.bias).reshape(3, w), "qkv"),
                                 self.typed(_numpy(block.proj.weight).T, "proj"), self.typed(_numpy(block.proj.bias), "proj"),
                                 self.spec.heads)
        return pad_heads(plain, self.plan.head_size)

    def typed(self, array: Array, what: str) -> Array:
        """Weights in the graph's type."""
        return self.plan.precision.typed(array, what)

    @property
    def forward_shape(self) -> list[int | str | None]:
        """(N, T) of the values inside; N is unnamed where the batch is dynamic."""
        batch = self.plan.batch
        return [batch * (2 if self.guided else 1) if batch else None, self.spec.tokens]


def build(network: DeployedDiT, plan: Plan, metadata: dict[str, str] | None = None) -> ModelProto:
    """Write the graph.

    Args:
        network: the folded network (`edgedit.model.deploy.fold`); its own guidance scale is not looked at.
        plan: precision, INT8 scales, dialect, opset, head size, batch, guidance.
        metadata: texts for the model's metadata properties.
    """
    return build_with_sites(network, plan, metadata)[0]


def build_with_sites(network: DeployedDiT, plan: Plan, metadata: dict[str, str] | None = None) -> tuple[ModelProto, dict[str, str]]:
    """`build`, and the value at each place where Q/DQ may stand, by the site's name ("block0/mlp/down")."""
    writer = Writer(network, plan)
    writer.write()
    return writer.g.model(metadata or {}), writer.g.sites


def _numpy(tensor: Tensor) -> Array:
    return tensor.detach().cpu().numpy()
