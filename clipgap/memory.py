"""Memory for blocks of rows, and for their tables."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LARGE = 1 << 20


def blank(shape: tuple[int, ...], dtype: np.dtype[Any] | type[Any]) -> NDArray[Any]:
    """An array of unknown content, as `np.empty` gives, that leaves nothing behind.

    Blocks are made in one thread and dropped in another. A general allocator keeps such memory for
    later, in places of their own for each thread, and a long run grows by blocks that nobody uses.
    What the system gives directly it gets back at once.
    """
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size < _LARGE:
        return np.empty(shape, dtype)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(pages, dtype).reshape(shape)


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
