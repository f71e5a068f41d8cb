"""What each fold takes out of the exported graph: operators, parameters, and bytes moved per image, before and after.

    python benchmarks/folds.py [--design 5,64,8] [--guidance 1.5] [--json]

The training form is written as an ONNX graph with nothing folded (guidance as a doubled batch, timestep MLP, one adaLN product a
block, softmax scale behind the first product, float images), then the folds of `edgedit.model.deploy` and `edgedit.export` are
added one after another, all with the same attention (`pattern`, FP32), so that a row's difference is its fold. The last rows
change the attention's dialect and the precision. Every graph is run in ONNX Runtime on the same noise and must give the first
one's images, to one grey level (the typed ones to five).

Bytes count every operator as reading its inputs and writing its outputs; weights and views are left out (`edgedit.export.cost`).
Nothing is timed and nothing depends on the machine.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import nn

from edgedit.core.noise import labels as balanced
from edgedit.core.noise import noise
from edgedit.core.paper import TABLE_6
from edgedit.core.spec import FREQUENCIES, DiTSpec
from edgedit.export.attention import AttentionWeights
from edgedit.export.check import open_session
from edgedit.export.cost import graph_cost
from edgedit.export.graph import IMAGES, LABELS, NOISE, Writer, _numpy, build
from edgedit.export.plan import Plan
from edgedit.model.deploy import fold
from edgedit.model.dit import DiT

FOLDS = {
    "conditioning": "timestep MLP, label table and adaLN products → one table",
    "one_plus": "1 + scale in the table",
    "softmax_scale": "softmax scale in the query weights",
    "embedding": "positions and patch bias merged",
    "guidance": "guidance inside: embedding and first norm shared",
    "uint8": "127.5 and 128 in the output layer, uint8 NHWC inside",
}


class Unfolded(Writer):
    """Writes `model` with only the folds that are named; the methods it overrides are the ones that a fold changes."""

    def __init__(self, model: DiT, plan: Plan, folds: frozenset[str]) -> None:
        super().__init__(fold(model, plan.guidance_scale), plan)
        self.model, self.folds = model, folds
        if "one_plus" not in folds:
            self.network.table[:, [*range(1, 6 * self.spec.depth, 3), 6 * self.spec.depth + 1]] -= 1

    def write(self) -> None:
        if "guidance" in self.folds and "uint8" in self.folds:
            return super().write()
        g, s, batch = self.g, self.spec, self.plan.batch
        value, labels = g.input(NOISE, np.float32, [batch, s.channels, s.image, s.image]), g.input(LABELS, np.int32, [batch])
        shared = "guidance" in self.folds
        if not shared:
            value = g.op("Concat", value, value, label="both_noise", axis=0)
        with g.scope("embed"):
            x = self.embed(value)
        with g.scope("condition"):
            shifts, scales, gates = self.condition(labels)
        normed = None
        if shared:
            with g.scope("embed"):
                normed = self.normalise(x)
            x, normed = (g.op("Concat", v, v, label=n, axis=0) for v, n in ((x, "both"), (normed, "both_normed")))
        for i, block in enumerate(self.network.blocks):
            with g.scope(f"block{i}"):
                own = slice(2 * i, 2 * i + 2)
                x = self.block(block, x, normed if i == 0 else None, shifts[own], scales[own], gates[own])
        with g.scope("output"):
            self.float_images(x, shifts[-1], scales[-1])
        g.output(IMAGES, np.uint8, [batch, s.image, s.image, s.channels])
        return None

    def embed(self, noise: str) -> str:
        if "embedding" in self.folds:
            return super().embed(noise)
        g, s = self.g, self.spec
        x = g.op("Reshape", noise, g.whole([0, s.channels, s.grid, s.patch, s.grid, s.patch], "cells/shape"), label="cells")
        x = g.op("Transpose", x, label="patches", perm=[0, 2, 4, 1, 3, 5])
        x = g.op("Reshape", x, g.whole([0, s.tokens, s.patch_values], "tokens/shape"), label="tokens")
        x = self.linear(x, _numpy(self.model.patch.weight).T, _numpy(self.model.patch.bias), "patch")
        return g.op("Add", x, g.constant(_numpy(self.model.position), "positions"), label="placed")

    def condition(self, labels: str) -> tuple[Any, Any, Any]:
        if "conditioning" in self.folds:
            return super().condition(labels)
        g, s = self.g, self.spec
        labels = g.op("Concat", labels, self.null_labels(labels), label="both_labels", axis=0)
        waves = np.concatenate([np.ones(FREQUENCIES // 2), np.zeros(FREQUENCIES // 2)]).astype(np.float32)[None]
        t = self.model.timestep
        time = self.silu(self.linear(g.constant(waves, "waves"), _numpy(t.hidden.weight).T, _numpy(t.hidden.bias), "hidden"), "time")
        time = self.linear(time, _numpy(t.out.weight).T, _numpy(t.out.bias), "timestep")
        c = g.op("Add", g.op("Gather", g.constant(_numpy(self.model.label.weight), "classes"), labels, label="class", axis=0), time,
                 label="c")
        shifts, scales, gates = [], [], []
        for i, layer in enumerate(self.model.modulations):
            with g.scope(f"adaln{i}"):
                m = self.linear(self.silu(c, "c"), _numpy(layer.weight).T, _numpy(layer.bias), "linear")
                m = g.op("Unsqueeze", m, g.whole([1], "axis"), label="tokens")
                count = 6 if i < s.depth else 2
                parts = g.ops("Split", m, g.whole([s.width] * count, "parts/sizes"), label="parts", outputs=count, axis=2)
            shifts += parts[0:count:3]
            scales += parts[1:count:3]
            gates += parts[2:count:3]
        return shifts, scales, gates

    def silu(self, x: str, label: str) -> str:
        return self.g.op("Mul", x, self.g.op("Sigmoid", x, label=f"{label}/sigmoid"), label=f"{label}/silu")

    def modulate(self, x: str, normed: str | None, shift: str, scale: str) -> str:
        if "one_plus" not in self.folds:
            one = self.g.constant(np.float32(1), "one")
            scale = self.g.op("Add", scale, one, label="modulate/one_plus")
        return super().modulate(x, normed, shift, scale)

    def attention_weights(self, block: Any) -> AttentionWeights:
        weights = super().attention_weights(block)
        if "softmax_scale" in self.folds:
            return weights
        qkv, bias = weights.qkv.copy(), weights.qkv_bias.copy()
        qkv[0] *= np.float32(self.spec.head_size**0.5)
        bias[0] *= np.float32(self.spec.head_size**0.5)
        return replace(weights, qkv=qkv, qkv_bias=bias)

    def float_images(self, x: str, shift: str, scale: str) -> None:
        """Float images (N, C, S, S), guidance on them, then grey levels: what a host does behind an unfolded network."""
        g, s, layer = self.g, self.spec, self.network.linear
        x = self.linear(self.modulate(x, None, shift, scale), _numpy(layer.weight).T, _numpy(layer.bias), "linear")
        x = g.op("Reshape", x, g.whole([0, s.grid, s.grid, s.patch, s.patch, s.channels], "cells/shape"), label="cells")
        x = g.op("Transpose", x, label="planes", perm=[0, 5, 1, 3, 2, 4])
        x = g.op("Reshape", x, g.whole([0, s.channels, s.image, s.image], "image/shape"), label="image")
        if self.guided:
            x = self.guide(x)
        x = g.op("Add", g.op("Mul", x, g.constant(np.float32(127.5), "half"), label="scaled"), g.constant(np.float32(128), "mid"),
                 label="levels")
        x = g.op("Floor", g.op("Clip", x, g.constant(np.float32(0), "black"), g.constant(np.float32(255), "white"), label="clipped"),
                 label="whole")
        x = g.op("Cast", x, label="bytes", to=2)
        with g.at_top():
            g.op("Transpose", x, label=IMAGES, perm=[0, 2, 3, 1])


def _apply_scale(model: Any, spec: DiTSpec) -> Any:
    """The softmax scale as an operator of its own between the first product and the softmax, where the stock network has it."""
    from onnx import helper, numpy_helper

    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.float32(spec.head_size**-0.5), "attention_scale"))
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        if node.op_type == "Softmax":
            graph.node.append(helper.make_node("Mul", [node.input[0], "attention_scale"], [f"{node.name}/input"], f"{node.name}/scaled"))
            node.input[0] = f"{node.name}/input"
        graph.node.append(node)
    return model


def _model(spec: DiTSpec) -> DiT:
    model = DiT(spec).eval()
    chance = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        if weight is not model.position:
            nn.init.normal_(weight, std=0.08, generator=chance)
    return model


def table(spec: DiTSpec, guidance: float) -> list[dict[str, Any]]:
    """One row per stage, for one image; RuntimeError when a stage makes other images."""
    model = _model(spec)
    plan = Plan.of(spec, "fp32", "pattern", batch=1, guidance_scale=guidance)
    stages: list[tuple[str, Any, int]] = []
    for count in range(len(FOLDS) + 1):
        done = frozenset(list(FOLDS)[:count])
        writer = Unfolded(model, plan, done)
        writer.write()
        graph = writer.g.model({})
        if "softmax_scale" not in done:
            graph = _apply_scale(graph, spec)
        stages.append(("training form, nothing folded" if not count else "+ " + list(FOLDS.values())[count - 1], graph, 1))
    folded = fold(model, guidance)
    for name, precision, dialect, levels in (
            ("the same with attention as one operator", "fp32", "onnx", 1), ("the same in ONNX Runtime's operators", "fp32", "ort", 1),
            ("+ typed FP16, heads padded for TensorRT", "fp16", "pattern", 5),
            ("the same with attention as one operator, FP16", "fp16", "onnx", 5)):
        stages.append((name, build(folded, Plan.of(spec, precision, dialect, batch=1, guidance_scale=guidance)), levels))
    given = {NOISE: noise(0, [0], (spec.channels, spec.image, spec.image)), LABELS: balanced(0, [0], spec.classes)}
    rows, reference = [], None
    for name, graph, levels in stages:
        images = open_session(graph.SerializeToString()).run([IMAGES], given)[0].astype(int)
        reference = images if reference is None else reference
        away = int(np.abs(images - reference).max())
        if away > levels or reference.std() < 10:
            raise RuntimeError(f"'{name}' makes other images: {away} grey levels apart")
        cost = graph_cost(graph)
        views = sum(cost.operators.get(kind, 0) for kind in ("Reshape", "Shape", "Unsqueeze"))
        rows.append({"form": name, "operators": cost.nodes - views, "parameters": cost.parameters,
                     "weight_bytes": cost.weight_bytes, "activation_bytes": cost.activation_bytes, "levels_away": away})
    return rows


def designs() -> list[dict[str, Any]]:
    """Parameters of every design of the paper's Table 6 before and after folding."""
    rows = []
    for row in dict.fromkeys((r.depth, r.width, r.heads) for r in TABLE_6):
        spec = DiTSpec(*row)
        rows.append({"design": spec.label, "parameters": spec.parameters, "deployed_parameters": spec.deployed_parameters,
                     "fewer_percent": round(100 * (1 - spec.deployed_parameters / spec.parameters), 1)})
    return rows


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--design", default="5,64,8", help="depth,width,heads")
    options.add_argument("--guidance", type=float, default=1.5)
    options.add_argument("--json", action="store_true")
    args = options.parse_args()
    spec = DiTSpec(*map(int, args.design.split(",")))
    rows, sizes = table(spec, args.guidance), designs()
    if args.json:
        print(json.dumps({"design": spec.label, "guidance_scale": args.guidance, "forms": rows, "designs": sizes},
                         indent=1))
        return 0
    print(f"{spec.label}, guidance {args.guidance}, per image")
    print(f"{'form':<62} {'operators':>9} {'parameters':>11} {'weights':>10} {'moved':>9} {'away':>5}")
    for row in rows:
        print(f"{row['form']:<62} {row['operators']:>9} {row['parameters']:>11,} {row['weight_bytes'] / 1e6:>7.2f} MB "
              f"{row['activation_bytes'] / 1e6:>6.1f} MB {row['levels_away']:>5}")
    print("\nparameters before and after folding")
    for row in sizes:
        print(f"{row['design']:<14} {row['parameters']:>11,} {row['deployed_parameters']:>11,}  -{row['fewer_percent']} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
