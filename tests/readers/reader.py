"""How a file is read, for tests that spoil it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipgap.errors import ClipgapError

Make = Callable[[Path], Sequence[bytes] | None]


@dataclass(frozen=True)
class Reader:
    """How a file is read that may hold anything.

    `make` fills a folder, `file` in it is the one that strangers write; what else could stand there
    it returns. `seal` gives spoilt content the checksums that it needs to be looked at.
    """

    name: str
    file: str
    make: Make
    read: Callable[[Path], Any]
    seal: Callable[[bytes], bytes] = bytes

    def accepts(self, folder: Path, content: bytes) -> bool:
        """Whether it reads the file; any error but one of ours comes through."""
        (folder / self.file).write_bytes(self.seal(content))
        try:
            self.read(folder)
        except ClipgapError:
            return False
        return True


def written(name: str, content: str | bytes) -> Make:
    """A folder with that file."""

    def make(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return make
