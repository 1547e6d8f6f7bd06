"""Writing an archive out of pieces of others."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, TypeAlias

from clipgap.shards.tar import BLOCK, WINDOW, Window
from clipgap.store.files import File
from clipgap.tables.files import FileSum

RECORD = 20 * BLOCK
"""Archives end on a whole record, as tar itself makes them."""

Piece: TypeAlias = tuple[int, int] | bytes
"""Part of an archive: from one byte to another of a file, or bytes that are new."""


class ArchiveWriter:
    """Writes an archive and sums it up on the way."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out
        self._digest = hashlib.sha256()
        self._size = 0

    def copy(self, file: File, pieces: Iterable[Piece]) -> None:
        """Append pieces of `file`, in order."""
        window = Window(file)
        for piece in joined(pieces):
            if isinstance(piece, bytes):
                self._put(piece)
                continue
            start, stop = piece
            for at in range(start, stop, WINDOW):
                self._put(window.read(at, min(WINDOW, stop - at)))

    def finish(self) -> FileSum:
        """Write the end of the archive; what the whole file has become."""
        end = 2 * BLOCK
        self._put(bytes(end + -(self._size + end) % RECORD))
        return FileSum(self._digest.hexdigest(), self._size)

    def _put(self, content: bytes | memoryview) -> None:
        self._out.write(content)
        self._digest.update(content)
        self._size += len(content)


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
