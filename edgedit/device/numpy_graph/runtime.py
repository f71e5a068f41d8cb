"""NumPy as a runtime: every exported graph runs right after `pip install`, slowly."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedit.core.errors import ArtifactError, UsageError
from edgedit.device.bundle import IMAGES, LABELS, NOISE, Bundle
from edgedit.device.numpy_graph.onnx_file import FIX, Model, read_model
from edgedit.device.numpy_graph.plan import Plan, make_plan, run
from edgedit.device.runtime import Phases, check_inputs


class NumpyRuntime:
    """A bundle's graph in NumPy; see `edgedit.device.runtime.Runtime` for the attributes.

    FP32 graphs differ from other runtimes by the order of sums. FP16 values are stored as FP16 and computed in float32, rounded once
    per operator; INT8 graphs likewise, with whole numbers as float32 in the products, as their Q/DQ pairs say.
    """

    name = provider = "numpy"

    def __init__(self) -> None:
        self.version = np.__version__
        self.threads: int | None = None
        self.batch: int | None = None
        self.phases = Phases()
        self.options: dict[str, Any] = {}
        self._bundle: Bundle | None = None
        self._plan: Plan | None = None

    def load(self, bundle: Bundle) -> None:
        """Read the graph; ArtifactError when it is damaged or holds what NumPy does not run."""
        model = read_model(bundle.model)
        _check_signature(bundle, model)
        self._plan = make_plan(model)
        self._bundle, self.batch = bundle, None if bundle.dynamic else bundle.batch

    def infer(self, noise: NDArray[np.float32], labels: NDArray[np.int32]) -> NDArray[np.uint8]:
        """float32 (B, C, H, W) and int32 (B,) → uint8 (B, H, W, C)."""
        if self._bundle is None or self._plan is None:
            raise UsageError("this runtime holds no bundle: call load first")
        check_inputs(self._bundle, self.batch, noise, labels)
        start = time.perf_counter()
        images = np.array(run(self._plan, {NOISE: noise, LABELS: labels})[0], order="C")  # a copy: it may be a view of something kept
        self.phases = Phases(compute_s=time.perf_counter() - start)
        if images.dtype != np.uint8 or images.shape != (len(noise), *self._bundle.image_shape):
            raise ArtifactError(f"{self._bundle.model} does not give the images that it declares", saw=f"{images.dtype} {images.shape}",
                                fix=FIX)
        return images

    def close(self) -> None:
        """Drop the graph."""
        self._plan = self._bundle = None


def _check_signature(bundle: Bundle, model: Model) -> None:
    """The graph must take and give what the manifest says."""
    rows = None if bundle.dynamic else bundle.batch
    wanted = {NOISE: ("float32", (rows, *bundle.noise_shape)), LABELS: ("int32", (rows,)), IMAGES: ("uint8", (rows, *bundle.image_shape))}
    found = {value.name: (str(value.dtype), value.shape) for value in (*model.inputs, *model.outputs)}
    if found != wanted:
        def text(values: dict[str, Any]) -> str:
            return "; ".join(f"{name} {kind} {shape}" for name, (kind, shape) in sorted(values.items()))

        raise ArtifactError(f"{bundle.model} does not take and give what the manifest says ({text(wanted)})", saw=text(found), fix=FIX)
