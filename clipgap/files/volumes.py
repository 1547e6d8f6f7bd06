"""Files by byte range, on this machine or behind an fsspec URL.

A `File` knows its size and a mark of its last change from when the store was opened, and reads
exactly the bytes that are asked for. A `Volume` lists folders. Nothing else in the package touches
input files, so this is also the only place that imports fsspec. Files and volumes are plain values
that can be sent to another process, which opens nothing until it reads.
"""

from __future__ import annotations

import glob
import io
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from clipgap.errors import InputError, MissingDependency
from clipgap.files.addresses import public
from clipgap.packages import installation

_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")
_LOCAL_URL = re.compile(r"^(?:file|local)://")
FILE_THREADS = 16
"""Headers and samples are small and far away: many at once hide the latency of remote storage."""

_REQUEST = 16 << 20
"""Largest single range asked of a remote store; bigger reads become parallel requests."""

# What the various fsspec backends call the thing that changes when an object is rewritten.
_MARKS = ("ETag", "etag", "blob_id", "md5Hash", "last_modified", "LastModified", "mtime", "created")


class File(Protocol):
    """One file as it was when the store was opened."""

    @property
    def path(self) -> str:
        """Its path or the public form of its address."""
        ...

    @property
    def address(self) -> str:
        """What it is asked for by; not to be shown."""
        ...

    @property
    def size(self) -> int: ...
    @property
    def modified(self) -> str:
        """A mark that changes when the file is rewritten; empty when the backend has none."""
        ...

    @property
    def written(self) -> int | None:
        """When it was last written, in nanoseconds since 1970; None if the backend has no clock."""
        ...

    def __hash__(self) -> int: ...
    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` (bytes) with what lies from `offset` on, or raise."""
        ...


@dataclass(frozen=True)
class Listing:
    """What lies directly in one folder, by name."""

    files: Mapping[str, File]
    folders: frozenset[str]


class Volume(Protocol):
    """A tree of files."""

    def file(self, path: str) -> File | None:
        """The file at `path`; None if there is nothing or a folder."""
        ...

    def listing(self, path: str) -> Listing | None:
        """What lies in a folder; None if `path` is not one."""
        ...

    def is_folder(self, path: str) -> bool:
        """Whether there is a folder of this very name."""
        ...

    def glob(self, pattern: str) -> list[File]:
        """The files that a pattern matches."""
        ...


def volume_of(path: str) -> tuple[Volume, str]:
    """The volume that a path or URL lies on, and the path to use there."""
    if not _URL.match(path) or _LOCAL_URL.match(path):
        return LocalVolume(), _LOCAL_URL.sub("", path)
    return RemoteVolume.connect(path), path


def file_at(path: str | Path) -> File:
    """The file that a path or URL names; one that is not there is refused."""
    volume, named = volume_of(str(path))
    file = volume.file(named)
    if file is None:
        raise InputError(f"{public(str(path))}: there is no such file")
    return file


def is_absolute(path: str) -> bool:
    """Whether a path means the same from every folder."""
    return bool(_URL.match(path)) or Path(path).is_absolute()


def read_bytes(file: File, offset: int, length: int) -> bytes:
    """`length` bytes from `offset` on."""
    buffer = bytearray(length)
    file.read_into(offset, memoryview(buffer))
    return bytes(buffer)


@dataclass(frozen=True)
class LocalFile:
    """A file on a mounted disk, opened for each read: no handle outlives a call."""

    path: str
    size: int
    modified: str

    @classmethod
    def found(cls, path: str, status: os.stat_result) -> LocalFile:
        return cls(path, status.st_size, str(status.st_mtime_ns))

    @property
    def address(self) -> str:
        return self.path

    @property
    def written(self) -> int:
        return int(self.modified)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        try:
            handle = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            try:
                self._check_unchanged(os.fstat(handle))
                done = 0
                while done < len(buffer):
                    # One call moves at most 2 GiB on Linux, hence the loop.
                    count = os.preadv(handle, [buffer[done:]], offset + done)
                    if count == 0:
                        raise InputError(
                            f"{self.path}: ends at byte {offset + done:,}, "
                            f"{len(buffer) - done:,} bytes short"
                        )
                    done += count
            finally:
                os.close(handle)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read: {error.strerror or error}") from error

    def _check_unchanged(self, status: os.stat_result) -> None:
        if status.st_size != self.size or str(status.st_mtime_ns) != self.modified:
            raise InputError(
                f"{self.path}: was changed after the store was opened "
                f"(size {self.size:,} then, {status.st_size:,} bytes now); start again"
            )


class LocalVolume:
    """The files of this machine."""

    def file(self, path: str) -> LocalFile | None:
        try:
            status = os.stat(path)  # noqa: PTH116
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise InputError(f"{path!r}: no file can be called that: {error}") from error
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
        return LocalFile.found(path, status) if stat.S_ISREG(status.st_mode) else None

    def listing(self, path: str) -> Listing | None:
        files: dict[str, File] = {}
        folders: set[str] = set()
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_dir():
                        folders.add(entry.name)
                    elif entry.is_file():
                        files[entry.name] = LocalFile.found(entry.path, entry.stat())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise InputError(f"{path}: cannot be listed: {error.strerror or error}") from error
        return Listing(files, frozenset(folders))

    def is_folder(self, path: str) -> bool:
        return os.path.isdir(path)  # noqa: PTH112 - a name that no disk can hold is no folder

    def glob(self, pattern: str) -> list[File]:
        found = (self.file(path) for path in sorted(glob.glob(pattern)))  # noqa: PTH207
        return [file for file in found if file is not None]


@dataclass(frozen=True, eq=False)
class RemoteFile:
    """An object behind an fsspec URL; every read is one or more range requests."""

    filesystem: Any
    address: str  # as it is asked for, with all it may hold
    size: int
    modified: str

    @property
    def path(self) -> str:
        return public(self.address)

    @property
    def written(self) -> None:
        return None  # a mark need not be a time, nor are two clocks one

    def read_into(self, offset: int, buffer: memoryview) -> None:
        end = min(offset + len(buffer), self.size)
        starts = list(range(offset, end, _REQUEST))
        ends = [min(start + _REQUEST, end) for start in starts]
        try:
            pieces = _of_this_process(self.filesystem).cat_ranges(
                [self.address] * len(starts), starts, ends, on_error="raise"
            )
        except Exception as error:  # each backend has its own family of errors
            raise unreachable(self.path, error) from error
        done = 0
        for piece in pieces:
            buffer[done : done + len(piece)] = piece
            done += len(piece)
        if done < len(buffer):
            raise InputError(
                f"{self.path}: ends at byte {offset + done:,}, {len(buffer) - done:,} bytes short"
            )


def _of_this_process(filesystem: Any) -> Any:
    """A file system like it: one that keeps a thread of its own does not outlive a fork."""
    if getattr(filesystem, "_pid", None) in (None, os.getpid()):
        return filesystem
    return type(filesystem)(*filesystem.storage_args, **filesystem.storage_options)


@dataclass(frozen=True, eq=False)
class RemoteVolume:
    """A file system behind fsspec; paths are whole URLs."""

    filesystem: Any

    @classmethod
    def connect(cls, url: str) -> RemoteVolume:
        import fsspec

        try:
            filesystem, _ = fsspec.core.url_to_fs(url)
        except ImportError as error:
            scheme = url.partition("://")[0]
            raise MissingDependency(
                f"{public(url)}: {scheme}:// needs a package that is not installed: {error}. "
                f"{installation('remote')} brings s3:// and hf://."
            ) from error
        except ValueError as error:
            raise InputError(public(f"{url}: {error}")) from error
        filesystem.invalidate_cache()  # a listing from before an edit must not be trusted
        return cls(filesystem)

    def file(self, path: str) -> RemoteFile | None:
        try:
            info = self.filesystem.info(path)
        except FileNotFoundError:
            return None
        except Exception as error:
            raise unreachable(path, error) from error
        return self._file(info) if info["type"] == "file" else None

    def is_folder(self, path: str) -> bool:
        try:
            return bool(self.filesystem.isdir(path))
        except Exception as error:
            raise unreachable(path, error) from error

    def listing(self, path: str) -> Listing | None:
        if not self.is_folder(path):
            return None
        try:
            entries = self.filesystem.ls(path, detail=True)
        except Exception as error:
            raise unreachable(path, error) from error
        files: dict[str, File] = {}
        folders: set[str] = set()
        for entry in entries:
            name = str(entry["name"]).rstrip("/").rpartition("/")[2]
            if entry["type"] == "directory":
                folders.add(name)
            elif entry.get("size") is not None:  # a web page of links tells no sizes
                files[name] = self._file(entry)
        return Listing(files, frozenset(folders))

    def names(self, path: str) -> list[str]:
        """Of all files in a folder and those inside it, as they are called in it."""
        try:
            found = self.filesystem.find(path, refresh=True)
        except Exception as error:
            raise unreachable(path, error) from error
        inside = f"{self.filesystem._strip_protocol(path)}/"
        return sorted(str(name).removeprefix(inside) for name in found)

    def glob(self, pattern: str) -> list[File]:
        try:
            found = self.filesystem.glob(pattern, detail=True)
        except Exception as error:
            raise unreachable(pattern, error) from error
        return [self._file(found[name]) for name in sorted(found) if found[name]["type"] == "file"]

    def _file(self, info: Mapping[str, Any]) -> RemoteFile:
        address = self.filesystem.unstrip_protocol(info["name"])
        if info.get("size") is None:
            raise InputError(
                f"{public(address)}: the server does not tell its size, so it cannot be read by "
                "range; copy it to a disk first"
            )
        mark = next((str(info[name]) for name in _MARKS if info.get(name)), "")
        return RemoteFile(self.filesystem, address, int(info["size"]), mark)


class RangeReader(io.RawIOBase):
    """A `File` dressed as a Python file, for the zip and parquet libraries."""

    def __init__(self, file: File) -> None:
        super().__init__()
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        if base + offset < 0:
            raise OSError(22, "seek before the start of the file")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._file.size - self._position))
        if count:
            self._file.read_into(self._position, view[:count])
        self._position += count
        return count


def unreachable(path: str, error: Exception, wanted: str = "read") -> InputError:
    """What a backend says, in one sentence."""
    said = " ".join(str(error).split()).rstrip(".")
    advice = _advice(error) if path.startswith("s3:") else ""
    return InputError(public(f"{path}: cannot be {wanted}: {type(error).__name__}: {said}{advice}"))


def _advice(error: Exception) -> str:
    """What can be done where S3 did not serve a request."""
    if isinstance(error, PermissionError):
        return ". Ask its owner, or be somebody else (AWS_PROFILE, or AWS_ACCESS_KEY_ID)"
    if type(error).__name__.endswith("CredentialsError"):
        return ". Say who you are: AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    return ". Try again later, or more often at once (AWS_MAX_ATTEMPTS)"
