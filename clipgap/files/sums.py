"""Checksums of files, as manifests keep them."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

from clipgap.files.atomic import write_atomic
from clipgap.files.folders import open_file

_CHUNK = 1 << 20
_THREADS = 4


@dataclass(frozen=True)
class FileSum:
    """What a manifest keeps of a file."""

    sha256: str
    size: int

    @classmethod
    def of(cls, path: Path) -> FileSum:
        """The sum of the file that is there now, read in pieces of bounded size."""
        digest, size = hashlib.sha256(), 0
        with open_file(path) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
        return cls(digest.hexdigest(), size)

    @classmethod
    def of_bytes(cls, content: bytes) -> FileSum:
        return cls(hashlib.sha256(content).hexdigest(), len(content))


class Hashed:
    """A file to write to, from its first byte to its last.

    Its sum is that of the bytes that were given: read back, a file may already be another. Where
    there is no file it only sums.
    """

    closed = False

    def __init__(self, file: IO[bytes] | None = None) -> None:
        self._file = file
        self._digest, self._size = hashlib.sha256(), 0

    def write(self, content: bytes | memoryview) -> int:
        self._digest.update(content)
        size = memoryview(content).nbytes
        self._size += size
        return size if self._file is None else self._file.write(content)

    def tell(self) -> int:
        return self._size

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Whoever opened the file closes it."""

    @property
    def sum(self) -> FileSum:
        """Of all that was written so far."""
        return FileSum(self._digest.hexdigest(), self._size)


def write_file(path: Path, content: bytes) -> FileSum:
    """A whole file at once, atomically."""
    with write_atomic(path) as temporary:
        temporary.write_bytes(content)
    return FileSum.of_bytes(content)


@dataclass(frozen=True)
class ArchiveSum:
    """What a manifest keeps of an archive.

    A CRC-32 finds what disks and networks do to a file. A SHA-256 would take as long as all the
    rest of the copying.
    """

    crc32: str
    size: int

    @classmethod
    def of(cls, path: Path) -> ArchiveSum:
        crc = size = 0
        with open_file(path) as file:
            while chunk := file.read(_CHUNK):
                crc = zlib.crc32(chunk, crc)
                size += len(chunk)
        return cls(f"{crc:08x}", size)


@dataclass(frozen=True)
class LinkSum:
    """What a manifest keeps of a link: the SHA-256 and length of where it leads, as bytes."""

    link: str
    size: int

    @classmethod
    def to(cls, target: str) -> LinkSum:
        text = os.fsencode(target)
        return cls(hashlib.sha256(text).hexdigest(), len(text))

    @classmethod
    def of(cls, path: Path) -> LinkSum:
        """The sum of the link that is there now, whether it leads to anything or not."""
        return cls.to(os.readlink(path))  # noqa: PTH115 - a Path drops what it finds superfluous


AnySum: TypeAlias = FileSum | ArchiveSum | LinkSum
_TYPES: tuple[tuple[str, type[AnySum]], ...] = (("crc32", ArchiveSum), ("link", LinkSum))


def sums_from_json(saved: Mapping[str, Mapping[str, Any]]) -> dict[str, AnySum]:
    """The sums of files as a manifest or a record holds them."""
    types = {
        name: next((kind for key, kind in _TYPES if key in entry), FileSum)
        for name, entry in saved.items()
    }
    return {name: types[name](**entry) for name, entry in saved.items()}


def damaged(
    folder: Path, files: Mapping[str, AnySum], on_file: Callable[[AnySum], None] | None = None
) -> list[str]:
    """Which of these files are missing or differ from their checksum; `on_file` hears of each."""
    wrong = []
    placed = [(folder / name, entry) for name, entry in files.items()]
    for (name, entry), whole in zip(files.items(), are_whole(placed), strict=True):
        if not whole:
            wrong.append(name)
        if on_file is not None:
            on_file(entry)
    return wrong


def are_whole(files: Iterable[tuple[Path, AnySum]]) -> Iterator[bool]:
    """Whether each of these files is there, with its checksum."""
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(_is_whole, files)


def _is_whole(file: tuple[Path, AnySum]) -> bool:
    path, wanted = file
    if isinstance(wanted, LinkSum):
        return path.is_symlink() and wanted.of(path) == wanted
    # A wrong size settles it without reading.
    right_size = path.is_file() and path.stat().st_size == wanted.size
    return right_size and wanted.of(path) == wanted
