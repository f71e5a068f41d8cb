"""Memory that does not hold a batch: its rows are taken in pieces, half as many as before, down to one.

What adds up over rows is the same up to rounding; a network with dropout draws other masks.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from edgedit.core.errors import MissingError
from edgedit.core.say import Event, Say

T = TypeVar("T")
_WORDS = ("DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory", "CUDA error: out of memory",
          "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Whether a GPU's allocator, the processor's or Python says that memory is short."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


def first_line(error: BaseException) -> str:
    """What an error says first: allocators go on for a page."""
    return (str(error) or type(error).__name__).splitlines()[0][:200]


@contextmanager
def memory_told(what: str, fix: str) -> Iterator[None]:
    """Memory that runs short in the block, as a MissingError."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise MissingError(f"memory does not hold {what}", saw=first_line(error), fix=fix) from error


@dataclass
class Pieces:
    """How many rows of a batch are taken at a time.

    Attributes:
        what: whose rows they are, for messages: "a step of training".
        fix: what to do when memory does not hold a single one.
        size: rows at a time; None: all of the batch.
        taken: rows at a time in the last batch that was done, if it was done in pieces.
    """

    what: str
    fix: str
    size: int | None = None
    taken: int | None = None

    def of(self, rows: int) -> list[range]:
        """The pieces of a batch of `rows`; the last may be short."""
        size = min(self.size or rows, rows)
        return [range(first, min(first + size, rows)) for first in range(0, rows, size)]

    def halve(self, rows: int, seen: str, say: Say) -> None:
        """Take half as many rows from here on, and say so; MissingError when it is one already."""
        size = min(self.size or rows, rows)
        if size == 1:
            raise MissingError(f"memory does not hold {self.what} with even one image at a time", saw=seen, fix=self.fix)
        self.size = (size + 1) // 2
        say(Event(f"memory does not hold {size} images of {self.what} at a time ({seen}): batches of {rows} in pieces of {self.size} "
                  "from here on", level="warning"))

    def fit(self, rows: int, work: Callable[[list[range]], T], say: Say, undo: Callable[[], None] | None = None) -> T:
        """What `work` makes of a batch's pieces, tried with half as many rows at a time until memory holds them.

        Args:
            rows: of the batch.
            work: begun anew for each try.
            say: hears a warning for each halving.
            undo: takes back what a failed try left, so that its memory is free.

        Raises:
            MissingError: not even one row fits.
        """
        while True:
            try:
                pieces = self.of(rows)
                made = work(pieces)
                self.taken = len(pieces[0]) if len(pieces) > 1 else None
                return made
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                seen = first_line(error)
            if undo is not None:  # the error is gone, and with it the frames that held the try's tensors
                undo()
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.halve(rows, seen, say)


def part(batch: T, rows: range) -> T:
    """Some rows of a batch: a dataclass whose tensors, arrays and ranges hold a row each, and whose other fields are the batch's."""
    here = slice(rows.start, rows.stop)
    values: dict[str, Any] = {f.name: getattr(batch, f.name) for f in fields(batch)}  # type: ignore[arg-type]
    cut = {name: value[here] for name, value in values.items() if isinstance(value, (Tensor, np.ndarray, range))}
    return replace(batch, **cut)  # type: ignore[type-var]
