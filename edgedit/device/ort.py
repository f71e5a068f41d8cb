"""ONNX Runtime: CPU everywhere; CUDA and TensorRT through its execution providers, checked rather than assumed."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedit.core.errors import ArtifactError, EdgeditError, MissingError, UsageError, did_you_mean
from edgedit.device.bundle import IMAGES, LABELS, NOISE, Bundle
from edgedit.device.jetpack import version_numbers
from edgedit.device.runtime import Phases, check_inputs

CPU = "CPUExecutionProvider"
PROVIDERS = {"cpu": CPU, "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider",
             "trt": "TensorrtExecutionProvider"}
_HEAVY = {"MatMul", "Gemm", "Conv", "Attention", "MultiHeadAttention", "Softmax", "LayerNormalization", "Gelu"}
_INSTALL = "pip install 'edgedit[cpu]' (or 'edgedit[gpu]' for an NVIDIA GPU)"


def import_onnxruntime() -> Any:
    """The `onnxruntime` module with its telemetry off; MissingError when it is not installed.

    Official builds from 1.29 on send usage events unless told otherwise: by the variable before the first import, and by a
    call for builds that do not know the variable.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise MissingError("ONNX Runtime is not installed", saw=error, fix=_INSTALL) from error
    ort.disable_telemetry_events()
    return ort


def _faulty_optimizers(version: str) -> list[str]:
    """Fusions that this ONNX Runtime gets wrong.

    Up to 1.23, the newest for Python 3.10, a residual sum is fused with a LayerNormalization although its scale is one per sample
    (dialect "ort"); the fused operator then refuses it: "gamma is expected to have 1 dimension, got 3". Right from 1.24 on.
    """
    return ["SkipLayerNormFusion"] if version_numbers(version) < (1, 24) else []


class OrtRuntime:
    """A bundle in an ONNX Runtime session; see `edgedit.device.runtime.Runtime` for the attributes.

    Args:
        provider: "cpu" (default), "cuda", "tensorrt", or an execution provider's full name.
        threads: of one operator (intra-op); None for all cores.
        fallback: let ONNX Runtime put matrix products, attention or normalisations that the provider refuses on the CPU.
            Without it that is an error: the figures would be those of another device.
        provider_options: for the provider, as its documentation names them.
    """

    name = "ort"

    def __init__(self, provider: str | None = None, threads: int | None = None, *, fallback: bool = False,
                 provider_options: dict[str, str] | None = None) -> None:
        self._asked = _provider_name(provider)
        self._fallback, self._provider_options = fallback, dict(provider_options or {})
        self.threads, self.phases = threads, Phases()
        self.provider, self.version = self._asked, ""
        self.batch: int | None = None
        self.options: dict[str, Any] = {}
        self._bundle: Bundle | None = None
        self._session: Any = None
        self._binding: _DeviceBinding | None = None

    def load(self, bundle: Bundle) -> None:
        """Make a session; MissingError or ArtifactError when the provider or the graph is not usable."""
        ort = import_onnxruntime()
        self.version = ort.__version__
        if self._asked not in ort.get_available_providers():
            fix = _INSTALL if self._asked == CPU else "pip uninstall onnxruntime && pip install 'edgedit[gpu]'"
            raise MissingError(f"this ONNX Runtime has no {self._asked}", saw=", ".join(ort.get_available_providers()), fix=fix)
        session = self._make_session(ort, bundle)
        used = session.get_providers()
        self.provider = used[0]
        if self.provider != self._asked and not self._fallback:
            raise MissingError(f"{self._asked} could not start; ONNX Runtime fell back to {self.provider}", saw=", ".join(used),
                               fix="edgedit doctor shows what is missing; --fallback accepts the other provider")
        self.options = {"providers": used, "provider_options": self._provider_options}
        self._note_strays(session)
        _check_signature(bundle, session)
        self.batch = None if bundle.dynamic else bundle.batch
        self._bundle, self._session = bundle, session
        if self.provider != CPU:
            self._binding = _DeviceBinding(ort, session)

    def infer(self, noise: NDArray[np.float32], labels: NDArray[np.int32]) -> NDArray[np.uint8]:
        """float32 (B, C, H, W) and int32 (B,) → uint8 (B, H, W, C)."""
        if self._bundle is None:
            raise UsageError("this runtime holds no bundle: call load first")
        check_inputs(self._bundle, self.batch, noise, labels)
        try:
            if self._binding is not None:
                images, self.phases = self._binding.infer(noise, labels)
            else:
                start = time.perf_counter()
                images = self._session.run([IMAGES], {NOISE: noise, LABELS: labels})[0]
                self.phases = Phases(compute_s=time.perf_counter() - start)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise EdgeditError("ONNX Runtime failed while running the graph", saw=_first_line(error)) from error
        return images

    def close(self) -> None:
        """Drop the session."""
        self._session = self._binding = self._bundle = None

    def _make_session(self, ort: Any, bundle: Bundle) -> Any:
        options = ort.SessionOptions()
        options.log_severity_level = 3  # errors only; the rest is said through exceptions and the record
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        if self._asked == CPU:
            # Planned allocation holds a second copy of all activations beside the arena that the first run grew: 617 MB instead
            # of 433 MB for (5,64,8) at batch 128 with guidance, at the same processor time.
            options.enable_mem_pattern = False
        else:
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        providers = [(self._asked, self._provider_options)] + ([CPU] if self._asked != CPU else [])
        try:
            return ort.InferenceSession(str(bundle.model), options, providers=providers, enable_fallback=0,
                                        disabled_optimizers=_faulty_optimizers(ort.__version__))
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise _load_error(ort, bundle, self._asked, error) from error

    def _note_strays(self, session: Any) -> None:
        """Which operators the chosen provider left to another one: into `options`, or an error when they are the real work."""
        if self._asked == CPU or not hasattr(session, "get_provider_graph_assignment_info"):
            return
        strays = Counter(node.op_type for part in session.get_provider_graph_assignment_info()
                         if part.ep_name != self._asked for node in part.get_nodes())
        if not strays:
            return
        self.options["nodes_elsewhere"] = dict(strays)
        heavy = {op: n for op, n in strays.items() if op in _HEAVY}
        if heavy and not self._fallback:
            raise MissingError(f"{self._asked} leaves part of the network to the CPU",
                               saw=", ".join(f"{op} ×{n}" for op, n in sorted(heavy.items())),
                               fix="export with another --attention, use a newer onnxruntime-gpu, or accept it with --fallback")


class _DeviceBinding:
    """Inputs and output that stay on the device, so that the copies can be timed apart from the graph."""

    def __init__(self, ort: Any, session: Any, device: str = "cuda") -> None:
        self._ort, self._session, self._device = ort, session, device
        self._binding = session.io_binding()
        self._values: dict[str, Any] = {}
        self._rows = 0

    def infer(self, noise: NDArray[np.float32], labels: NDArray[np.int32]) -> tuple[NDArray[np.uint8], Phases]:
        start = time.perf_counter()
        noise, labels = np.ascontiguousarray(noise), np.ascontiguousarray(labels)
        if len(noise) != self._rows:
            for name, value in ((NOISE, noise), (LABELS, labels)):
                self._values[name] = self._ort.OrtValue.ortvalue_from_numpy(value, self._device, 0)
                self._binding.bind_ortvalue_input(name, self._values[name])
            self._binding.bind_output(IMAGES, self._device, 0)
            self._rows = len(noise)
        else:
            self._values[NOISE].update_inplace(noise)
            self._values[LABELS].update_inplace(labels)
        self._binding.synchronize_inputs()
        uploaded = time.perf_counter()
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()
        computed = time.perf_counter()
        images = self._binding.get_outputs()[0].numpy()
        if self._device == "cpu":
            images = images.copy()  # on the CPU that was a view of the bound output
        return images, Phases(uploaded - start, computed - uploaded, time.perf_counter() - computed)


def _provider_name(provider: str | None) -> str:
    name = provider or "cpu"
    if name.lower() in PROVIDERS:
        return PROVIDERS[name.lower()]
    if name.endswith("ExecutionProvider"):
        return name
    raise UsageError(f"unknown provider '{name}'", fix=did_you_mean(name, PROVIDERS))


def _check_signature(bundle: Bundle, session: Any) -> None:
    """The graph must take and give what the manifest says."""
    rows: Any = None if bundle.dynamic else bundle.batch
    wanted = {NOISE: ("tensor(float)", (rows, *bundle.noise_shape)), LABELS: ("tensor(int32)", (rows,)),
              IMAGES: ("tensor(uint8)", (rows, *bundle.image_shape))}
    found = {value.name: (value.type, tuple(d if isinstance(d, int) else None for d in value.shape))
             for value in (*session.get_inputs(), *session.get_outputs())}
    if found != wanted:
        def text(values: dict[str, Any]) -> str:
            return "; ".join(f"{name} {kind} {shape}" for name, (kind, shape) in sorted(values.items()))

        raise ArtifactError(f"{bundle.model} does not take and give what the manifest says ({text(wanted)})", saw=text(found),
                            fix="export the student again")


def _load_error(ort: Any, bundle: Bundle, provider: str, error: Exception) -> EdgeditError:
    saw = _first_line(error)
    if provider != CPU and type(error).__name__ not in ("InvalidProtobuf", "InvalidGraph"):
        return MissingError(f"{provider} could not load {bundle.model}", saw=saw,
                            fix="edgedit doctor shows what is missing; --provider cpu runs without it")
    return ArtifactError(f"ONNX Runtime {ort.__version__} cannot load {bundle.model}", saw=saw,
                         fix="export again with --attention pattern, which every version reads" if bundle.attention != "pattern"
                         else "export the student again, or install a newer onnxruntime")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:400]
