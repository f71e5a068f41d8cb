"""Small bundles with real attention, named as the exporter names it, for the tests of building engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from edgedit.core.artifact import create
from edgedit.core.spec import DiTSpec
from edgedit.device.cuda.facts import GpuFacts

ORIN = GpuFacts("Orin", (8, 7), 8, 7620, 5000, True, "12.6")
"""Orin Nano 8 GB, the board that tests.fake_tensorrt plays too."""
CLASSES = ("ant", "bee", "cat", "dog")


def attention_graph(*, batch: int | str = 4, blocks: int = 2, head_size: int = 16, half: bool = True, dialect: str = "pattern",
                    odd: str | None = None) -> bytes:
    """noise, labels → images through `blocks` attentions of two heads on 16 tokens; `odd` adds an operator that nobody knows."""
    from onnx import TensorProto as T
    from onnx import helper as h
    from onnx import numpy_helper

    kind, dtype = (T.FLOAT16, np.float16) if half else (T.FLOAT, np.float32)
    chance, inner = np.random.default_rng(0), 2 * head_size
    weights: dict[str, Any] = {
        "tokens": np.array([0, 16, 12]), "apart": np.array([0, 0, 2, head_size]), "together": np.array([0, 0, inner]),
        "picture": np.array([0, 3, 8, 8]), "column": np.array([-1, 1, 1, 1]), "low": np.float32(0), "high": np.float32(255),
        "scale": np.float32(40), "step": np.float32(50)}
    nodes = [h.make_node("Cast", ["noise"], ["typed"], name="embed/typed", to=kind),
             h.make_node("Reshape", ["typed", "tokens"], ["x"], name="embed/tokens")]

    def add(op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        nodes.append(h.make_node(op, inputs, [name], name=name, **attributes))
        return name

    x = "x"
    for p in (f"block{i}/attention" for i in range(blocks)):
        apart = []
        for name, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1] if dialect == "pattern" else [0, 2, 1, 3]), ("v", [0, 2, 1, 3])):
            weights[f"{p}/{name}/weight"] = chance.normal(0, 0.2, (12, inner)).astype(dtype)
            product = add("MatMul", [x, f"{p}/{name}/weight"], f"{p}/{name}/product")
            apart.append(add("Transpose", [add("Reshape", [product, "apart"], f"{p}/{name}/heads")], f"{p}/{name}", perm=order))
        if dialect == "pattern":
            scores = add("MatMul", apart[:2], f"{p}/scores")
            mixed = add("MatMul", [add("Softmax", [scores], f"{p}/softmax", axis=-1), apart[2]], f"{p}/values")
        else:
            mixed = add("Attention", apart, f"{p}/attention", scale=1.0)
        weights[f"{p}/proj/weight"] = chance.normal(0, 0.2, (inner, 12)).astype(dtype)
        mixed = add("Reshape", [add("Transpose", [mixed], f"{p}/mixed/tokens", perm=[0, 2, 1, 3]), "together"], f"{p}/mixed")
        x = add("Add", [x, add("MatMul", [mixed, f"{p}/proj/weight"], f"{p}/proj")], f"{p}/residual")
    if odd:
        add(odd, [x], "odd/one")
        add(odd, [x], "odd/two")
    wide = add("Reshape", [add("Cast", [x], "output/wide", to=T.FLOAT), "picture"], "output/shaped")
    level = add("Reshape", [add("Cast", ["labels"], "output/label", to=T.FLOAT), "column"], "output/column")
    total = add("Add", [add("Mul", [wide, "scale"], "output/scaled"), add("Mul", [level, "step"], "output/level")], "output/sum")
    rows = add("Transpose", [total], "output/rows", perm=[0, 2, 3, 1])
    add("Cast", [add("Floor", [add("Clip", [rows, "low", "high"], "output/clip")], "output/floor")], "images", to=T.UINT8)
    inputs = [h.make_tensor_value_info("noise", T.FLOAT, [batch, 3, 8, 8]), h.make_tensor_value_info("labels", T.INT32, [batch])]
    outputs = [h.make_tensor_value_info("images", T.UINT8, [batch, 8, 8, 3])]
    body = h.make_graph(nodes, "test", inputs, outputs, [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()])
    opset, ir = (20, 9) if dialect == "pattern" else (23, 11)
    return h.make_model(body, opset_imports=[h.make_opsetid("", opset)], ir_version=ir).SerializeToString()


def attention_bundle(folder: Path, *, batch: int = 4, dynamic: bool = False, precision: str = "fp16", dialect: str = "pattern",
                     head_size: int = 16, blocks: int = 2, odd: str | None = None, checks: bool = True) -> Path:
    """A bundle of that graph; `checks` adds what the exporter says about fusion."""
    fuses = precision == "fp16" and head_size >= 16 and head_size % 8 == 0
    finding = {"code": "head_size", "holds": fuses, "text": f"head size {head_size} is outside 16 … 256"}
    body = attention_graph(batch="batch" if dynamic else batch, blocks=blocks, head_size=head_size, half=precision == "fp16",
                           dialect="onnx" if dialect == "onnx" else "pattern", odd=odd)
    return put_bundle(folder, body, [{"block": f"block{i}", "dialect": dialect, "fuses": fuses, "findings": [finding]}
                                     for i in range(blocks)] if checks else None,
                      spec=DiTSpec(depth=blocks, width=12, heads=2, image=8, channels=3, classes=4), batch=batch, dynamic=dynamic,
                      precision=precision, dialect=dialect)


def put_bundle(folder: Path, model: bytes, fusion: list[dict[str, Any]] | None, *, spec: DiTSpec, batch: int = 4, dynamic: bool = False,
               precision: str = "fp16", dialect: str = "pattern") -> Path:
    """A bundle artifact around any graph."""
    with create(folder, "bundle") as draft:
        draft.write("model.onnx", model)
        if fusion is not None:
            draft.write("checks.json", json.dumps({"fusion": fusion}))
        draft.spec = spec.to_dict()
        draft.settings = {"precision": precision, "attention": dialect, "batch": batch, "dynamic": dynamic, "guidance_scale": 1.0,
                          "opset": 23 if dialect == "onnx" else 20}
        draft.info = {"label": spec.label, "class_names": list(CLASSES), "null_class": spec.null_class, "parameters": spec.parameters,
                      "deployed_parameters": spec.deployed_parameters}
    return folder
