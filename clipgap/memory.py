"""Memory for blocks of rows, and for their tables."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LARGE = 1 << 20


_spare: deque[mmap.mmap] = deque(maxlen=4)  # taken from and put to by any thread, without a lock
_passes = 0
_counting = threading.Lock()


def blank(shape: tuple[int, ...], dtype: np.dtype[Any] | type[Any]) -> NDArray[Any]:
    """An array of unknown content, as `np.empty` gives, that leaves nothing behind.

    Blocks are made in one thread and dropped in another. A general allocator keeps such memory for
    later, in places of their own for each thread, and a long run grows by blocks that nobody uses.
    What the system gives directly it gets back at once, but for a few blocks while `reusing`.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size < _LARGE:
        return np.empty(shape, dtype)
    pages = _spare_of(size) or mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # Arrays hold on to this as long as any of them needs the pages.
    holder = (ctypes.c_char * len(pages)).from_buffer(pages)
    weakref.finalize(holder, _give_back, pages).atexit = False
    block: NDArray[Any] = np.ndarray(shape, dtype, memoryview(holder))
    return block


@contextmanager
def reusing() -> Iterator[None]:
    """While this runs, a block takes the place of one that was dropped.

    The system clears pages before it gives them, and that takes longer than filling them.
    """
    global _passes
    with _counting:
        _passes += 1
    try:
        yield
    finally:
        with _counting:
            _passes -= 1
            if not _passes:
                _spare.clear()


def _spare_of(size: int) -> mmap.mmap | None:
    """Pages of a dropped block that are enough, and not twice as many or more."""
    for _ in range(len(_spare)):
        try:
            pages = _spare.popleft()
        except IndexError:  # another thread was quicker
            return None
        if size <= len(pages) < 2 * size:
            return pages
        _spare.append(pages)
    return None


def _give_back(pages: mmap.mmap) -> None:
    if _passes:
        _spare.append(pages)


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
