"""Folders in a bucket, as paths.

What clipgap has made is named by a path and read by it, wherever it lies: a `RemotePath` is looked
at, listed and read as a `Path` is, and its files are opened by `files.folders`. Nothing is written
to one, and nothing is copied in silence: whoever hands it to the system, or to a library that opens
files by name, gets an error that says to bring the folder here.

What cannot be told, since the server does not answer or refuses to, is an error too, never an
answer.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PosixPath
from typing import Any

from clipgap.errors import UsageError
from clipgap.files.addresses import BUCKET, SLASHES, is_remote, public
from clipgap.files.volumes import File, RangeReader, RemoteVolume, read_bytes

_AHEAD = 8 << 20
"""Read at once at least: to ask for a byte takes as long as to be sent a megabyte."""


def path_of(place: str | Path) -> Path:
    """The path of a folder or file that clipgap has made and that is to be read."""
    if isinstance(place, RemotePath) or not is_remote(place):
        return Path(place) if isinstance(place, str) else place
    address = SLASHES.sub("://", str(place), count=1)
    if BUCKET.fullmatch(address):
        return RemotePath(address)
    raise UsageError(
        f"{public(address)}: what clipgap has made is read from a disk of this machine or from "
        "s3://BUCKET/NAME. Bring it here, and name the folder that it lies in"
    )


def path_here(place: str | Path) -> Path:
    """The path of what must lie on a disk, since it is opened by its name, as checkpoints are."""
    if not is_remote(place):
        return Path(place)
    address = public(SLASHES.sub("://", str(place), count=1))
    how = "copying it"
    if address.startswith("s3:"):
        how = f"`aws s3 sync {address} FOLDER`, or `aws s3 cp` if it is a file"
    raise UsageError(
        f"{address} can only be used here from a disk of this machine. Bring it by {how}, and "
        "name that"
    )


class RemotePath(PosixPath):
    """A folder or file of a bucket, which is asked for each time."""

    __slots__ = ()

    def __str__(self) -> str:
        return SLASHES.sub("://", super().__str__(), count=1)

    def __fspath__(self) -> str:
        return str(path_here(self))

    @property
    def _volume(self) -> RemoteVolume:
        return RemoteVolume.connect(str(self))

    def file(self) -> File | None:
        """The file of this name; None if there is nothing or a folder."""
        return self._volume.file(str(self))

    def names(self) -> list[str]:
        """Of all files in this folder and those inside it."""
        return self._volume.names(str(self))

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Kind and size; nothing else is the same in a bucket."""
        file = self.file()
        if file is None and not self.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        kind, size = (stat.S_IFDIR, 0) if file is None else (stat.S_IFREG, file.size)
        return os.stat_result((kind | 0o444, 0, 0, 1, 0, 0, size, 0, 0, 0))

    def is_file(self, **_: Any) -> bool:
        return self.file() is not None

    def is_dir(self, **_: Any) -> bool:
        return self._volume.is_folder(str(self))

    def exists(self, **_: Any) -> bool:
        return self.is_file() or self.is_dir()

    def is_symlink(self) -> bool:
        return False

    def is_absolute(self) -> bool:
        return True

    def resolve(self, strict: bool = False) -> RemotePath:
        return self

    def absolute(self) -> RemotePath:
        return self

    def iterdir(self) -> Iterator[RemotePath]:  # type: ignore[override]
        found = self._volume.listing(str(self))
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        yield from (self / name for name in sorted({*found.files, *found.folders}))

    def arrow(self) -> Any:
        """The file system as pyarrow takes it, with names that begin with that of the bucket."""
        from pyarrow.fs import FSSpecHandler, PyFileSystem

        return PyFileSystem(FSSpecHandler(self._volume.filesystem))

    def glob(self, pattern: str, **_: Any) -> Iterator[RemotePath]:  # type: ignore[override]
        wanted = pattern.split("/")
        for name in self.names():
            parts = name.split("/")
            if len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted)):
                yield self / name

    def rglob(self, pattern: str, **_: Any) -> Iterator[RemotePath]:  # type: ignore[override]
        for name in self.names():
            if fnmatchcase(name.rpartition("/")[2], pattern):
                yield self / name

    def opened(self) -> RemoteReader:
        """The file, to be read; as with one of a disk, an `OSError` if there is none."""
        file = self.file()
        if file is None:
            wrong = errno.EISDIR if self.is_dir() else errno.ENOENT
            raise OSError(wrong, os.strerror(wrong), str(self))
        return RemoteReader(file)

    def open(self, mode: str = "r", *_: Any, **how: Any) -> Any:
        if not set(mode) <= set("rbt"):
            return self.__fspath__()
        if mode == "rb":
            return io.BufferedReader(self.opened())
        return io.TextIOWrapper(io.BufferedReader(self.opened()), encoding=how.get("encoding"))

    def read_bytes(self) -> bytes:
        with self.opened() as file:
            return file.readall()

    def read_text(self, encoding: str | None = None, *_: Any, **__: Any) -> str:
        return self.read_bytes().decode(encoding or "utf-8")


def source_of(path: Path) -> Any:
    """As it is taken by a library that reads files, by name or open ones."""
    return path.opened() if isinstance(path, RemotePath) else path


class RemoteReader(RangeReader):
    """An open file of a bucket; what is asked for is mostly held already."""

    def __init__(self, file: File) -> None:
        super().__init__(file)
        self._start, self._held = 0, b""

    def read_at(self, size: int, start: int) -> bytes:
        """So many bytes, fewer only where the file ends."""
        end = min(start + size, self._file.size)
        if start < self._start or end > self._start + len(self._held):
            length = min(max(end - start, _AHEAD), self._file.size)
            self._start = min(start, self._file.size - length)
            self._held = read_bytes(self._file, self._start, length)
        return self._held[start - self._start : end - self._start]

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        content = self.read_at(len(view), self._position)
        view[: len(content)] = content
        self._position += len(content)
        return len(content)

    def readall(self) -> bytes:
        content = self.read_at(self._file.size, self._position)
        self._position = self._file.size
        return content
