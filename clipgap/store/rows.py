"""Where the rows of a shard come from: a range of a file or memory, and the sums that prove them.

Sources are plain values: sent to another process they open nothing, know all that the headers
said, and read where they are asked to.
"""

from __future__ import annotations

import hashlib
import threading
from bisect import bisect_left
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipgap.errors import InputError
from clipgap.files.identity import digest_of
from clipgap.files.volumes import File, read_bytes
from clipgap.kernels.sums import sums_of_words
from clipgap.memory import blank

_HASHED = 1 << 20


class RowSource(Protocol):
    """The embeddings of one shard."""

    @property
    def rows(self) -> int: ...
    @property
    def dim(self) -> int: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop), C order, native byte order, the caller's to keep."""
        ...

    def digest(self) -> str:
        """Names the content."""
        ...

    def modified(self) -> str:
        """A mark that an edit in place changes; empty when unknown."""
        ...


@dataclass(frozen=True)
class FileRows:
    """Rows that lie one after another in a file: `.npy`, a stored zip member, a raw memmap."""

    file: File
    offset: int
    rows: int
    dim: int
    dtype: np.dtype[Any]
    proof: RowsProof | FileProof | None = None

    def read(self, start: int, stop: int) -> NDArray[Any]:
        if isinstance(self.proof, FileProof):
            self.proof.check()
        block = blank((stop - start, self.dim), self.dtype)
        if block.size:
            width = self.dim * self.dtype.itemsize
            self.file.read_into(self.offset + start * width, as_bytes(block))
        if isinstance(self.proof, RowsProof):
            self.proof.add(start, block)
        return to_native(block)

    def digest(self) -> str:
        return f"{self.offset}:{digest_of(self.file)}"

    def modified(self) -> str:
        return self.file.modified


@dataclass(frozen=True, eq=False)
class ArrayRows:
    """Rows in memory."""

    array: NDArray[Any]

    @property
    def rows(self) -> int:
        return int(self.array.shape[0])

    @property
    def dim(self) -> int:
        return int(self.array.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        return np.array(self.array[start:stop], self.dtype.newbyteorder("="), order="C")

    def digest(self) -> str:
        # Every byte counts: memory has no mark of its last change, so samples would not do.
        sha = hashlib.sha256()
        step = max(1, (1 << 24) // (self.dim * self.dtype.itemsize))
        for start in range(0, self.rows, step):
            sha.update(as_bytes(self.read(start, min(start + step, self.rows))))
        return sha.hexdigest()

    def modified(self) -> str:
        return ""


class FileProof:
    """Checks a whole file against its SHA-256 before anything of it is used, once a process."""

    def __init__(self, file: File, sha256: str) -> None:
        self._file, self._sha256 = file, sha256
        self._lock = threading.Lock()
        self._checked = False

    def __reduce__(self) -> tuple[Any, ...]:
        return FileProof, (self._file, self._sha256)

    def check(self) -> None:
        with self._lock:
            if self._checked:
                return
            sha = hashlib.sha256()
            for start in range(0, self._file.size, _HASHED):
                sha.update(read_bytes(self._file, start, min(_HASHED, self._file.size - start)))
            if sha.hexdigest() != self._sha256:
                raise damaged(self._file.path)
            self._checked = True


class RowsProof:
    """Checks rows against their sum while they are read, once a process.

    The parts of a sum may be added in any order, so whoever reads a block adds it, in his own
    thread. What all rows together come to is known when the last of them is there: he who reads it
    is told. Rows read only here and there, and never all of them, are not compared.
    """

    _MOST_GAPS = 1_024

    def __init__(self, path: str, rows: int, expected: int) -> None:
        self._path, self._rows, self._expected = path, rows, expected
        self._lock = threading.Lock()
        self._checked = False
        self._sum = 0
        self._starts: list[int] = []  # of the stretches of rows that are in the sum
        self._stops: list[int] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return RowsProof, (self._path, self._rows, self._expected)

    def add(self, start: int, rows: NDArray[Any]) -> None:
        """Take rows `start`, `start` + 1, … as they are stored."""
        if self._checked:
            return
        part = sum_of_rows(start, rows)
        with self._lock:
            stop = start + len(rows)
            for first, last in self._missing(start, stop):
                whole = (first, last) == (start, stop)
                part = part if whole else sum_of_rows(first, rows[first - start : last - start])
                self._sum = (self._sum + part) & _WORD
            self._note(start, stop)
            if self._starts == [0] and self._stops == [self._rows]:
                if self._sum != self._expected:
                    self._begin()
                    raise damaged(self._path)
                self._checked = True

    def _begin(self) -> None:
        self._sum, self._starts, self._stops = 0, [], []

    def _missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """The stretches of these rows that are not in the sum."""
        found = []
        for first, last in zip(self._starts, self._stops, strict=True):
            if first < stop and last > start:
                if start < first:
                    found.append((start, first))
                start = last
        if start < stop:
            found.append((start, stop))
        return found

    def _note(self, start: int, stop: int) -> None:
        low = bisect_left(self._stops, start)
        high = bisect_left(self._starts, stop + 1)
        if low < high:
            start, stop = min(start, self._starts[low]), max(stop, self._stops[high - 1])
        self._starts[low:high], self._stops[low:high] = [start], [stop]
        if len(self._starts) > self._MOST_GAPS:  # somebody picks rows; a pass may still follow
            self._begin()


_WORD = (1 << 64) - 1


def sum_of_rows(start: int, rows: NDArray[Any]) -> int:
    """A sum over the bytes of rows `start`, `start` + 1, … that any change of them changes.

    Each word of 64 bits, its upper half folded into the lower, is multiplied by a factor for its
    place in the row and one for the row; all factors are odd, so no single word can change unseen,
    and several together only by a chance of about 2^-32. It guards against accidents, not against
    malice: for that there is SHA-256, which takes several times as long without help from the
    processor, and cannot be made by several threads.
    """
    words = -(-rows.shape[1] * rows.itemsize // 8)
    sums = sums_of_words(rows, _odd(np.arange(1, words + 1, dtype=np.uint64)))
    places = np.arange(start, start + len(rows), dtype=np.uint64)
    return int(sums @ _odd(places + np.uint64(1 << 40)))


def _odd(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scattered odd numbers, always the same: the mixing of MurmurHash3's last step."""
    mixed = numbers * np.uint64(0x9E3779B97F4A7C15)
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        mixed = (mixed ^ (mixed >> np.uint64(33))) * np.uint64(factor)
    odd: NDArray[np.uint64] = (mixed ^ (mixed >> np.uint64(33))) | np.uint64(1)
    return odd


def damaged(path: str) -> InputError:
    """What is said of a file of a store of ours that is not as it was written."""
    return InputError(
        f"{path}: is damaged, its checksum is not the one in the store's catalogue. Put the file "
        "back from a copy, or write the store again"
    )


class Resting:
    """The few most recently used readers of a store, each lent to one caller at a time.

    Streams that can only go forwards are kept between calls, so that the next block goes on where
    the last ended. A reader is taken out while it is used, so threads never share one; what is
    pushed out at the far end is simply dropped. Memory stays bounded however many shards there
    are. In another process none rests at first.
    """

    def __init__(self, capacity: int = 8) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._readers: OrderedDict[str, Any] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return Resting, (self._capacity,)

    def take(self, path: str) -> Any | None:
        """The reader resting on `path`, now the caller's alone."""
        with self._lock:
            return self._readers.pop(path, None)

    def keep(self, path: str, reader: Any) -> None:
        """Put a reader back for the next caller."""
        with self._lock:
            self._readers[path] = reader
            self._readers.move_to_end(path)
            if len(self._readers) > self._capacity:
                self._readers.popitem(last=False)


def as_bytes(array: NDArray[Any]) -> memoryview:
    """The bytes of a C-contiguous array, writable in place."""
    return array.reshape(-1).view(np.uint8).data


def to_native(block: NDArray[Any]) -> NDArray[Any]:
    """The same numbers in this machine's byte order; swaps in place."""
    if block.dtype.isnative:
        return block
    native: NDArray[Any] = block.byteswap(inplace=True).view(block.dtype.newbyteorder("="))
    return native
