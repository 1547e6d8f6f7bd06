"""Test sets on a node's own disk: read over the network once, by whichever process comes first.

    FOLDER/KEY.npz     the admitted rows of a set, whole or not there
    FOLDER/KEY.lock    held by the process that is reading that set; the others of the node wait

The key is what the set is known by, the times of its files among it: one that was edited is
another one. Nothing has to be removed, and all of it may be at any time.
"""

from __future__ import annotations

import fcntl
import logging
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipgap.errors import InputError
from clipgap.files.atomic import write_atomic
from clipgap.files.documents import checksum
from clipgap.store.base import Store

LOG = logging.getLogger("clipgap")

Rows = tuple[NDArray[np.uint8], NDArray[np.float16]]
"""The status of all rows of a set, and these rows, bad ones as zeros."""


def cached(folder: Path | None, store: Store, policy: str, read: Callable[[], Rows]) -> Rows:
    """What `read` makes of a set; by one process of the node, if its files tell when they change.

    A cache that cannot be used costs time, and stops nothing.
    """
    marks = [store.modified(shard.index) for shard in store.shards]
    if folder is None or not all(marks):
        return read()
    known = {"set": store.identity(), "marks": marks, "bad_rows": policy}
    path = folder / f"{checksum(known)}.npz"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.getuid():  # who could write there decides about results
            raise PermissionError(f"{folder} belongs to another user")
        with _alone(path.with_suffix(".lock")):
            found = _load(path, store)
            if found is None:
                found = read()
                _save(path, found)
            return found
    except OSError as error:
        LOG.warning("--cache %s is not used: %s", folder, error)
        return read()


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    opened = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def _load(path: Path, store: Store) -> Rows | None:
    """The rows that are kept there; None if there are none, or they are damaged."""
    try:
        with np.load(path, allow_pickle=False) as kept:  # with a checksum of each array
            status, rows = kept["status"], kept["rows"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        LOG.warning("%s is damaged, and read anew: %s", path, error)
        return None
    fits = (rows.shape, status.shape) == ((store.rows, store.dim), (store.rows,))
    return (status, rows) if fits and (rows.dtype, status.dtype) == (np.float16, np.uint8) else None


def _save(path: Path, found: Rows) -> None:
    status, rows = found
    try:
        with write_atomic(path) as temporary, temporary.open("wb") as file:
            np.savez(file, status=status, rows=rows)
    except InputError as error:
        LOG.warning("nothing is kept for others: %s", error)
