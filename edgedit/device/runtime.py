"""What every runtime offers, and how one is chosen. ONNX Runtime, TensorRT and NumPy are built in; others register under a name."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgedit.core.errors import ArtifactError, MissingError, UsageError, did_you_mean
from edgedit.core.say import Event, Say, silent
from edgedit.core.settings import Settings
from edgedit.device.bundle import Bundle


@dataclass(frozen=True)
class Phases:
    """Seconds that the last batch spent moving inputs in, running the graph, and moving images out.

    On a runtime that shares memory with the host the moves are 0. `noise_s` is making the noise on the device; None where the
    host makes it.
    """

    upload_s: float = 0.0
    compute_s: float = 0.0
    download_s: float = 0.0
    noise_s: float | None = None


class Runtime(Protocol):
    """One way to run a bundle. Made idle, then `load` once, `infer` many times from one thread, `close` once.

    One that works beside the host also offers `lanes` (`edgedit.device.lane`), which the pipeline then uses instead of `infer`.
    One that runs on a GPU may tell its facts as `gpu` (`edgedit.device.cuda.facts.GpuFacts`).

    Attributes:
        name: "ort", "trt", "numpy", "torch".
        provider: what really runs the graph ("CPUExecutionProvider"), read back from the runtime after `load`.
        version: of the runtime library.
        batch: the only batch that the loaded graph takes; None for any.
        threads: threads inside one run, where that was chosen; None for the runtime's own choice.
        phases: of the last `infer`.
        options: facts worth keeping in a record (provider options, nodes left on another provider).
    """

    name: str
    provider: str
    version: str
    batch: int | None
    threads: int | None
    phases: Phases
    options: dict[str, Any]

    def load(self, bundle: Bundle) -> None:
        """Read the graph and make it ready to run."""

    def infer(self, noise: NDArray[np.float32], labels: NDArray[np.int32]) -> NDArray[np.uint8]:
        """float32 (B, C, H, W) and int32 (B,) → uint8 (B, H, W, C).

        The result is the caller's: the next call does not overwrite it. The inputs are free again on return.
        """

    def close(self) -> None:
        """Let go of memory and threads. May be called twice."""


class RuntimeChoice(Settings):
    """Which runtime to use, as the command line asks for it."""

    name: str = "auto"
    """"auto", "ort", "trt", "numpy", or another registered name. "auto" is TensorRT where an engine was built for this bundle on this
    board, else ONNX Runtime, and NumPy where that is not installed and none of its options is given."""
    provider: str | None = None
    """ONNX Runtime: "cpu" (default), "cuda", "tensorrt", or the full name of an execution provider."""
    threads: int | None = None
    """Threads inside one run; None leaves it to the runtime."""
    fallback: bool = False
    """Allow another provider to take over what the chosen one cannot run. Otherwise that is an error."""
    provider_options: dict[str, str] = Field(default_factory=dict)
    """Passed on to the execution provider."""
    engine: Path | None = None
    """TensorRT: folder of the engine (`edgedit build`); None takes the one in the cache."""
    cuda_graph: bool = True
    """TensorRT: launch each batch as one CUDA graph where cuda-python is installed."""
    device_noise: bool = True
    """TensorRT: make the noise on the GPU where nvcc is installed. The same noise either way, to the last bits of log, sin and cos."""


Factory = Callable[[RuntimeChoice], Runtime]


def _ort(choice: RuntimeChoice) -> Runtime:
    from edgedit.device.ort import OrtRuntime

    return OrtRuntime(provider=choice.provider, threads=choice.threads, fallback=choice.fallback,
                      provider_options=choice.provider_options)


def _trt(choice: RuntimeChoice) -> Runtime:
    from edgedit.device.trt.module import import_tensorrt

    if choice.provider is not None or choice.threads is not None or choice.provider_options:
        raise UsageError("provider and threads are ONNX Runtime's; TensorRT has neither", fix="leave --provider and --threads out")
    import_tensorrt()
    from edgedit.device.trt.runtime import TrtRuntime

    return TrtRuntime(choice.engine, cuda_graph=choice.cuda_graph, device_noise=choice.device_noise)


def _numpy(choice: RuntimeChoice) -> Runtime:
    from edgedit.device.numpy_graph.runtime import NumpyRuntime

    if _has_ort_options(choice):
        raise UsageError("provider, threads and fallback are ONNX Runtime's; NumPy has none of them",
                         fix="leave --provider, --threads and --fallback out, or pip install 'edgedit[cpu]' and --runtime ort")
    if choice.engine is not None:
        raise UsageError("an engine is TensorRT's; NumPy runs the bundle's own graph", saw=choice.engine,
                         fix="leave --engine out, or --runtime trt")
    return NumpyRuntime()


_FACTORIES: dict[str, Factory] = {"ort": _ort, "trt": _trt, "numpy": _numpy}


def register(name: str, factory: Factory) -> None:
    """Offer another runtime under `name`. `factory` makes it idle: no device is touched before `load`."""
    _FACTORIES[name] = factory


def runtime_names() -> list[str]:
    """Names that `open_runtime` knows."""
    return ["auto", *_FACTORIES]


def open_runtime(bundle: Bundle, name: str = "auto", *, provider: str | None = None, threads: int | None = None,
                 fallback: bool = False, provider_options: dict[str, str] | None = None, engine: str | Path | None = None,
                 cuda_graph: bool = True, device_noise: bool = True) -> Runtime:
    """A runtime with `bundle` loaded; the caller closes it. The arguments are those of `RuntimeChoice`.

    Raises:
        UsageError: unknown runtime or provider, threads below 1.
        MissingError: the package or the provider is not installed, or no engine was built; the text says what to type.
        ArtifactError: the graph cannot be loaded or does not take and give what the manifest says; an engine of another board.
    """
    return _open(bundle, RuntimeChoice(name=name, provider=provider, threads=threads, fallback=fallback,
                                       provider_options=provider_options or {}, engine=None if engine is None else Path(engine),
                                       cuda_graph=cuda_graph, device_noise=device_noise))


@contextmanager
def opened(bundle: Bundle, runtime: Runtime | RuntimeChoice | str) -> Iterator[Runtime]:
    """`runtime` ready for `bundle`: a choice or name is opened and closed here, a loaded runtime is used and left open.

    A loaded one needs `infer`, `close`, `name`, `provider` and `version` only; what it does not tell of the rest is filled in.
    """
    if not isinstance(runtime, (RuntimeChoice, str)):
        yield runtime if hasattr(runtime, "phases") else _Timed(runtime)
        return
    ready = _open(bundle, runtime if isinstance(runtime, RuntimeChoice) else RuntimeChoice(name=runtime))
    try:
        yield ready
    finally:
        ready.close()


def settle(bundle: Bundle, runtime: Runtime | RuntimeChoice | str, *, say: Say = silent) -> Runtime | RuntimeChoice:
    """The same with "auto" made definite, so that what is described is what runs; anything else as it is.

    Where "auto" comes down to NumPy, `say` hears a warning.
    """
    if not isinstance(runtime, (RuntimeChoice, str)):
        return runtime
    asked = runtime if isinstance(runtime, RuntimeChoice) else RuntimeChoice(name=runtime)
    settled = _settle(bundle, asked)
    if asked.name == "auto" and settled.name == "numpy":
        say(Event("ONNX Runtime is not installed, so NumPy runs the graph: right, but slow. For speed: pip install 'edgedit[cpu]', "
                  "on an NVIDIA GPU 'edgedit[gpu]'", level="warning"))
    return settled


def describe(runtime: Runtime | RuntimeChoice | str) -> dict[str, Any]:
    """What was asked for, in plain values that two runs can compare; after `settle`."""
    if isinstance(runtime, str):
        runtime = RuntimeChoice(name=runtime)
    if isinstance(runtime, RuntimeChoice):
        return runtime.model_dump(mode="json")
    return {"name": runtime.name, "provider": runtime.provider, "version": runtime.version}


class _Timed:
    """A runtime that does not time itself: the whole call counts as compute."""

    def __init__(self, inner: Any) -> None:
        self.name, self.provider, self.version = str(inner.name), str(inner.provider), str(inner.version)
        self.batch: int | None = getattr(inner, "batch", None)
        self.threads: int | None = getattr(inner, "threads", None)
        self.options: dict[str, Any] = dict(getattr(inner, "options", {}))
        self.phases = Phases()
        self._inner = inner

    def load(self, bundle: Bundle) -> None:
        """Nothing: it came loaded."""

    def infer(self, noise: NDArray[np.float32], labels: NDArray[np.int32]) -> NDArray[np.uint8]:
        start = time.perf_counter()
        images: NDArray[np.uint8] = self._inner.infer(noise, labels)
        self.phases = Phases(compute_s=time.perf_counter() - start)
        return images

    def close(self) -> None:
        self._inner.close()


def check_inputs(bundle: Bundle, batch: int | None, noise: NDArray[np.float32], labels: NDArray[np.int32]) -> None:
    """Raise UsageError unless the arrays are what the graph takes. For runtimes to call first in `infer`."""
    rows = noise.shape[0] if noise.ndim else 0
    if noise.dtype != np.float32 or noise.shape[1:] != bundle.noise_shape or rows < 1 or batch not in (None, rows):
        raise UsageError(f"noise must be float32 ({batch or 'B'}, {', '.join(map(str, bundle.noise_shape))})",
                         saw=f"{noise.dtype} {noise.shape}")
    if labels.dtype != np.int32 or labels.shape != (rows,):
        raise UsageError(f"labels must be int32 ({rows},)", saw=f"{labels.dtype} {labels.shape}")
    if labels.min() < 0 or labels.max() >= bundle.spec.rows:
        raise UsageError(f"labels must be in 0 … {bundle.spec.rows - 1}", saw=f"{labels.min()} … {labels.max()}")


def _open(bundle: Bundle, choice: RuntimeChoice) -> Runtime:
    choice = _settle(bundle, choice)
    name = choice.name
    if name not in _FACTORIES:
        raise UsageError(f"unknown runtime '{name}'", fix=did_you_mean(name, runtime_names()))
    if choice.threads is not None and choice.threads < 1:
        raise UsageError("--threads must be 1 or more", saw=choice.threads)
    runtime = _FACTORIES[name](choice)
    try:
        runtime.load(bundle)
    except BaseException:
        runtime.close()
        raise
    return runtime


def _settle(bundle: Bundle, choice: RuntimeChoice) -> RuntimeChoice:
    if choice.name != "auto":
        return choice
    name = "trt" if _engine_here(bundle, choice) else "ort" if _has_ort_options(choice) or _has_ort() else "numpy"
    return choice.model_copy(update={"name": name})


def _has_ort() -> bool:
    try:
        spec = importlib.util.find_spec("onnxruntime")
        return spec is not None and spec.origin is not None  # without: a folder that an uninstallation left
    except (ImportError, ValueError):  # hidden by a finder, or half removed
        return False


def _has_ort_options(choice: RuntimeChoice) -> bool:
    return choice.provider is not None or choice.threads is not None or choice.fallback or bool(choice.provider_options)


def _engine_here(bundle: Bundle, choice: RuntimeChoice) -> bool:
    """Whether TensorRT can run this bundle here: it is installed, there is a GPU, and the engine asked for or a cached one fits."""
    if choice.engine is not None:
        return True
    if choice.provider is not None or choice.threads is not None or importlib.util.find_spec("tensorrt") is None:
        return False
    from edgedit.device.cuda.device import read_gpu
    from edgedit.device.trt.engine import find_engine, wanted_key
    from edgedit.device.trt.module import import_tensorrt, tensorrt_version

    try:
        find_engine(bundle, wanted_key(bundle, tensorrt_version(import_tensorrt()), read_gpu()))
    except (MissingError, ArtifactError):
        return False
    return True
