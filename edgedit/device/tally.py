"""What a profile run collects, batch by batch: raw times on disk, sums in memory, the first pictures."""

from __future__ import annotations

import json
import time
from array import array
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgedit.core.files import output_error
from edgedit.core.record import BATCHES_FILE
from edgedit.device.bundle import Bundle
from edgedit.device.outputs import NpyStream, class_picture, write_all
from edgedit.device.pipeline import Batch

PHASES = ("noise", "upload", "compute", "download", "save")
IMAGES_FILE, LABELS_FILE = "images.npy", "labels.npy"


class Tally:
    """The sink of a profile run; used from one thread, read after the run.

    `batches.jsonl` gets one line a batch: number, images, `start_ns` and `end_ns` of the graph's turn (`time.monotonic_ns`, the
    clock of the power samples), milliseconds of each phase, and `wait_ms`, how long the graph's turn waited for noise.

    Args:
        folder: of the record being written.
        samples: images to keep for the picture, the first ones.
        save: images to write to `images.npy` and `labels.npy`, the first ones; 0 writes none.

    Attributes:
        compute_ms: of every batch.
        end_ns: when every batch's images were there.
        phases_s: sums by phase.
        waited_s: sum of the waits.
        images, last_batch: images so far; images kept of the last batch.
        saved_ns: when the last batch was done with.
    """

    def __init__(self, folder: Path, bundle: Bundle, *, samples: int, save: int) -> None:
        self._folder, self._bundle, self._wanted, self._save = folder, bundle, samples, save
        self.compute_ms, self.end_ns = array("d"), array("q")
        self.phases_s = dict.fromkeys(PHASES, 0.0)
        self.waited_s = 0.0
        self.images = self.last_batch = 0
        self.saved_ns = 0
        self._pictures: list[NDArray[np.uint8]] = []
        self._labels: list[int] = []
        self._lines = (folder / BATCHES_FILE).open("wb", buffering=0)
        self._whole_bytes = 0
        self._streams: tuple[NpyStream, NpyStream] | None = None
        if save:
            self._streams = (NpyStream(folder / IMAGES_FILE, bundle.image_shape, "|u1"),
                             NpyStream(folder / LABELS_FILE, (), "<i4"))

    def __enter__(self) -> Tally:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __call__(self, batch: Batch) -> None:
        """Take one batch; OutputError when the disk refuses."""
        kept = len(batch.indices)
        begin = time.perf_counter()
        try:
            if self._streams is not None and (room := self._save - self._streams[0].rows) > 0:
                self._streams[0].add(batch.images[:room])
                self._streams[1].add(batch.labels[: min(kept, room)])
        except OSError as error:
            raise output_error(self._folder / IMAGES_FILE, error) from error
        if (room := self._wanted - len(self._labels)) > 0:
            self._pictures.append(batch.images[:room].copy())
            self._labels += batch.labels[: min(kept, room)].tolist()
        save_s = time.perf_counter() - begin
        phases = batch.phases
        seconds = (batch.noise_s, phases.upload_s, phases.compute_s, phases.download_s, save_s)
        line = {"batch": batch.number, "images": kept, "start_ns": batch.start_ns, "end_ns": batch.end_ns,
                **{f"{name}_ms": round(1e3 * s, 6) for name, s in zip(PHASES, seconds, strict=True)},
                "wait_ms": round(1e3 * batch.wait_s, 6)}
        try:
            self._whole_bytes += write_all(self._lines, json.dumps(line).encode() + b"\n")
        except OSError as error:
            raise output_error(self._folder / BATCHES_FILE, error) from error
        for name, s in zip(PHASES, seconds, strict=True):
            self.phases_s[name] += s
        self.compute_ms.append(1e3 * phases.compute_s)
        self.end_ns.append(batch.end_ns)
        self.waited_s += batch.wait_s
        self.images += kept
        self.last_batch = kept
        self.saved_ns = time.monotonic_ns()

    def period_ms(self, begin_ns: int) -> list[float]:
        """Times from one batch's end to the next one's; for a single batch, from `begin_ns` to its end."""
        ends = np.frombuffer(self.end_ns, np.int64)
        return (np.diff(ends) / 1e6).tolist() if len(ends) > 1 else [(int(ends[0]) - begin_ns) / 1e6]

    def picture(self) -> bytes:
        """PNG of the first images, a row for each class."""
        return class_picture(np.concatenate(self._pictures), self._labels, self._bundle.class_names)

    def close(self) -> None:
        """Complete the files. May be called twice."""
        self._lines.close()
        if self._streams is not None:
            for stream in self._streams:
                stream.close()
            self._streams = None

    def drop_images(self) -> None:
        """After a full disk: give the images' space back, and cut `batches.jsonl` to its whole lines."""
        self._lines.truncate(self._whole_bytes)
        self.close()
        for name in (IMAGES_FILE, LABELS_FILE):
            (self._folder / name).unlink(missing_ok=True)
