"""A batch on its way through TensorRT: pinned buffers, GPU buffers, and what is queued between them.

    upload stream    labels, indices (or noise) ──┐
    compute stream                                └► noise kernel ► graph ► (grey levels) ──┐
    download stream                                                                          └► images

On GPUs that share the host's memory the first and the last stream are not used: labels, indices and images are read and
written in place (zero-copy, jetson.md §5.7). Times come from events on the streams, so that they are the GPU's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedit.core.errors import EdgeditError
from edgedit.device.bundle import IMAGES, LABELS, NOISE
from edgedit.device.cuda.device import Device
from edgedit.device.cuda.kernels import Kernels
from edgedit.device.lane import fill_noise
from edgedit.device.runtime import Phases
from edgedit.device.trt.loaded import LoadedPlan


class Streams:
    """The three streams that the lanes of a runtime share: upload, compute, download."""

    def __init__(self, device: Device) -> None:
        self.compute = device.stream()
        self.upload, self.download = (self.compute, self.compute) if device.zero_copy else (device.stream(), device.stream())


@dataclass(frozen=True)
class Parts:
    """What the lanes of a runtime share.

    Attributes:
        kernels: None where noise is made on the host.
        noise_on_device: whether `fill` leaves the noise to the GPU.
        guidance_scale: for plans that give both halves of guidance, else None.
    """

    device: Device
    plan: LoadedPlan
    streams: Streams
    kernels: Kernels | None
    noise_on_device: bool
    noise_shape: tuple[int, int, int]
    guidance_scale: float | None = None


class TrtLane:
    """See `edgedit.device.lane.Lane`. `rows` images a batch; `put` takes ready-made noise instead of `fill`."""

    def __init__(self, parts: Parts, rows: int) -> None:
        device, zero_copy = parts.device, parts.device.zero_copy
        (channels, side, _), signature = parts.noise_shape, parts.plan.signature
        values = rows * channels * side * side
        self.phases, self.rows = Phases(), rows
        self._parts, self._seed, self._given = parts, 0, not parts.noise_on_device
        self._labels = device.share((rows,), np.int32, "labels")
        self._indices = device.share((rows,), np.int64, "image numbers")
        self._noise = None if parts.noise_on_device else device.share((rows, *parts.noise_shape), np.float32, "noise")
        self._images = device.share((rows, side, side, channels), np.uint8, "images")
        self._owned: set[int] = set()
        in_place = zero_copy and self._noise is not None
        self._noise_at = self._noise.address if in_place and self._noise is not None else self._own(4 * values, "noise")
        self._labels_at = self._labels.address or self._own(4 * rows, "labels")
        self._indices_at = self._indices.address or self._own(8 * rows, "image numbers")
        self._images_at = self._images.address or self._own(values, "images")
        floats = 0 if signature.quantised else self._own(4 * values * (2 if signature.halves else 1), "float images")
        self._floats_at = floats
        self._addresses = {NOISE: self._noise_at, LABELS: self._labels_at, IMAGES: floats or self._images_at}
        self._sent, self._arrived, self._started, self._made, self._computed, self._fetching = (device.event() for _ in range(6))
        self._finished = self._computed if zero_copy else device.event()
        self._replay: Callable[[], None] | None = None

    def fill(self, seed: int, indices: NDArray[np.int64], labels: NDArray[np.int32]) -> None:
        """See `Lane`: touches pinned memory only."""
        self._labels.array[:] = labels
        self._given = self._noise is not None
        if self._noise is not None:
            fill_noise(self._noise.array, seed, indices)
        else:
            self._seed = seed
            self._indices.array[: len(indices)] = indices
            self._indices.array[len(indices):] = -1

    def put(self, noise: NDArray[np.float32], labels: NDArray[np.int32]) -> None:
        """Noise (B, C, H, W) and labels (B,) of the caller, which are free again on return."""
        self._labels.array[:] = labels
        if self._noise is None:  # this lane's noise is made on the GPU: copied into that place, at once
            self._parts.device.cuda.memcpy_htod(self._noise_at, np.ascontiguousarray(noise))
        else:
            self._noise.array[:] = noise
        self._given = True

    def launch(self) -> None:
        """See `Lane`: queues the whole batch."""
        parts, streams = self._parts, self._parts.streams
        compute = streams.compute
        try:
            if not parts.device.zero_copy:
                self._upload(streams.upload)
                compute.wait_for_event(self._arrived)
            self._started.record(compute)
            if not self._given and parts.kernels is not None:
                parts.kernels.noise(compute, self._noise_at, self._indices_at, self.rows, self._seed, self._noise_values)
                self._made.record(compute)
            self.run()
            self._computed.record(compute)
            if not parts.device.zero_copy:
                streams.download.wait_for_event(self._computed)
                self._fetching.record(streams.download)
                parts.device.cuda.memcpy_dtoh_async(self._images.array, self._images_at, streams.download)
                self._finished.record(streams.download)
        except parts.device.cuda.Error as error:
            raise self._fault(error) from error

    def collect(self) -> NDArray[np.uint8]:
        """See `Lane`."""
        zero_copy = self._parts.device.zero_copy
        try:
            self._finished.synchronize()
            begin = time.perf_counter()
            images: NDArray[np.uint8] = self._images.array.copy()
            copied_s = time.perf_counter() - begin
            made_here = not self._given
            self.phases = Phases(
                upload_s=0.0 if zero_copy else self._arrived.time_since(self._sent) / 1e3,
                compute_s=self._computed.time_since(self._made if made_here else self._started) / 1e3,
                download_s=copied_s + (0.0 if zero_copy else self._finished.time_since(self._fetching) / 1e3),
                noise_s=self._made.time_since(self._started) / 1e3 if made_here else None)
        except self._parts.device.cuda.Error as error:
            raise self._fault(error) from error
        return images

    def run(self) -> None:
        """Queue the network alone, at this lane's addresses: as a captured graph once there is one."""
        if self._replay is not None:
            self._replay()
        else:
            self.enqueue()

    def enqueue(self) -> None:
        """Queue the network, and grey levels where the plan gives none, call by call."""
        parts, handle = self._parts, self._parts.streams.compute.handle
        parts.plan.bind(self.rows, self._addresses)
        parts.plan.enqueue(handle)
        if self._floats_at and parts.kernels is not None:
            channels, side, _ = parts.noise_shape
            parts.kernels.levels(parts.streams.compute, self._images_at, self._floats_at, self.rows, channels, side * side,
                                 parts.guidance_scale)

    def run_once(self) -> None:
        """Run the network on what the buffers hold and wait: TensorRT and CUDA set up the rest now. EdgeditError when the GPU fails."""
        try:
            self.enqueue()
            self._parts.streams.compute.synchronize()
        except self._parts.device.cuda.Error as error:
            raise self._fault(error) from error

    def replay(self, launch: Callable[[], None] | None) -> None:
        """Use `launch`, a graph captured from `enqueue`, from now on; None goes back to plain calls."""
        self._replay = launch

    def close(self) -> None:
        """Give GPU memory and events back; nothing may be queued any more, and the lane is of no use."""
        self._parts.device.free(self._owned)
        vars(self).clear()  # also for whoever still holds the lane (a traceback): events must not outlive the context

    @property
    def _noise_values(self) -> int:
        channels, side, other = self._parts.noise_shape
        return channels * side * other

    def _own(self, size: int, what: str) -> int:
        address = self._parts.device.allocate(size, what)
        self._owned.add(address)
        return address

    def _upload(self, stream: Any) -> None:
        copy = self._parts.device.cuda.memcpy_htod_async
        self._sent.record(stream)
        copy(self._labels_at, self._labels.array, stream)
        if self._noise is not None:
            copy(self._noise_at, self._noise.array, stream)
        elif not self._given:
            copy(self._indices_at, self._indices.array, stream)
        self._arrived.record(stream)

    def _fault(self, error: Exception) -> EdgeditError:
        said = self._parts.plan.errors()
        return EdgeditError("the GPU failed while running the graph", saw=f"{error}; {said}",
                            fix="run it again; if it comes back: sudo dmesg | tail, edgedit build BUNDLE --again")
