"""DataComp's subset file: the 128-bit uids of the kept samples, sorted, as `np.dtype("u8,u8")`.

A uid that several kept rows have is listed once: DataComp's resharder copies a sample as often as
its uid is listed. Sorting needs all uids at once, and those of a billion rows do not fit into
memory. So they are collected in sorted runs on disk, which are merged slice by slice.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.files.atomic import write_atomic
from clipgap.files.sums import FileSum, Hashed

UID = np.dtype("u8,u8")
"""High and low half, as in DataComp's own files."""

_CHUNK = 1 << 20
_DIGITS = 32
_RUN = 1 << 19
"""Uids of a run, and about as many of a slice."""
_STRIDE = 1 << 12
"""Every so many uids of a run, one helps to choose the slices."""

_NOT_HEX = 255
_VALUES: NDArray[np.uint8] = np.full(256, _NOT_HEX, np.uint8)
for _digits in ("0123456789abcdef", "0123456789ABCDEF"):
    _VALUES[np.frombuffer(_digits.encode(), np.uint8)] = np.arange(16)


def parse_uids(keys: pa.Array) -> NDArray[np.uint64] | None:
    """Keys of 32 hexadecimal digits as (2, n) halves; None if any key is something else."""
    n = len(keys)
    if keys.null_count:
        return None
    offsets = np.frombuffer(keys.buffers()[1], np.int32)[keys.offset : keys.offset + n + 1]
    if (np.diff(offsets) != _DIGITS).any():
        return None
    if n == 0:
        return np.zeros((2, 0), np.uint64)
    text = np.frombuffer(keys.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    values = _VALUES[text]
    if (values == _NOT_HEX).any():
        return None
    octets = values[0::2] << 4 | values[1::2]
    return np.ascontiguousarray(octets.view(">u8").reshape(n, 2).T.astype(np.uint64))


class UidRuns:
    """Collects uids in any order, from any thread; writes them sorted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._held: list[NDArray[np.uint64]] = []
        self._holding = 0
        self._runs: list[Path] = []

    def add(self, uids: NDArray[np.uint64]) -> None:
        with self._lock:
            self._held.append(uids)
            self._holding += uids.shape[1]
            if self._holding >= _RUN:
                self._spill()

    def write(self, path: Path) -> FileSum:
        """Merge all runs into one sorted file."""
        with self._lock:
            self._spill()
        runs = [np.load(run, mmap_mode="r") for run in self._runs]
        with write_atomic(path) as temporary, temporary.open("w+b") as file:
            start, n = _write_header(file, sum(run.shape[1] for run in runs)), 0
            given = hashlib.sha256()
            for high, low in _slices(runs):
                uids = np.empty(len(high), UID)
                uids["f0"], uids["f1"] = high, low
                file.write(uids.view(np.uint8).data)
                given.update(uids.view(np.uint8).data)
                n += len(uids)
            file.seek(0)
            if _write_header(file, n) != start:  # NumPy leaves room for any number of digits
                raise AssertionError("the header of an .npy file grew")
            return _sum_of(file, n, given.digest())

    def discard(self) -> None:
        """Remove the runs."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _spill(self) -> None:
        if not self._holding:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        run = self._folder / f"{len(self._runs):05d}.npy"
        np.save(run, np.stack(_sorted(np.concatenate(self._held, axis=1))))
        self._runs.append(run)
        self._held, self._holding = [], 0


def _write_header(file: IO[bytes] | Hashed, n: int) -> int:
    """Write the header of an .npy file of n uids, and say where it ends."""
    descr = np.lib.format.dtype_to_descr(UID)
    header = {"descr": descr, "fortran_order": False, "shape": (n,)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.tell()


def _sum_of(file: IO[bytes], n: int, given: bytes) -> FileSum:
    """The sum of a file of n uids, of which `given` is that of what was written behind the header.

    The header comes first in it, and is known last. So the file is read again.
    """
    hashed, found = Hashed(), hashlib.sha256()
    file.seek(_write_header(hashed, n))
    while chunk := file.read(_CHUNK):
        hashed.write(chunk)
        found.update(chunk)
    if found.digest() != given:
        raise OSError(errno.EIO, "the disk gives back other bytes than were written")
    return hashed.sum


def _slices(
    runs: list[NDArray[np.uint64]],
) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.uint64]]]:
    """The merged runs, in order and without repetition, in slices of about _RUN uids."""
    samples = np.sort(
        np.concatenate([np.zeros(0, np.uint64), *(run[0, ::_STRIDE] for run in runs)])
    )
    cuts = np.unique(samples[_RUN // _STRIDE :: _RUN // _STRIDE])
    places = [[0, *np.searchsorted(run[0], cuts).tolist(), run.shape[1]] for run in runs]
    for slice_ in range(len(cuts) + 1):
        parts = [run[:, at[slice_] : at[slice_ + 1]] for run, at in zip(runs, places, strict=True)]
        if parts:
            high, low = _sorted(np.concatenate(parts, axis=1))
            first = np.ones(len(high), np.bool_)
            first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
            yield high[first], low[first]


def _sorted(uids: NDArray[np.uint64]) -> tuple[Any, Any]:
    """High and low halves in the order of the 128-bit numbers."""
    high, low = uids
    order = np.argsort(high)
    high, low = high[order], low[order]
    if (high[1:] == high[:-1]).any():
        order = np.lexsort((low, high))
        high, low = high[order], low[order]
    return high, low
