"""A short queue between two threads, and the thread that feeds or empties it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def start_worker(name: str, task: Callable[[], None], channel: Channel[Any]) -> threading.Thread:
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

    @property
    def waiting(self) -> bool:
        """Whether `get` would return or raise at once."""
        with self._change:
            return bool(self._items) or self._closed

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
