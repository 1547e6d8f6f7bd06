"""Where the rows of a shard come from: a range of a file, a compressed zip member, or memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipgap.errors import InputError
from clipgap.files.identity import digest_of
from clipgap.files.volumes import File, read_bytes
from clipgap.memory import blank
from clipgap.store.npy import FIRST_READ, check_length, header_length, parse_header
from clipgap.store.resting import Resting

_SKIP = 1 << 20


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

    def read(self, start: int, stop: int) -> NDArray[Any]:
        block = blank((stop - start, self.dim), self.dtype)
        if block.size:
            width = self.dim * self.dtype.itemsize
            self.file.read_into(self.offset + start * width, as_bytes(block))
        return to_native(block)

    def digest(self) -> str:
        return f"{self.offset}:{digest_of(self.file)}"

    def modified(self) -> str:
        return self.file.modified


@dataclass(frozen=True)
class ZippedRows:
    """Rows in a compressed zip member, which can only be read from its start onwards."""

    file: File
    member: str
    offset: int  # of the first row within the unpacked member
    rows: int
    dim: int
    dtype: np.dtype[Any]
    open_member: Callable[[], IO[bytes]]
    resting: Resting[IO[bytes]]

    def read(self, start: int, stop: int) -> NDArray[Any]:
        block = blank((stop - start, self.dim), self.dtype)
        target = as_bytes(block)
        at = self.offset + start * self.dim * self.dtype.itemsize
        stream = self.resting.take(self.file.path)
        if stream is None or stream.tell() > at:
            stream = self.open_member()
        assert stream is not None
        try:
            while (behind := at - stream.tell()) > 0 and stream.read(min(behind, _SKIP)):
                pass
            done = 0
            while done < len(target) and (piece := stream.read(len(target) - done)):
                target[done : done + len(piece)] = piece
                done += len(piece)
        except Exception as error:  # zlib.error, BadZipFile (a wrong checksum), EOFError
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{self.file.path}: the compressed array {self.member} is damaged "
                f"near row {start:,}: {error}"
            ) from error
        if done < len(target):
            raise InputError(f"{self.file.path}: {self.member} ends before row {stop:,}")
        self.resting.keep(self.file.path, stream)
        return to_native(block)

    def digest(self) -> str:
        return f"{self.member}:{digest_of(self.file)}"

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


def open_npy(file: File) -> FileRows:
    """Rows of an `.npy` file whose header has been checked against its size."""
    start = read_bytes(file, 0, min(FIRST_READ, file.size))
    length = header_length(start)
    if length > file.size:
        raise InputError(
            f"truncated inside the .npy header: it should end at byte {length:,}, "
            f"the file ends at byte {file.size:,}"
        )
    header = parse_header(start[:length] if length <= len(start) else read_bytes(file, 0, length))
    check_length(header, file.size)
    return FileRows(file, header.offset, header.rows, header.dim, header.dtype)


def open_raw(file: File, dim: int) -> FileRows:
    """Rows of a headerless float32 memmap, as SemDeDup writes it."""
    if file.size >= 6 and read_bytes(file, 0, 6) == b"\x93NUMPY":
        raise InputError("is an .npy file, not a raw memmap; leave ?dim= out")
    width = 4 * dim
    if file.size % width:
        raise InputError(
            f"{file.size:,} bytes are not a whole number of float32 rows of dim={dim} "
            f"({width:,} bytes each): {file.size % width:,} bytes are left over. "
            "Is dim right, and the file complete?"
        )
    return FileRows(file, 0, file.size // width, dim, np.dtype("<f4"))


def as_bytes(array: NDArray[Any]) -> memoryview:
    """The bytes of a C-contiguous array, writable in place."""
    return array.reshape(-1).view(np.uint8).data


def to_native(block: NDArray[Any]) -> NDArray[Any]:
    """The same numbers in this machine's byte order; swaps in place."""
    if block.dtype.isnative:
        return block
    native: NDArray[Any] = block.byteswap(inplace=True).view(block.dtype.newbyteorder("="))
    return native
