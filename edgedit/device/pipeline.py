"""Batches through a runtime: noise made ahead on one thread, saving behind on another, the graph on the caller's.

    noise worker: fill ──(queue)──► calling thread: launch, collect ──(queue)──► sink worker

Both queues are short, so memory does not grow with the number of images. Lanes, the buffers of a batch, go round in a ring and
are reused. Where a runtime works beside the host (lanes of its own), the next batch is launched before the last is collected.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgedit.core.errors import EdgeditError, UsageError
from edgedit.core.say import Event, Say
from edgedit.device.channel import Channel, start_worker
from edgedit.device.lane import HostLane, Lane, LaneRuntime
from edgedit.device.runtime import Phases, Runtime

DEPTH = 2
"""Batches that may wait in each queue."""
LANES = DEPTH + 1
"""Batches on their way between the noise worker and the calling thread's `collect`."""

LabelRule = Callable[[NDArray[np.int64]], NDArray[np.int32]]
Indices = NDArray[np.int64]


@dataclass
class Batch:
    """One batch on its way through; times are seconds, stamps `time.monotonic_ns`.

    Attributes:
        number: 0, 1, 2 …
        indices: int64 (N,), the images wanted; N is less than the graph's batch only at the end of a pass.
        labels: int32 (B,); rows beyond N are padding.
        images: uint8 (N, H, W, C), padding cut off.
        start_ns, end_ns: launched; its images there. Batches that overlap on a device overlap here too.
        noise_s, wait_s: making the noise, on the device where it is made there; the device idle because none was ready.
    """

    number: int
    indices: Indices
    labels: NDArray[np.int32]
    images: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))
    phases: Phases = field(default_factory=Phases)
    start_ns: int = 0
    end_ns: int = 0
    noise_s: float = 0.0
    wait_s: float = 0.0


Sink = Callable[[Batch], None]
Ride = tuple[Lane, Batch]
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

    The graph runs on the calling thread. Padding rows have zero noise and label 0. A source of smaller batches than the only one
    that the runtime takes is padded to that.

    Args:
        runtime: loaded.
        sink: called once a batch, from one thread; `batch.images` is its to keep.
        overlap: False does everything in turn on the calling thread.
        watch: called before each batch, on the calling thread, with the images computed so far: for progress. When it
            returns True the run ends early, with the batches that were computed or launched saved.

    Returns:
        True when all batches went through, False when `watch` ended it.

    Errors:
        UsageError for batches larger than the runtime's. What the runtime, the sink or the label rule raise, on the calling
        thread. Batches that were computed before an error of the runtime still reach the sink.
    """
    rows = runtime.batch or source.batch
    if source.batch > rows:
        raise UsageError(f"this runtime takes batches of {rows}", saw=f"batch {source.batch}", fix=f"--batch {rows}")
    if isinstance(runtime, LaneRuntime):
        lanes, ahead = runtime.lanes(rows, LANES), 1
    else:
        lanes, ahead = [HostLane(runtime, rows, source.shape) for _ in range(LANES if overlap else 1)], 0
    if overlap:
        return _Overlapped(runtime.name, source, sink, watch, rows).run(lanes, ahead)
    return _in_turn(runtime.name, source, sink, watch, rows, lanes[0])


def _fill(source: Source, number: int, indices: Indices, lane: Lane, rows: int) -> Ride:
    start = time.perf_counter()
    labels = np.zeros(rows, np.int32)
    labels[: len(indices)] = source.labels(indices)
    lane.fill(source.seed, indices, labels)
    return lane, Batch(number, indices, labels, noise_s=time.perf_counter() - start)


def _launch(ride: Ride) -> None:
    lane, batch = ride
    batch.start_ns = time.monotonic_ns()
    lane.launch()


def _collect(name: str, ride: Ride) -> None:
    lane, batch = ride
    images = lane.collect()
    batch.end_ns = time.monotonic_ns()
    if len(images) != len(batch.labels) or images.dtype != np.uint8 or images.ndim != 4:
        raise EdgeditError(f"runtime {name} gave something other than uint8 images (B, H, W, C)",
                           saw=f"{images.dtype} {images.shape}")
    batch.images, batch.phases = images[: len(batch.indices)], lane.phases
    if batch.phases.noise_s is not None:
        batch.noise_s = batch.phases.noise_s


def _in_turn(name: str, source: Source, sink: Sink, watch: Watch, rows: int, lane: Lane) -> bool:
    images = 0
    for number, indices in enumerate(source.indices):
        if watch(images):
            return False
        ride = _fill(source, number, indices, lane, rows)
        _launch(ride)
        _collect(name, ride)
        images += len(indices)
        sink(ride[1])
    return True


class _Overlapped:
    """One overlapped run: the two workers, the queues between them, and the batches in flight."""

    def __init__(self, name: str, source: Source, sink: Sink, watch: Watch, rows: int) -> None:
        self._name, self._source, self._sink, self._watch, self._rows = name, source, sink, watch, rows
        self._free: Channel[Lane] = Channel(LANES)
        self._ready: Channel[Ride] = Channel(DEPTH)
        self._done: Channel[Batch] = Channel(DEPTH)
        self._flying: deque[Ride] = deque()
        self._images = 0

    def run(self, lanes: list[Lane], ahead: int) -> bool:
        """All batches, with `ahead` more of them launched than the one that is waited for."""
        for lane in lanes:
            self._free.put(lane)
        workers = [start_worker("noise", self._make_noise, self._ready), start_worker("save", self._save, self._done)]
        whole = False
        try:
            whole = self._fly(ahead)
        except Exception:  # what was launched before is worth keeping, if it can be had
            with suppress(Exception):
                self._land_all()
            raise
        finally:  # let the noise go, but save what was computed
            for channel in (self._free, self._ready, self._done):
                channel.close()
            for worker in workers:
                worker.join()
        if self._done.error is not None:
            raise self._done.error
        return whole

    def _fly(self, ahead: int) -> bool:
        while not self._watch(self._images):
            while self._flying and not self._ready.waiting:  # no noise yet: nothing is gained by leaving images on the device
                if not self._land():
                    return False
            waiting = time.perf_counter()
            ride = self._ready.get()
            if ride is None:
                self._land_all()
                return True
            ride[1].wait_s = time.perf_counter() - waiting
            _launch(ride)
            self._flying.append(ride)
            if len(self._flying) > ahead and not self._land():
                return False
        if self._flying:
            self._land_all()
            self._watch(self._images)
        return False

    def _land(self) -> bool:
        """Collect the oldest batch in flight; False when the sink is gone."""
        lane, batch = self._flying.popleft()
        try:
            _collect(self._name, (lane, batch))
        except BaseException:
            self._flying.clear()  # what comes after a lost batch would leave a gap
            raise
        self._images += len(batch.indices)
        self._free.put(lane)
        return self._done.put(batch)

    def _land_all(self) -> None:
        while self._flying and self._land():
            pass

    def _make_noise(self) -> None:
        for number, indices in enumerate(self._source.indices):
            lane = self._free.get()
            if lane is None or not self._ready.put(_fill(self._source, number, indices, lane, self._rows)):
                return

    def _save(self) -> None:
        while (batch := self._done.get()) is not None:
            self._sink(batch)
