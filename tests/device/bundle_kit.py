"""Small real bundles and runtimes for the tests of the device room."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from edgedit.core.artifact import create
from edgedit.core.noise import noise
from edgedit.core.spec import DiTSpec
from edgedit.device.bundle import Bundle
from edgedit.device.runtime import Phases

CLASSES = ("ant", "bee", "cat", "dog")


def small_spec(image: int = 8, channels: int = 3, classes: int = 4) -> DiTSpec:
    return DiTSpec(depth=1, width=8, heads=2, image=image, channels=channels, classes=classes)


def expected(bundle: Bundle, seed: int, indices: Any, labels: Any) -> np.ndarray:
    """What the test graph makes of this noise: uint8 (N, H, W, C)."""
    levels = noise(seed, indices, bundle.noise_shape) * np.float32(12) + np.float32(40)
    levels = levels + np.asarray(labels, np.float32)[:, None, None, None] * np.float32(50)
    return np.clip(levels, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def graph(spec: DiTSpec, batch: int | str, **changes: Any) -> bytes:
    """An ONNX graph with a bundle's inputs and output: brighter by class, exact in float32."""
    from onnx import TensorProto as T
    from onnx import helper as h
    from onnx import numpy_helper

    size, c = spec.image, spec.channels
    constants = {"scale": np.float32(12), "base": np.float32(40), "step": np.float32(50), "low": np.float32(0),
                 "high": np.float32(255), "shape": np.array([-1, 1, 1, 1])}
    nodes = [h.make_node("Mul", ["noise", "scale"], ["a"]), h.make_node("Add", ["a", "base"], ["b"]),
             h.make_node("Cast", ["labels"], ["l"], to=T.FLOAT), h.make_node("Reshape", ["l", "shape"], ["m"]),
             h.make_node("Mul", ["m", "step"], ["n"]), h.make_node("Add", ["b", "n"], ["d"]),
             h.make_node("Clip", ["d", "low", "high"], ["e"]), h.make_node("Cast", ["e"], ["f"], to=T.UINT8),
             h.make_node("Transpose", ["f"], [changes.get("output", "images")], perm=[0, 2, 3, 1])]
    inputs = [h.make_tensor_value_info("noise", T.FLOAT, [batch, c, size, size]),
              h.make_tensor_value_info("labels", T.INT32, [batch])]
    outputs = [h.make_tensor_value_info(changes.get("output", "images"), T.UINT8, [batch, size, size, c])]
    weights = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    body = h.make_graph(nodes, "test", inputs, outputs, weights)
    model = h.make_model(body, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()


def make_bundle(folder: Path, *, batch: int = 4, dynamic: bool = False, spec: DiTSpec | None = None,
                class_names: tuple[str, ...] | None = None, model: bytes | None = None, settings: dict[str, Any] | None = None,
                info: dict[str, Any] | None = None) -> Path:
    """Write a bundle artifact; `settings` and `info` change or (with None) remove single entries."""
    spec = spec or small_spec()
    names = class_names or (CLASSES if spec.classes == 4 else tuple(str(k) for k in range(spec.classes)))
    with create(folder, "bundle") as draft:
        draft.write("model.onnx", model if model is not None else graph(spec, "batch" if dynamic else batch))
        draft.spec = spec.to_dict()
        base = {"precision": "fp32", "attention": "pattern", "batch": batch, "dynamic": dynamic, "guidance_scale": 1.5,
                "opset": 17}
        facts = {"label": spec.label, "class_names": list(names), "null_class": spec.null_class, "parameters": spec.parameters,
                 "deployed_parameters": spec.deployed_parameters}
        draft.settings = {k: v for k, v in {**base, **(settings or {})}.items() if v is not None}
        draft.info = {k: v for k, v in {**facts, **(info or {})}.items() if v is not None}
    return folder


class PyRuntime:
    """A runtime in Python for what ONNX Runtime cannot be made to do: wait, fail or be interrupted on cue."""

    name, provider, version, threads = "py", "python", "1", None

    def __init__(self, bundle: Bundle, *, sleep_s: float = 0.0, on_call: Any = None) -> None:
        self.bundle, self.batch = bundle, None if bundle.dynamic else bundle.batch
        self.phases, self.options = Phases(), {}
        self.calls, self.closed, self._sleep_s, self._on_call = 0, False, sleep_s, on_call

    def load(self, bundle: Bundle) -> None:
        pass

    def infer(self, noise: np.ndarray, labels: np.ndarray) -> np.ndarray:
        start = time.perf_counter()
        self.calls += 1
        if self._sleep_s:
            time.sleep(self._sleep_s)
        if self._on_call is not None:
            self._on_call(self.calls)
        images = np.zeros((len(noise), *self.bundle.image_shape), np.uint8)
        images[:] = labels.astype(np.uint8)[:, None, None, None] * 60
        self.phases = Phases(0.0, time.perf_counter() - start, 0.0)
        return images

    def close(self) -> None:
        self.closed = True
