"""CUDA graphs through cuda-python: what was queued on a stream once is launched again with one call.

pycuda binds no graph call (jetson.md §5.5), so its stream handle goes to cuda-python's driver binding: both speak of the same
primary context. The driver's functions are used and not the runtime's, because pycuda works on the driver level too and no
second library (libcudart) has to be found.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from edgedit.core.errors import EdgeditError, MissingError

MODULES = ("cuda.bindings.driver", "cuda.cuda")
"""The driver binding of cuda-python ≥ 12.6.1 and of those before."""


def import_driver() -> Any:
    """cuda-python's driver binding; MissingError when it is not installed or finds no driver."""
    said: Exception | None = None
    for name in MODULES:
        try:
            return importlib.import_module(name)
        except (ImportError, RuntimeError) as error:  # RuntimeError: installed, but no libcuda
            said = said if said is not None and not isinstance(said, ModuleNotFoundError) else error
    if isinstance(said, ModuleNotFoundError):
        raise MissingError("cuda-python is not installed", fix="pip install 'cuda-python==12.6.*' (JetPack 6), '==13.2.*' (JetPack 7.2)")
    raise MissingError("cuda-python does not load", saw=said, fix="install the cuda-python of the driver's CUDA version")


class CapturedGraph:
    """The work that `enqueue` queues on a stream, captured once; `launch` queues all of it again.

    Addresses are fixed at capture. Made and launched on the thread whose context is current.

    Args:
        driver: from `import_driver`.
        stream_handle: of a stream that is not the default one.
        enqueue: queues the work on that stream; it must not wait for it. It has run once before, so that nothing is set up inside.

    Raises:
        EdgeditError: the work cannot be captured; the stream is usable as before.
    """

    def __init__(self, driver: Any, stream_handle: int, enqueue: Callable[[], None]) -> None:
        self._driver, self._stream = driver, driver.CUstream(stream_handle)
        self._exec: Any = None
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._check(driver.cuStreamBeginCapture(self._stream, mode), "cuStreamBeginCapture")
        try:
            enqueue()
        except BaseException:
            error, graph = driver.cuStreamEndCapture(self._stream)  # leaves the capture; a violated one gives no graph
            if error == driver.CUresult.CUDA_SUCCESS:
                driver.cuGraphDestroy(graph)
            raise
        (graph,) = self._check(driver.cuStreamEndCapture(self._stream), "cuStreamEndCapture")
        try:
            _, nodes = self._check(driver.cuGraphGetNodes(graph, 0), "cuGraphGetNodes")
            if not nodes:
                raise EdgeditError("nothing was captured")
            (self._exec,) = self._check(driver.cuGraphInstantiate(graph, 0), "cuGraphInstantiate")
        finally:
            driver.cuGraphDestroy(graph)

    def launch(self) -> None:
        """Queue the captured work; returns at once."""
        self._check(self._driver.cuGraphLaunch(self._exec, self._stream), "cuGraphLaunch")

    def close(self) -> None:
        """Free the graph. May be called twice."""
        if self._exec is not None:
            self._driver.cuGraphExecDestroy(self._exec)
            self._exec = None

    def _check(self, result: tuple[Any, ...], name: str) -> tuple[Any, ...]:
        """The outputs of a call, without the status; EdgeditError with CUDA's name of the error."""
        if result[0] != self._driver.CUresult.CUDA_SUCCESS:
            raise EdgeditError(f"{name} failed", saw=result[0].name)
        return result[1:]
