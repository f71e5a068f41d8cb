"""A lane: the buffers of one batch on its way through a runtime, and what is queued on them."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgedit.core.noise import noise
from edgedit.device.runtime import Phases, Runtime


class Lane(Protocol):
    """Filled on the noise worker; launched and collected, in the order of the launches, on the thread that loaded the runtime.

    Attributes:
        phases: of the batch last collected.
    """

    phases: Phases

    def fill(self, seed: int, indices: NDArray[np.int64], labels: NDArray[np.int32]) -> None:
        """Put in what a batch needs: noise of the images `indices` (N,), or the indices alone where the device makes it.

        `labels` (B,) is padded; rows beyond N get zero noise. No call to a device is made here.
        """

    def launch(self) -> None:
        """Start the batch. Returns at once where the device works beside the host."""

    def collect(self) -> NDArray[np.uint8]:
        """Wait for the images, uint8 (B, H, W, C), which are the caller's. The lane is free for the next batch."""


@runtime_checkable
class LaneRuntime(Protocol):
    """A runtime whose device works beside the host: batches are launched before the ones before them are collected."""

    name: str
    batch: int | None

    def lanes(self, batch: int, count: int) -> list[Lane]:
        """At least `count` lanes for `batch` rows; the runtime keeps them and may hand out the same ones again."""


class HostLane:
    """The lane of any other runtime: noise in a buffer of its own, `infer` in `launch`."""

    def __init__(self, runtime: Runtime, rows: int, shape: tuple[int, int, int]) -> None:
        self.phases = Phases()
        self._runtime, self._noise = runtime, np.zeros((rows, *shape), np.float32)
        self._labels, self._images = np.zeros(rows, np.int32), np.empty(0, np.uint8)

    def fill(self, seed: int, indices: NDArray[np.int64], labels: NDArray[np.int32]) -> None:
        """See `Lane`."""
        fill_noise(self._noise, seed, indices)
        self._labels = labels

    def launch(self) -> None:
        """See `Lane`: everything happens here."""
        self._images = self._runtime.infer(self._noise, self._labels)
        self.phases = self._runtime.phases

    def collect(self) -> NDArray[np.uint8]:
        """See `Lane`."""
        return self._images


def fill_noise(buffer: NDArray[np.float32], seed: int, indices: NDArray[np.int64]) -> None:
    """Noise of the images `indices` into the first rows of `buffer` (B, C, H, W), zeros into the rest."""
    noise(seed, indices, buffer.shape[1:], out=buffer[: len(indices)])
    buffer[len(indices):] = 0
