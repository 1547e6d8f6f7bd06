"""Writing an archive out of pieces of others."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import BinaryIO, TypeAlias

from clipgap.files.sums import ArchiveSum
from clipgap.files.volumes import File
from clipgap.shards.tar import BLOCK, Window

RECORD = 20 * BLOCK
"""Archives end on a whole record, as tar itself makes them."""

_WINDOW = 1 << 20
_STRETCH = 128 << 10
"""Bytes are summed up and written before they leave the second-level cache."""

_FLUSH = 16 << 20

Piece: TypeAlias = tuple[int, int] | bytes
"""Part of an archive: from one byte to another of a file, or bytes that are new."""


class ArchiveWriter:
    """Writes an archive and sums it up on the way."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._crc = self._size = self._flushed = 0

    def copy(self, file: File, pieces: Iterable[Piece]) -> None:
        """Append pieces of `file`, in order."""
        window = Window(file, _WINDOW)
        for piece in pieces:
            if isinstance(piece, bytes):
                self._put(piece)
            else:
                self.copy_range(window, *piece)

    def copy_range(self, window: Window, start: int, stop: int) -> None:
        """Append what lies from `start` to `stop`."""
        for at in range(start, stop, _STRETCH):
            self._put(window.read(at, min(_STRETCH, stop - at)))

    def start_again(self) -> None:
        """Forget all that was written."""
        self._out.seek(0)
        self._out.truncate()
        self._crc = self._size = self._flushed = 0

    def finish(self) -> ArchiveSum:
        """Write the end of the archive; the sum of the whole file."""
        end = 2 * BLOCK
        self._put(bytes(end + -(self._size + end) % RECORD))
        return ArchiveSum(f"{self._crc:08x}", self._size)

    def _put(self, content: bytes | memoryview) -> None:
        self._out.write(content)
        self._crc = zlib.crc32(content, self._crc)
        self._size += len(content)
        if self._size - self._flushed >= _FLUSH:
            self._flush()

    def _flush(self) -> None:
        """Let the disk begin with what was written; else it has nothing to do until the end."""
        if hasattr(os, "posix_fadvise"):
            length, advice = self._size - self._flushed, os.POSIX_FADV_DONTNEED
            # Linux starts to write dirty pages that are said not to be needed, and returns.
            with suppress(OSError):  # not every file system takes advice
                os.posix_fadvise(self._out.fileno(), self._flushed, length, advice)
        self._flushed = self._size


def joined(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """The same bytes in as few pieces as possible."""
    last: Piece = (0, 0)
    for piece in pieces:
        if isinstance(last, tuple) and isinstance(piece, tuple) and last[1] == piece[0]:
            last = (last[0], piece[1])
        else:
            if last != (0, 0):
                yield last
            last = piece
    if last != (0, 0):
        yield last
