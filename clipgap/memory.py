"""Memory for blocks of rows, and for their tables."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LARGE = 1 << 20


Lock = Callable[[int, int], Callable[[], object] | None]
"""Locks pages, given by address and size, so that a device can copy from them by itself; returns
what unlocks them, or None where they cannot be locked."""


class _Pages:
    """Pages of the system, locked as long as they are there where a pass asks for that."""

    def __init__(self, size: int) -> None:
        self.map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._unlock = None
        if _lock is not None:
            self._unlock = _lock(ctypes.addressof(ctypes.c_char.from_buffer(self.map)), size)

    def __del__(self) -> None:
        if self._unlock is not None:
            self._unlock()


_spare: dict[int, deque[_Pages]] = {}
"""Dropped pages by how many bits their size has, so that tables do not take the place of rows. Any
thread takes from them and puts to them, without a lock."""
_FEW = 4  # of a kind
_passes = 0
_counting = threading.Lock()
_lock: Lock | None = None


def blank(shape: tuple[int, ...], dtype: np.dtype[Any] | type[Any]) -> NDArray[Any]:
    """An array of unknown content, as `np.empty` gives, that leaves nothing behind.

    Blocks are made in one thread and dropped in another. A general allocator keeps such memory for
    later, in places of their own for each thread, and a long run grows by blocks that nobody uses.
    What the system gives directly it gets back at once, but for a few blocks while `reusing`.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size < _LARGE:
        return np.empty(shape, dtype)
    pages = _spare_of(size) or _Pages(size)
    # Arrays hold on to this as long as any of them needs the pages.
    holder = (ctypes.c_char * len(pages.map)).from_buffer(pages.map)
    weakref.finalize(holder, _give_back, pages).atexit = False
    block: NDArray[Any] = np.ndarray(shape, dtype, memoryview(holder))
    return block


@contextmanager
def reusing(lock: Lock | None = None) -> Iterator[None]:
    """While this runs, a block takes the place of one that was dropped, and its pages are locked.

    The system clears pages before it gives them, and that takes longer than filling them; locking
    them takes longer still.
    """
    global _passes, _lock
    with _counting:
        _passes += 1
        _lock = lock or _lock
    try:
        yield
    finally:
        with _counting:
            _passes -= 1
            if not _passes:
                _lock = None
                _spare.clear()


def _spare_of(size: int) -> _Pages | None:
    """Pages of a dropped block that are enough, and not twice as many or more."""
    for kind in (size.bit_length(), size.bit_length() + 1):
        spare = _spare.get(kind, deque())
        for _ in range(len(spare)):
            try:
                pages = spare.popleft()
            except IndexError:  # another thread was quicker
                break
            if size <= len(pages.map) < 2 * size:
                return pages
            spare.append(pages)
    return None


def _give_back(pages: _Pages) -> None:
    if _passes:
        _spare.setdefault(len(pages.map).bit_length(), deque(maxlen=_FEW)).append(pages)


@contextmanager
def arrow_from_system() -> Iterator[None]:
    """While this runs, Arrow takes its memory from the system's allocator, unless told otherwise.

    Its own one keeps what tables leave behind, so that a scan of more rows peaks higher.
    """
    import pyarrow as pa

    before = pa.default_memory_pool()
    if "ARROW_DEFAULT_MEMORY_POOL" not in os.environ:
        pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)
