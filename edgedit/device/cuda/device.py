"""One GPU through pycuda: its facts, its primary context, memory that the host and the GPU share, streams and events.

The primary context is the one that TensorRT, cuda-python and every library on the CUDA runtime use too (jetson.md §5.5), so
all of them see the same memory and streams. It is current on the thread that opened the device, and CUDA calls belong there.
"""

from __future__ import annotations

import atexit
import ctypes
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edgedit.core.errors import EdgeditError, MissingError, UsageError
from edgedit.device.cuda.facts import GpuFacts

_BUILD = "export PATH=/usr/local/cuda/bin:$PATH && pip install 'edgedit[jetson]'"
_DROP = "close other programs, free the page cache (sync; echo 3 | sudo tee /proc/sys/vm/drop_caches), or build for a smaller batch: "
MIB = 1 << 20


def import_pycuda() -> Any:
    """The module `pycuda.driver`, initialised.

    Raises:
        MissingError: pycuda is not installed (it is built on the board, jetson.md §1.3), there is no CUDA driver, or no GPU.
    """
    try:
        import pycuda.driver as cuda
    except ModuleNotFoundError as error:
        raise MissingError("pycuda is not installed", saw=error,
                           fix=f"it is compiled here, by nvcc's headers and g++ (sudo apt install build-essential): {_BUILD}") from error
    except ImportError as error:
        if "libcuda.so" in str(error):
            raise MissingError("there is no CUDA driver", saw=error,
                               fix="on a Jetson reinstall JetPack's nvidia-l4t-cuda; in a container add --runtime nvidia") from error
        raise MissingError("pycuda is installed, but does not load", saw=error,
                           fix=f"build it again for this CUDA: pip uninstall pycuda && {_BUILD} --no-cache-dir") from error
    try:
        cuda.init()
        count = cuda.Device.count()
    except cuda.Error as error:
        raise _no_gpu(error) from error
    if not count:
        raise _no_gpu("no device")
    return cuda


def _no_gpu(saw: object) -> MissingError:
    return MissingError("CUDA finds no GPU", saw=saw,
                        fix="in a container add --runtime nvidia; edgedit doctor shows the driver; --runtime ort runs on the CPU")


def read_gpu() -> GpuFacts:
    """What GPU 0 is now. Opens its primary context for the moment, since only that knows the free memory.

    Raises:
        MissingError: pycuda or a GPU is missing.
    """
    device = Device()
    try:
        return device.facts
    finally:
        device.close()


@dataclass(frozen=True)
class Shared:
    """Pinned host memory: numpy sees `array`, and where it is mapped (integrated GPUs) the GPU sees it at `address`, else 0."""

    array: NDArray[Any]
    address: int


class Device:
    """GPU 0, its primary context current on this thread until `close`; everything taken from it is freed then.

    Attributes:
        facts: of the GPU, read when it was opened.
        zero_copy: host memory is used by the GPU in place (integrated GPUs, jetson.md §5.7).

    Raises:
        MissingError: as `import_pycuda`; also when the context cannot be made.
    """

    def __init__(self) -> None:
        self.cuda = import_pycuda()
        device = self.cuda.Device(0)
        try:
            self._context = device.retain_primary_context()
            self._context.push()
        except self.cuda.Error as error:
            raise MissingError("the GPU gives no context", saw=error,
                               fix="close programs that use the GPU, or restart the board") from error
        self._thread = threading.get_ident()
        self._open = True
        self._blocks: list[Any] = []
        atexit.register(self.close)  # pycuda aborts a process that ends with a context on its stack
        try:
            self.facts = self._read(device)
        except BaseException:
            self.close()
            raise
        self.zero_copy = self.facts.integrated

    def check_thread(self) -> None:
        """UsageError on any thread but the one that opened the device: the context is not current there."""
        if threading.get_ident() != self._thread:
            raise UsageError("a GPU runtime is used from the thread that loaded it only",
                             saw=f"thread {threading.current_thread().name}", fix="load it on the thread that calls infer")

    def allocate(self, size: int, what: str) -> int:
        """Address of `size` zero bytes of GPU memory, until `close` or `free`; EdgeditError, with what is free, when it is full."""
        try:
            block = self.cuda.mem_alloc(size)
            self.cuda.memset_d8(block, 0, size)
        except self.cuda.MemoryError as error:
            raise self.full(size, what) from error
        self._blocks.append(block)
        return int(block)

    def share(self, shape: tuple[int, ...], dtype: DTypeLike, what: str) -> Shared:
        """Pinned host memory, mapped where `zero_copy`; zeros. EdgeditError when there is none left."""
        flags = self.cuda.host_alloc_flags.DEVICEMAP if self.zero_copy else 0
        try:
            array = self.cuda.pagelocked_empty(shape, dtype, mem_flags=flags)
        except self.cuda.MemoryError as error:
            raise self.full(int(np.prod(shape)) * np.dtype(dtype).itemsize, f"{what}, pinned") from error
        array[...] = 0
        self._blocks.append(array.base)
        return Shared(array, int(array.base.get_device_pointer()) if self.zero_copy else 0)

    def free(self, addresses: set[int]) -> None:
        """Give back GPU memory before `close`. Nothing queued may use it any more."""
        for block in [b for b in self._blocks if isinstance(b, self.cuda.DeviceAllocation) and int(b) in addresses]:
            block.free()
            self._blocks.remove(block)

    def stream(self) -> Any:
        """A new stream, not the default one: work on it can be captured, and beside other streams."""
        return self.cuda.Stream()

    def event(self, *, timing: bool = True) -> Any:
        """A new event. Waiting for it sleeps instead of spinning: a spinning core would count in the energy."""
        flags = self.cuda.event_flags
        return self.cuda.Event(flags.BLOCKING_SYNC | (0 if timing else flags.DISABLE_TIMING))

    def full(self, size: int, what: str) -> EdgeditError:
        """The error for memory that was refused: wanted, free, what to do."""
        with suppress(self.cuda.Error):
            free, total = self.cuda.mem_get_info()
            saw = f"wanted {_mib(size)} MiB, free {_mib(free)} of {_mib(total)} MiB"
            fix = _DROP if self.facts.integrated else "close programs that hold it (nvidia-smi shows them), or build for a smaller batch: "
            return EdgeditError(f"the GPU's memory is full: no room for {what}", saw=saw, fix=f"{fix}edgedit build BUNDLE --batch 32")
        return EdgeditError(f"the GPU's memory is full: no room for {what}", saw=f"wanted {_mib(size)} MiB")

    def close(self) -> None:
        """Wait for the GPU, free all memory, let the context go. May be called twice; streams and events must be dropped before.

        On another thread than the one that opened it only memory is freed; the context goes when the process ends.
        """
        elsewhere = threading.get_ident() != self._thread
        if not self._open:
            return
        if elsewhere:
            self._context.push()
        with suppress(self.cuda.Error):  # after a fault on the GPU nothing can be waited for or freed; the process's end does it
            self._context.synchronize()
            for block in reversed(self._blocks):
                block.free()
        self._blocks.clear()
        self._context.pop()
        if not elsewhere:
            self._open = False
            atexit.unregister(self.close)
            with suppress(self.cuda.Error):
                self._context.detach()
                # To release it pycuda makes it current once more, and leaves it so: other than destroying a context, releasing the
                # primary one "does not pop the context from stack in any circumstances" (CUDA driver API, cuDevicePrimaryCtxRelease).
                ctypes.CDLL("libcuda.so.1").cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))

    def _read(self, device: Any) -> GpuFacts:
        attribute = self.cuda.device_attribute
        free, total = self.cuda.mem_get_info()
        driver = self.cuda.get_driver_version()
        major, minor = device.compute_capability()
        return GpuFacts(
            name=device.name(), compute_capability=(int(major), int(minor)),
            sm_count=int(device.get_attribute(attribute.MULTIPROCESSOR_COUNT)), memory_mb=total // MIB, free_mb=free // MIB,
            integrated=bool(device.get_attribute(attribute.INTEGRATED)), driver=f"{driver // 1000}.{driver % 1000 // 10}")


def open_device() -> Device:
    """GPU 0, to be closed by the caller, on the same thread; MissingError when pycuda or a GPU is missing."""
    return Device()


def _mib(size: int) -> int:
    return -(-size // MIB)
