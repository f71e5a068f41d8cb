"""TensorRT: a built engine on the GPU, batches in flight, noise made beside the graph."""

from __future__ import annotations

import atexit
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt as trt
from numpy.typing import NDArray

from edgedit.core.errors import EdgeditError, UsageError
from edgedit.device.bundle import Bundle
from edgedit.device.cuda.device import Device
from edgedit.device.cuda.facts import GpuFacts
from edgedit.device.cuda.graph import CapturedGraph, import_driver
from edgedit.device.cuda.kernels import Kernels
from edgedit.device.lane import Lane
from edgedit.device.runtime import Phases, check_inputs
from edgedit.device.trt.engine import Engine, find_engine, wanted_key
from edgedit.device.trt.lanes import Parts, Streams, TrtLane
from edgedit.device.trt.loaded import LoadedPlan


class TrtRuntime:
    """A bundle's engine in TensorRT; see `edgedit.device.runtime.Runtime` for the attributes.

    `options` says which engine ran, whether host memory was used in place (`zero_copy`), whether batches were launched as CUDA
    graphs (`cuda_graph`) and where the noise was made (`noise`), each with the reason where it is not the fast way.

    Args:
        engine_folder: of an engine that `edgedit build` wrote; None takes the one in the cache that fits bundle and board.
        cuda_graph: capture each lane's run as a graph when cuda-python is installed.
        device_noise: make noise on the GPU when nvcc is installed.
    """

    name = "trt"
    threads: int | None = None

    def __init__(self, engine_folder: Path | None = None, *, cuda_graph: bool = True, device_noise: bool = True) -> None:
        self._folder, self._graph_wanted, self._noise_wanted = engine_folder, cuda_graph, device_noise
        self.provider, self.version = f"TensorRT {trt.__version__}", str(trt.__version__)
        self.batch: int | None = None
        self.phases = Phases()
        self.options: dict[str, Any] = {}
        self.gpu: GpuFacts | None = None
        self._bundle: Bundle | None = None
        self._device: Device | None = None
        self._plan: LoadedPlan | None = None
        self._parts: Parts | None = None
        self._driver: Any = None
        self._lanes: list[TrtLane] = []
        self._graphs: list[CapturedGraph] = []

    def load(self, bundle: Bundle) -> None:
        """Find the engine, check it, and make it ready.

        Raises:
            MissingError: pycuda or a GPU is missing, or no engine was built.
            ArtifactError: the engine is altered, of another board, TensorRT, batch or bundle, or does not fit the bundle.
            EdgeditError: the GPU's memory is full.
        """
        self._device = device = Device()
        atexit.register(self.close)  # after the device's own, so before it: the engine must go while there is a context
        self.gpu = device.facts
        self.provider = f"TensorRT {self.version} on {device.facts.name} ({device.facts.architecture})"
        engine = find_engine(bundle, wanted_key(bundle, self.version, device.facts), folder=self._folder)
        self._plan = plan = LoadedPlan(engine.read(), str(engine.plan), bundle, device)
        kernels, noise = self._make_kernels(device, needed=not plan.signature.quantised)
        self._parts = Parts(device, plan, Streams(device), kernels, noise == "gpu", bundle.noise_shape,
                            bundle.guidance_scale if plan.signature.halves else None)
        self.batch, self._bundle = plan.signature.batch, bundle
        self.options = {"engine": engine.key.digest, "engine_path": str(engine.path), "zero_copy": device.zero_copy,
                        "cuda_graph": self._find_driver(), "noise": noise, "engine_memory_mb": round(plan.memory_bytes / 1e6, 1),
                        **_fusion(engine)}
        if self.batch is not None:
            self.lanes(self.batch, 1)  # buffers, first run and capture belong to loading

    def lanes(self, batch: int, count: int) -> list[Lane]:
        """See `edgedit.device.lane.LaneRuntime`. Lanes of another batch are given back first.

        Raises:
            UsageError: the engine takes no such batch, or another thread than the one that loaded calls.
            EdgeditError: the GPU's memory is full.
        """
        parts = self._ready()
        parts.device.cuda.Context.synchronize()  # after a run that was broken off, something may be queued still
        if self._lanes and self._lanes[0].rows != batch:
            self._drop_lanes()
        while len(self._lanes) < count:
            lane = TrtLane(parts, batch)
            self._lanes.append(lane)
            lane.run_once()
            self._capture(lane)
        return list(self._lanes[:count])

    def infer(self, noise: NDArray[np.float32], labels: NDArray[np.int32]) -> NDArray[np.uint8]:
        """float32 (B, C, H, W) and int32 (B,) → uint8 (B, H, W, C)."""
        self._ready()
        if self._bundle is not None:
            check_inputs(self._bundle, self.batch, noise, labels)
        self.lanes(len(noise), 1)
        lane = self._lanes[0]
        lane.put(noise, labels)
        lane.launch()
        images = lane.collect()
        self.phases = lane.phases
        return images

    def close(self) -> None:
        """Wait for the GPU and free everything on it."""
        if self._device is None:
            return
        device, self._device = self._device, None
        self._drop_lanes()
        if self._plan is not None:
            self._plan.close()
        self._plan = self._parts = self._bundle = None
        device.close()
        atexit.unregister(self.close)

    def _ready(self) -> Parts:
        if self._parts is None:
            raise UsageError("this runtime holds no bundle: call load first")
        self._parts.device.check_thread()
        return self._parts

    def _make_kernels(self, device: Device, *, needed: bool) -> tuple[Kernels | None, str]:
        """The kernels, and where noise is made: "gpu", or "host: " and why. EdgeditError where the plan needs them and they fail."""
        if not self._noise_wanted and not needed:
            return None, "host: as asked"
        try:
            return Kernels(device), "gpu" if self._noise_wanted else "host: as asked"
        except EdgeditError as error:
            if needed:
                raise
            return None, f"host: {_said(error)}"

    def _find_driver(self) -> str:
        """Sets the binding that captures; "captured", or "off: " and why."""
        if not self._graph_wanted:
            return "off: as asked"
        try:
            self._driver = import_driver()
        except EdgeditError as error:
            return f"off: {_said(error)}"
        return "captured"

    def _capture(self, lane: TrtLane) -> None:
        """Capture the lane's run; where that fails, all lanes go on without, and the options say so."""
        parts = self._ready()
        if self._driver is None:
            return
        try:
            graph = CapturedGraph(self._driver, parts.streams.compute.handle, lane.enqueue)
        except (EdgeditError, parts.device.cuda.Error) as error:
            self._driver = None
            self.options["cuda_graph"] = f"off: {_said(error)}"
            self._drop_graphs()
            return
        self._graphs.append(graph)
        lane.replay(graph.launch)

    def _drop_graphs(self) -> None:
        for lane in self._lanes:
            lane.replay(None)
        for graph in self._graphs:
            graph.close()
        self._graphs.clear()

    def _drop_lanes(self) -> None:
        self._drop_graphs()
        for lane in self._lanes:
            lane.close()
        self._lanes.clear()


def _said(error: Exception) -> str:
    """What happened and, in brackets, what was seen."""
    if not isinstance(error, EdgeditError):
        return str(error)
    return error.what + (f" ({error.saw})" if error.saw else "")


def _fusion(engine: Engine) -> dict[str, Any]:
    """Which attention blocks run as one kernel, as the build's inspector read it."""
    fusion = engine.info.get("fusion")
    return {} if fusion is None else {"fusion": fusion}
