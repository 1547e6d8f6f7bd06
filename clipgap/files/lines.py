"""Logs of JSON lines, which a run appends to as it goes.

A record is a JSON object on a line of its own, and counts from when its line feed is on the disk.
What a killed writer left of the next one is overlooked by readers and cut off by the next writer,
so the whole records of a log stand together, from its first byte on. Only a line feed ends a line:
`str.splitlines` would end it at U+2028 and its like as well, which keys and captions may hold.

One process at a time writes a log.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar

from clipgap.errors import InputError
from clipgap.files.atomic import sync_folder
from clipgap.files.folders import open_file, read_at
from clipgap.files.remote import RemoteReader

T = TypeVar("T")

_CHUNK = 1 << 16


def append(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Add records behind the whole ones that are there; all are on the disk when this returns."""
    content = b"".join(map(_encoded, records))
    with _writing(path) as log:
        size = os.fstat(log).st_size
        end = _end_of_lines(log, size)
        if end < size:
            os.ftruncate(log, end)
        _write(log, content, end)
    if not size:
        sync_folder(path.parent)  # or the file is lost with its name


def read(path: Path, make: Callable[[dict[str, Any]], T]) -> Iterator[T]:
    """What `make` makes of each record, in order; nothing if there is no such file.

    `make` raises KeyError, TypeError or ValueError of a record that makes no sense. Then, and where
    a line is no JSON object, the error names file and line.
    """
    for _, made in _placed(path, make):
        yield made


def last(path: Path, make: Callable[[dict[str, Any]], T]) -> T | None:
    """What `make` makes of the last record, without reading those before; None if there is none."""
    try:
        with open_file(path) as log:
            source = log if isinstance(log, RemoteReader) else log.fileno()
            end = _end_of_lines(source, log.seek(0, os.SEEK_END))
            start = _end_of_lines(source, end - 1)
            line = read_at(source, end - start, start)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(path, error) from error
    return _made(f"{path}: the last line", line, make) if line else None


def cut(path: Path, stays: Callable[[dict[str, Any]], bool]) -> None:
    """End a log before the first record that does not stay, as if it had never been written."""
    end = 0
    for stop, staying in _placed(path, stays):
        if not staying:
            break
        end = stop
    if path.exists():
        with _writing(path) as log:
            os.ftruncate(log, end)


def _placed(path: Path, make: Callable[[dict[str, Any]], T]) -> Iterator[tuple[int, T]]:
    """Each record, after the place where its line ends."""
    end = 0
    try:
        with BufferedReader(open_file(path)) as log:
            for number, line in enumerate(log, start=1):
                if not line.endswith(b"\n"):
                    return
                end += len(line)
                yield end, _made(f"{path}: line {number:,}", line, make)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be read: {error.strerror or error}")


def _made(where: str, line: bytes, make: Callable[[dict[str, Any]], T]) -> T:
    try:
        record = json.loads(line.decode())
        if not isinstance(record, dict):
            raise ValueError("no JSON object")
        return make(record)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"{where} is damaged ({reason}). Remove the line, or start the run again with "
            "--overwrite."
        ) from error


def _encoded(record: Mapping[str, Any]) -> bytes:
    # Names of files that are not UTF-8 come as lone surrogates, which JSON can only escape.
    text = json.dumps(record, ensure_ascii=False)
    return text.encode(errors="backslashreplace") + b"\n"


@contextmanager
def _writing(path: Path) -> Iterator[int]:
    """An open log; what was done to it is on the disk at the end."""
    try:
        # A link here was made by somebody else, and what it leads to is not ours.
        log = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            yield log
            os.fsync(log)
        finally:
            os.close(log)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror or error}. Mend that, then go on with --resume."
        ) from error


def _end_of_lines(log: int | RemoteReader, size: int) -> int:
    """Where the last line that is whole within the first `size` bytes ends."""
    while size > 0:
        start = max(0, size - _CHUNK)
        found = read_at(log, size - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        size = start
    return 0


def _write(log: int, content: bytes, offset: int) -> None:
    left = memoryview(content)
    while left:
        written = os.pwrite(log, left, offset)
        offset, left = offset + written, left[written:]
