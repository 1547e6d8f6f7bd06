"""NumPy's BLAS with one thread, for products that are over soon.

Threads of OpenBLAS wait for each other by turning round. Where a scan or anybody else uses the
cores as well, that can take ten times as long as one thread needs for all.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from threading import Lock

_LOCK = Lock()
_SPELLINGS = (("scipy_", "64_"), ("scipy_", ""), ("", "64_"), ("", ""))
"""What builds of OpenBLAS put around the names of functions; NumPy's own wheels the first."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Leaves the number as it was. Another BLAS than OpenBLAS is left alone."""
    found = _openblas()
    if found is None:
        yield
        return
    read, change = found
    with _LOCK:  # lest another one take this number for what it was
        before = read()
        change(1)
        try:
            yield
        finally:
            change(before)


@lru_cache(maxsize=1)
def _openblas() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """How to read and to change the number of threads, of the library that NumPy has loaded."""
    linked = importlib.import_module("numpy.linalg._umath_linalg").__file__
    try:
        library = ctypes.CDLL(str(linked))
    except OSError:
        return None
    for before, behind in _SPELLINGS:
        read = getattr(library, f"{before}openblas_get_num_threads{behind}", None)
        change = getattr(library, f"{before}openblas_set_num_threads{behind}", None)
        if read is not None and change is not None:
            return read, change
    return None
