"""Forward-only readers kept between calls, so that the next block goes on where the last ended."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class Resting(Generic[T]):
    """The few most recently used readers of a store, each lent to one caller at a time.

    A reader is taken out while it is used, so threads never share one; what is pushed out at the
    far end is simply dropped. Memory and open handles stay bounded however many shards there are.
    """

    def __init__(self, capacity: int = 4) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._readers: OrderedDict[str, T] = OrderedDict()

    def take(self, path: str) -> T | None:
        """The reader resting on `path`, now the caller's alone."""
        with self._lock:
            return self._readers.pop(path, None)

    def keep(self, path: str, reader: T) -> None:
        """Put a reader back for the next caller."""
        with self._lock:
            self._readers[path] = reader
            self._readers.move_to_end(path)
            if len(self._readers) > self._capacity:
                self._readers.popitem(last=False)
