"""Batches made ahead of the step that needs them, by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")
_AHEAD = 2  # ready for each thread


class Ahead(Generic[T]):
    """Iterates over make(start) … make(stop - 1) in order. Use as a context manager: threads stand behind it."""

    def __init__(self, make: Callable[[int], T], start: int, stop: int, *, threads: int = 1) -> None:
        self.make = make
        self._steps = iter(range(start, stop))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="batches")
        self._ready: deque[Future[T]] = deque()
        for _ in range(_AHEAD * threads):
            self._order_next()

    def _order_next(self) -> None:
        step = next(self._steps, None)
        if step is not None:
            self._ready.append(self._pool.submit(self.make, step))

    def __iter__(self) -> Iterator[T]:
        while self._ready:
            batch = self._ready.popleft().result()
            self._order_next()
            yield batch

    def __enter__(self) -> Ahead[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
