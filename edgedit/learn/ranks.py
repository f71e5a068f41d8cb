"""Several processes as one run: `torchrun --nproc-per-node 4 -m edgedit …` starts them, `joined` makes them know each other.

Each process ("rank") computes its rows of the batch; gradients are averaged in one flat exchange a step. That is what
DistributedDataParallel does, without its wrapper: a setup may run the student twice, tap its layers or train heads beside
it, and the batch of a step stays the same for any number of ranks. A student has at most a few million parameters, so there
is nothing to gain from overlapping the exchange with the backward pass; a large teacher, or DMD's fake of one, would gain.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from edgedit.core import errors
from edgedit.core.errors import EdgeditError, MissingError, UsageError

T = TypeVar("T")
TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class Ranks:
    """The processes of a run as one of them sees it.

    Attributes:
        rank: own number, 0 … world - 1.
        world: how many there are; 1 for an ordinary run.
        local: own number on this machine: the GPU to take.
    """

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def main(self) -> bool:
        """True for the one that writes and speaks."""
        return self.rank == 0

    def rows(self, batch: int) -> range:
        """This rank's rows of a batch; UsageError when the ranks do not divide it."""
        if batch % self.world:
            raise UsageError(f"a batch of {batch} does not divide over {self.world} processes",
                             fix=f"--batch {(batch // self.world + 1) * self.world}")
        share = batch // self.world
        return range(self.rank * share, (self.rank + 1) * share)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace floating tensors on one device by their means over the ranks, in one float32 exchange."""
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([t.detach().reshape(-1).float() for t in tensors])
        with _together():
            dist.all_reduce(flat)
        flat /= self.world
        at = 0
        with torch.no_grad():
            for t in tensors:
                t.copy_(flat[at : at + t.numel()].view_as(t))
                at += t.numel()

    def agree(self, *wishes: bool, number: float = 0.0) -> tuple[list[bool], float]:
        """Which of the wishes some rank has, and rank 0's number. By way of the processors, so that no GPU is waited for."""
        if self.world == 1:
            return list(wishes), number
        said = torch.tensor([*wishes, number if self.main else 0.0], dtype=torch.float64)
        with _together():
            dist.all_reduce(said)
        return (said[:-1] > 0).tolist(), float(said[-1])

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, in the tensor's own type, in place."""
        if self.world > 1:
            with _together():
                dist.all_reduce(tensor)
        return tensor

    def gather(self, value: T) -> list[T]:
        """Every rank's value (anything that pickles), in order, on every rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        with _together():
            dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for all."""
        if self.world > 1:
            with _together():
                dist.barrier()

    def lead(self, work: Callable[[], T]) -> T:
        """Let rank 0 work and tell the others the result; an EdgeditError of rank 0 is raised by all.

        For what must happen once: looking into the output folder, downloading, writing.
        """
        if self.world == 1:
            return work()
        said: list[Any] = [None]
        failure: EdgeditError | None = None
        if self.main:
            try:
                said = [("result", work())]
            except EdgeditError as error:
                failure, said = error, [("error", (type(error).__name__, error.what, error.saw, error.fix))]
        with _together():
            dist.broadcast_object_list(said, src=0)
        kind, value = said[0]
        if failure is not None:
            raise failure
        if kind == "error":
            name, what, saw, fix = value
            echo: EdgeditError = getattr(errors, name)(what, saw=saw, fix=fix)
            echo.echo = True
            raise echo
        return value  # type: ignore[no-any-return]

    def share(self, tensors: dict[str, Tensor] | None, device: torch.device) -> dict[str, Tensor]:
        """Rank 0's named tensors on every rank, on `device`; the others pass None."""
        if self.world == 1:
            return tensors or {}
        names = self.lead(lambda: [(n, tuple(t.shape), t.dtype) for n, t in (tensors or {}).items()])
        out = {}
        for name, shape, dtype in names:
            tensor = (tensors or {})[name].to(device) if self.main else torch.empty(shape, dtype=dtype, device=device)
            with _together():
                dist.broadcast(tensor, src=0)
            out[name] = tensor
        return out


ALONE = Ranks()


@contextmanager
def joined(device: str = "auto") -> Iterator[Ranks]:
    """The ranks that torchrun started; a single one where it did not. They stay together until the process ends.

    Args:
        device: "cpu" keeps the processes off the GPUs of a machine that has some.

    Raises:
        MissingError: fewer GPUs on this machine than processes.
        EdgeditError: another process of the run ended.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or "RANK" not in os.environ:
        yield ALONE
        return
    ranks = Ranks(int(os.environ["RANK"]), world, int(os.environ.get("LOCAL_RANK", "0")))
    if dist.is_initialized():
        yield ranks
        return
    cuda = device != "cpu" and torch.cuda.is_available()
    if cuda:
        if ranks.local >= torch.cuda.device_count():
            raise MissingError(f"process {ranks.local} of this machine has no GPU of its own",
                               saw=f"{torch.cuda.device_count()} GPUs", fix=f"torchrun --nproc-per-node {torch.cuda.device_count()}")
        torch.cuda.set_device(ranks.local)
    with _together():
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=TIMEOUT)
    atexit.register(dist.destroy_process_group)  # not at the end of the block: torchrun's store takes no second group
    yield ranks


@contextmanager
def _together() -> Iterator[None]:
    """What torch.distributed raises when a peer is gone, as a message."""
    try:
        yield
    except RuntimeError as error:
        raise EdgeditError("another process of this run ended", saw=str(error).splitlines()[0][:160],
                           fix="its own message says why; the same torchrun command goes on from the last checkpoint") from error
