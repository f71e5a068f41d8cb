"""A plan ready to run: deserialised, checked against its bundle, one execution context, its inputs and output at fixed addresses."""

from __future__ import annotations

import traceback
from dataclasses import dataclass

import tensorrt as trt

from edgedit.core.errors import ArtifactError, EdgeditError, MissingError, UsageError
from edgedit.device.bundle import IMAGES, LABELS, NOISE, Bundle
from edgedit.device.cuda.device import Device
from edgedit.device.trt.log import Log


@dataclass(frozen=True)
class Signature:
    """What a plan takes and gives.

    Attributes:
        batch: rows of a run; None where any up to `largest`.
        largest: most rows of a run.
        quantised: images are uint8 (B, S, S, C) as bundles have them; else float32 (B or 2B, C, S, S) and our kernel finishes them.
        halves: a float32 output holds every image twice, with class and without.
    """

    batch: int | None
    largest: int
    quantised: bool = True
    halves: bool = False


class LoadedPlan:
    """One engine and its execution context, on the device that is current. Runs are queued on one stream, one after another.

    Raises:
        MissingError: TensorRT does not start, for example on a driver that is older than its CUDA.
        ArtifactError: it refuses the plan, or the plan does not take and give what the bundle says.
        EdgeditError: no memory for its activations.
    """

    def __init__(self, data: bytes, name: str, bundle: Bundle, device: Device) -> None:
        self._log = Log()
        try:
            self._runtime = trt.Runtime(self._log)
        except TypeError as error:  # the binding's word for "TensorRT gave none" (jetson.md §5.8)
            raise MissingError("TensorRT could not start on this GPU", saw=f"{self.errors()}; {error}",
                               fix="edgedit doctor; the driver must be as new as the CUDA that this TensorRT was made for") from error
        try:
            self._open(data, name, bundle, device)
        except BaseException as error:
            # The engine must go before the device's context does, and whoever keeps the error keeps the frames that hold it.
            traceback.clear_frames(error.__traceback__)
            self.close()
            raise

    def _open(self, data: bytes, name: str, bundle: Bundle, device: Device) -> None:
        engine = self._runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise ArtifactError(f"TensorRT {trt.__version__} refuses {name}", saw=self.errors(), fix=f"edgedit build {bundle.path}")
        self.signature = read_signature(engine, name, bundle)
        self.memory_bytes = int(engine.device_memory_size_v2)
        context = engine.create_execution_context()
        if context is None:
            full = device.full(self.memory_bytes, "the network's activations")
            raise EdgeditError(full.what, saw=f"{full.saw}; {self.errors()}", fix=full.fix)
        self._engine, self._context, self._rows = engine, context, 0

    def bind(self, rows: int, addresses: dict[str, int]) -> None:
        """Set the batch and the addresses of noise, labels and images for the runs queued from now on; UsageError for too many rows."""
        if self.signature.batch not in (None, rows) or rows > self.signature.largest:
            raise UsageError(f"the engine was built for {'batches up to' if self.signature.batch is None else 'batch'} "
                             f"{self.signature.largest}", saw=f"batch {rows}", fix=f"edgedit build BUNDLE --batch {rows}")
        if self.signature.batch is None and rows != self._rows:
            for name in (NOISE, LABELS):
                shape = (rows, *tuple(self._engine.get_tensor_shape(name))[1:])
                if not self._context.set_input_shape(name, shape):
                    raise self._failed("takes no batch of that size", f"{name} {shape}")
            self._rows = rows
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise self._failed("takes no address", name)

    def enqueue(self, stream_handle: int) -> None:
        """Queue one run at the bound addresses; returns at once."""
        if not self._context.execute_async_v3(stream_handle):
            raise self._failed("did not start")

    def errors(self) -> str:
        """What TensorRT logged last as problems, in one line; a sentence when there is nothing."""
        return "; ".join(self._log.problems()) or "TensorRT logged no error"

    def close(self) -> None:
        """Free the context and the engine, in this order. Nothing queued may use them any more."""
        self._context = None
        self._engine = None
        self._runtime = None

    def _failed(self, what: str, detail: str = "") -> EdgeditError:
        return EdgeditError(f"TensorRT {what}", saw=f"{detail}: {self.errors()}" if detail else self.errors(),
                            fix="edgedit doctor; then edgedit build BUNDLE --again")


def read_signature(engine: trt.ICudaEngine, name: str, bundle: Bundle) -> Signature:
    """The engine's inputs and output, compared with the bundle; ArtifactError shows both when they differ."""
    found = {tensor: (engine.get_tensor_mode(tensor), engine.get_tensor_dtype(tensor), tuple(engine.get_tensor_shape(tensor)))
             for tensor in (engine.get_tensor_name(n) for n in range(engine.num_io_tensors))}
    reads, writes = trt.TensorIOMode.INPUT, trt.TensorIOMode.OUTPUT
    rows = found[NOISE][2][0] if NOISE in found and found[NOISE][2] else 0
    inputs = {NOISE: (reads, trt.DataType.FLOAT, (rows, *bundle.noise_shape)), LABELS: (reads, trt.DataType.INT32, (rows,))}
    doubled = 2 * rows if rows > 0 else rows
    for kind, shape, quantised, halves in (
            (trt.DataType.UINT8, (rows, *bundle.image_shape), True, False),
            (trt.DataType.FLOAT, (rows, *bundle.noise_shape), False, False),
            (trt.DataType.FLOAT, (doubled, *bundle.noise_shape), False, True)):
        if rows and found == {**inputs, IMAGES: (writes, kind, shape)}:
            largest = rows if rows > 0 else int(next(iter(engine.get_tensor_profile_shape(NOISE, 0)[2])))
            return Signature(rows if rows > 0 else None, largest, quantised, halves)
    seen = "; ".join(f"{tensor} {kind.name} {shape}" for tensor, (_, kind, shape) in sorted(found.items()))
    raise ArtifactError(f"{name} does not take and give what {bundle.path} says (noise FLOAT (B, {bundle.noise_shape}), labels INT32 (B,), "
                        f"images UINT8 (B, {bundle.image_shape}))", saw=seen, fix=f"edgedit build {bundle.path}")
