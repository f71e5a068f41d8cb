"""Batches through a runtime: noise made ahead on one thread, saving behind on another, the graph on the caller's.

    noise worker ──(queue)──► infer, on the calling thread ──(queue)──► sink worker

Both queues are short, so memory does not grow with the number of images. Noise buffers go round in a ring and are reused.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgedit.core.errors import EdgeditError
from edgedit.core.noise import noise
from edgedit.core.say import Event, Say
from edgedit.device.runtime import Phases, Runtime

DEPTH = 2
"""Batches that may wait in each queue."""

T = TypeVar("T")
LabelRule = Callable[[NDArray[np.int64]], NDArray[np.int32]]
Indices = NDArray[np.int64]


@dataclass
class Batch:
    """One batch on its way through; times are seconds, stamps `time.monotonic_ns`.

    Attributes:
        number: 0, 1, 2 …
        indices: int64 (N,), the images wanted; N is less than the graph's batch only at the end of a pass.
        labels: int32 (B,); rows beyond N are padding.
        noise: float32 (B, C, H, W), a buffer of the ring: valid until `infer` returns.
        images: uint8 (N, H, W, C), padding cut off.
        start_ns, end_ns: around `infer`.
        noise_s, wait_s: making the noise; `infer` waiting for it.
    """

    number: int
    indices: Indices
    labels: NDArray[np.int32]
    noise: NDArray[np.float32]
    images: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))
    phases: Phases = field(default_factory=Phases)
    start_ns: int = 0
    end_ns: int = 0
    noise_s: float = 0.0
    wait_s: float = 0.0


Sink = Callable[[Batch], None]
Watch = Callable[[int], bool]


@dataclass(frozen=True)
class Source:
    """What to make: noise and labels as functions of the image index.

    Attributes:
        seed: of the noise.
        shape: (C, H, W) of one sample.
        batch: rows B of every batch handed to the runtime.
        labels: int64 indices (N,) → int32 labels (N,).
        indices: the index arrays of the batches, each of 1 … B images. Drawn on the noise worker, a few batches ahead.
    """

    seed: int
    shape: tuple[int, int, int]
    batch: int
    labels: LabelRule
    indices: Iterable[Indices]


def split(first: int, count: int, batch: int) -> Iterator[Indices]:
    """Index arrays for images first … first + count - 1 in batches; the last one may be shorter."""
    for start in range(first, first + count, batch):
        yield np.arange(start, min(start + batch, first + count))


class Progress:
    """Says how far a run is, at most every `every_s` seconds, with the rate since the start."""

    def __init__(self, text: str, total: int, started: int, say: Say, every_s: float = 0.2) -> None:
        self._text, self._total, self._started, self._say, self._every_s = text, total, started, say, every_s
        self._begin = self._next = time.perf_counter()
        self.done = started

    def at(self, done: int, *, total: int | None = None, last: bool = False) -> None:
        """Now `done` images; `last` is said in any case."""
        self.done, self._total, now = done, total or self._total, time.perf_counter()
        if now >= self._next or last:
            self._next = now + self._every_s
            rate = (done - self._started) / (now - self._begin) if now > self._begin else 0.0
            self._say(Event(self._text, done, self._total, self._started, "images", {"images_per_s": round(rate, 1)}))


def run(runtime: Runtime, source: Source, sink: Sink, *, overlap: bool = True, watch: Watch = lambda images: False) -> bool:
    """Send every batch of `source` through `runtime` and into `sink`, in order.

    The graph runs on the calling thread. Padding rows have zero noise and label 0.

    Args:
        runtime: loaded.
        sink: called once a batch, from one thread; `batch.images` is its to keep.
        overlap: False does everything in turn on the calling thread.
        watch: called before each batch, on the calling thread, with the images computed so far: for progress. When it
            returns True the run ends early, with the batches that were computed saved.

    Returns:
        True when all batches went through, False when `watch` ended it.

    Errors:
        What the runtime, the sink or the label rule raise, on the calling thread. Batches that were computed before an error
        of the runtime still reach the sink.
    """
    return (_overlapped if overlap else _in_turn)(runtime, source, sink, watch)


def _make(source: Source, number: int, indices: Indices, buffer: NDArray[np.float32]) -> Batch:
    start = time.perf_counter()
    kept = len(indices)
    noise(source.seed, indices, source.shape, out=buffer[:kept])
    labels = np.zeros(source.batch, np.int32)
    labels[:kept] = source.labels(indices)
    if kept < source.batch:
        buffer[kept:] = 0
    return Batch(number, indices, labels, buffer, noise_s=time.perf_counter() - start)


def _infer(runtime: Runtime, batch: Batch) -> None:
    batch.start_ns = time.monotonic_ns()
    images = runtime.infer(batch.noise, batch.labels)
    batch.end_ns = time.monotonic_ns()
    if len(images) != len(batch.labels) or images.dtype != np.uint8 or images.ndim != 4:
        raise EdgeditError(f"runtime {runtime.name} gave something other than uint8 images (B, H, W, C)",
                           saw=f"{images.dtype} {images.shape}")
    batch.images = images[: len(batch.indices)]
    batch.phases = runtime.phases


def _in_turn(runtime: Runtime, source: Source, sink: Sink, watch: Watch) -> bool:
    buffer = np.zeros((source.batch, *source.shape), np.float32)
    images = 0
    for number, indices in enumerate(source.indices):
        if watch(images):
            return False
        batch = _make(source, number, indices, buffer)
        _infer(runtime, batch)
        images += len(indices)
        sink(batch)
    return True


def _overlapped(runtime: Runtime, source: Source, sink: Sink, watch: Watch) -> bool:
    free: Channel[NDArray[np.float32]] = Channel(DEPTH + 1)
    ready: Channel[Batch] = Channel(DEPTH)
    done: Channel[Batch] = Channel(DEPTH)
    for _ in range(DEPTH + 1):
        free.put(np.zeros((source.batch, *source.shape), np.float32))

    def make_noise() -> None:
        for number, indices in enumerate(source.indices):
            buffer = free.get()
            if buffer is None or not ready.put(_make(source, number, indices, buffer)):
                return

    def save() -> None:
        while (batch := done.get()) is not None:
            sink(batch)

    workers = [_start("noise", make_noise, ready), _start("save", save, done)]
    whole, images = False, 0
    try:
        while not watch(images):
            waiting = time.perf_counter()
            batch = ready.get()
            if batch is None:
                whole = True
                break
            batch.wait_s = time.perf_counter() - waiting
            _infer(runtime, batch)
            images += len(batch.indices)
            free.put(batch.noise)
            if not done.put(batch):
                break
    finally:  # let the noise go, but save what was computed
        for channel in (free, ready, done):
            channel.close()
        for worker in workers:
            worker.join()
    if done.error is not None:
        raise done.error
    return whole


def _start(name: str, task: Callable[[], None], channel: Channel[Any]) -> threading.Thread:
    """Run `task` on a thread; when it ends, `channel` is closed, with the error if it ended by one."""

    def guarded() -> None:
        try:
            task()
            channel.close()
        except BaseException as error:  # handed to the calling thread through the channel
            channel.close(error)

    thread = threading.Thread(target=guarded, name=f"edgedit-{name}", daemon=True)
    thread.start()
    return thread


class Channel(Generic[T]):
    """A short queue between two threads that either side can close, so that neither waits for one that is gone."""

    def __init__(self, size: int) -> None:
        self._items: deque[T] = deque()
        self._size, self._closed = size, False
        self._change = threading.Condition()
        self.error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Add an item, waiting for room; False, without adding it, once the channel is closed."""
        with self._change:
            while len(self._items) >= self._size and not self._closed:
                self._change.wait()
            if self._closed:
                return False
            self._items.append(item)
            self._change.notify_all()
            return True

    def get(self) -> T | None:
        """Next item, waiting for it. Once closed: what is left, then the error that closed it, if any, then None."""
        with self._change:
            while not self._items and not self._closed:
                self._change.wait()
            if self._items:
                item = self._items.popleft()
                self._change.notify_all()
                return item
            if self.error is not None:
                raise self.error
            return None

    def close(self, error: BaseException | None = None) -> None:
        """No more items; the first error given is kept."""
        with self._change:
            self._closed = True
            self.error = self.error or error
            self._change.notify_all()
