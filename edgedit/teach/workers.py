"""Shards of pairs, made by one process or several; the bytes of a shard depend on the settings and the kind of device alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray

from edgedit.core import errors
from edgedit.core.noise import labels as balanced_labels
from edgedit.core.noise import noise
from edgedit.core.pairset import image_file, label_file, to_uint8
from edgedit.core.say import Event, Say, silent
from edgedit.learn.device import torch_as_told
from edgedit.learn.memory import memory_told
from edgedit.learn.settings import LearnSettings
from edgedit.teach.sampler import heun, sigmas
from edgedit.teach.shards import put_shard
from edgedit.teach.teacher import Teacher, attach


@dataclass(frozen=True)
class Job:
    """What a shard is made of: plain values, the same in every process."""

    folder: Path
    count: int
    seed: int
    start: int
    shard_size: int
    batch: int
    device: str
    steps: int
    sigma_min: float
    sigma_max: float
    rho: float
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    guidance: float = 1.0
    compile: bool = False

    @property
    def shards(self) -> int:
        """Number of shards; the last may be short."""
        return -(-self.count // self.shard_size)

    def indices(self, shard: int) -> range:
        """Image numbers of a shard."""
        first = self.start + shard * self.shard_size
        return range(first, min(first + self.shard_size, self.start + self.count))

    def files(self, shard: int) -> list[str]:
        """Names of a shard's files."""
        return [image_file(shard), label_file(shard)]

    def teacher(self, say: Say = silent) -> Teacher:
        """The teacher that lies prepared in the folder; `say` hears when memory does not hold a batch."""
        return attach(self.folder, device=self.device, precision=self.precision, guidance=self.guidance, compiled=self.compile, say=say)

    @contextmanager
    def torch_as_told(self) -> Iterator[None]:
        """Torch on one thread and in the precision of the job (several threads would round differently); MissingError where memory
        runs short."""
        fix = "--set batch=N with fewer images, fewer --workers, or another --device; finished shards are kept"
        with torch_as_told(LearnSettings(precision=self.precision, threads=1)), memory_told("a batch of pairs", fix):
            yield


Progress = Callable[[int], None]
"""Called with the number of images finished since the last call."""


def make_shard(teacher: Teacher, job: Job, shard: int, progress: Progress) -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
    """Images uint8 (n, H, W, C) and labels uint8 or uint16 (n,) of one shard.

    The batches are cut by class and `job.batch` alone, so neither the number of processes nor an interruption changes them.
    """
    indices = job.indices(shard)
    labels = balanced_labels(job.seed, indices, teacher.classes)
    z = torch.from_numpy(noise(job.seed, indices, teacher.shape)).to(job.device)
    targets = torch.from_numpy(labels.astype(np.int64)).to(job.device)
    levels = sigmas(job.steps, job.sigma_min, job.sigma_max, job.rho)
    c, h, w = teacher.shape
    images = np.empty((len(indices), h, w, c), np.uint8)
    for rows in _batches(labels, job.batch, teacher.one_class_a_batch, teacher.piece):
        at = torch.from_numpy(rows).to(job.device)
        images[rows] = to_uint8(heun(teacher.trajectory(), z[at], levels, targets[at]).cpu().numpy())
        progress(len(rows))
    return images, labels.astype(np.uint8 if teacher.classes <= 256 else np.uint16)


def _batches(labels: NDArray[np.integer], batch: int, one_class: bool, piece: int | None) -> list[NDArray[np.int64]]:
    """Rows that are sampled together. A teacher that takes `piece` of them at a time anyhow gets them so, and progress is told."""
    order = np.argsort(labels, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1) if one_class else [order]
    batches = [group[i : i + batch] for group in groups for i in range(0, len(group), batch)]
    return [rows[i : i + piece] for rows in batches for i in range(0, len(rows), piece)] if piece else batches


def write_shard(teacher: Teacher, job: Job, shard: int, progress: Progress) -> None:
    """Make a shard and write it, then its receipt."""
    images, labels = make_shard(teacher, job, shard, progress)
    put_shard(job.folder, shard, {image_file(shard): images, label_file(shard): labels})


# --- processes ------------------------------------------------------------------------------------------------------------


def run_here(job: Job, shards: Sequence[int], progress: Progress, say: Say = silent) -> None:
    """Make shards in this process, on one thread as workers do."""
    with job.torch_as_told():
        teacher = job.teacher(say)
        for shard in shards:
            write_shard(teacher, job, shard, progress)


def run_processes(job: Job, shards: Sequence[int], workers: int, progress: Progress, say: Say = silent) -> None:
    """Make shards in `workers` processes; a worker takes the next shard when it is free.

    Raises:
        EdgeditError: what a worker raised, or that one died; the others are stopped, finished shards stay.
    """
    context = multiprocessing.get_context("spawn")
    queue = list(reversed(shards))
    running: dict[Connection, BaseProcess] = {}
    try:
        for _ in range(min(workers, len(queue))):
            here, there = context.Pipe()
            process: BaseProcess = context.Process(target=_worker, args=(there, job), daemon=True)
            process.start()
            there.close()
            here.send(queue.pop())
            running[here] = process
        while running:
            for ready in wait(list(running)):
                _listen(cast(Connection, ready), running, queue, progress, say)
    finally:
        for connection, process in running.items():
            process.terminate()
            connection.close()
        for process in running.values():
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()


def _listen(here: Connection, running: dict[Connection, BaseProcess], queue: list[int], progress: Progress, say: Say) -> None:
    """Take one message from a worker: images done, shard done, something to be said, or what went wrong."""
    try:
        kind, value = here.recv()
        if kind == "shard":
            here.send(queue.pop() if queue else None)
    except (EOFError, OSError) as error:
        process = running[here]
        process.join(5)
        raise errors.EdgeditError("a worker process died", saw=f"exit code {process.exitcode}",
                                  fix="run the same command again to go on; with fewer workers if memory ran out") from error
    if kind == "images":
        progress(value)
    elif kind == "say":
        say(value)
    elif kind == "bye":
        running.pop(here).join()
        here.close()
    elif kind == "error":
        name, what, saw, fix = value
        raise getattr(errors, name)(what, saw=saw, fix=fix)
    elif kind == "crash":
        raise RuntimeError(f"a worker failed:\n{value}")


def _worker(there: Connection, job: Job) -> None:
    """Body of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, daemon=True).start()

    def say(event: Event) -> None:
        there.send(("say", event))

    try:
        with job.torch_as_told():
            teacher = job.teacher(say)
            while (shard := there.recv()) is not None:
                write_shard(teacher, job, shard, lambda n: there.send(("images", n)))
                there.send(("shard", shard))
        there.send(("bye", None))
    except errors.EdgeditError as error:
        there.send(("error", (type(error).__name__, error.what, error.saw, error.fix)))
    except Exception:
        there.send(("crash", traceback.format_exc()))


def _die_with_parent() -> None:
    """End this process when the parent is gone, killed for instance: nobody would collect its work."""
    parent: Any = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
