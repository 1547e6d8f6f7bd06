"""A strict reader of tar archives, by byte range.

It gives the place of every member, its extension headers (PAX, GNU long names) included, so that
members can be copied as they are. Where an archive is damaged, or readers of tar would disagree
about what it holds, it stops with `TarDamage`: it never guesses, skips ahead or ends short.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal, NamedTuple

from clipgap.errors import InputError
from clipgap.files.volumes import File

BLOCK = 512
WINDOW = 4 << 20
_LARGEST_EXTENSION = 1 << 20

_FIELDS = struct.Struct("100s24s12s12s8sc100x6s66x16s155s12x")
"""Name, owner, size, time, checksum, type, magic, device and prefix of a header.

Owner and device are two or three numbers of eight bytes each.
"""

OVERRIDES = (b"path=", b"size=", b"sparse")
"""What stands in an extension header that gives its member another name, size or form."""

_RECORD = re.compile(rb"([0-9]{1,7}) ([^=]+)=")
"""How a record of a PAX header begins: its length, all of it counted, and its key."""

_LONGEST_SIZE = 19  # digits; no disk holds a file of 10^19 bytes
_FILES = b"0\0007"
_WITHOUT_CONTENT = b"123456"  # links, devices, folders, pipes

Kind = Literal["file", "folder", "other", "global"]


class TarDamage(InputError):
    """From `offset` on an archive cannot be trusted; everything before it is sound."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"{reason} (byte {offset:,})")
        self.offset = offset
        self.reason = reason


class DataAfterEnd(TarDamage):
    """An archive that is whole, with something behind it that no reader looks at."""


class Member(NamedTuple):
    """One entry of an archive and the bytes it takes: headers, content, padding."""

    name: bytes
    kind: Kind  # "other" is a link, a device or a pipe; "global" a header about all that follows
    start: int  # its first byte, that of an extension header if it has any
    content: int  # first byte of its content
    size: int  # of its content
    stop: int  # one past its padding


class Window:
    """A file read from front to back in large pieces."""

    def __init__(self, file: File, window: int = WINDOW) -> None:
        self._file = file
        self._buffer = memoryview(bytearray(min(window, file.size)))
        self._first = self._stop = 0  # the part of the file that is at hand

    def read(self, offset: int, length: int) -> memoryview:
        """`length` bytes from `offset` on; valid until the next call."""
        if offset < self._first or offset + length > self._stop:
            self._move_to(offset, length)
        begin = offset - self._first
        return self._buffer[begin : begin + length]

    def rest(self, offset: int, least: int) -> memoryview:
        """All that is at hand from `offset` on, `least` bytes unless the file ends before."""
        if not self._first <= offset <= self._stop - min(least, self._file.size - offset):
            self._move_to(offset, min(least, self._file.size - offset))
        return self._buffer[offset - self._first : self._stop - self._first]

    def _move_to(self, offset: int, length: int) -> None:
        if length > len(self._buffer):
            self._buffer = memoryview(bytearray(length))
        filled = min(len(self._buffer), self._file.size - offset)
        self._first = self._stop = offset
        self._file.read_into(offset, self._buffer[:filled])
        self._stop = offset + filled


class TarReader(Window):
    """The entries of an archive, one after another."""

    def __iter__(self) -> Iterator[Member]:
        """All entries in order; `TarDamage` if the archive does not end as it should."""
        if self._file.size == 0:
            raise TarDamage(0, "the file is empty")
        offset = 0
        while (member := self._next(offset)) is not None:
            yield member
            offset = member.stop

    def _next(self, start: int) -> Member | None:
        """The entry that begins at `start`; None if the archive ends there."""
        offset = start
        long_name: bytes | None = None
        long_size: int | None = None
        while (header := self._header(offset)) is not None:
            name, size, kind = header
            content = offset + BLOCK
            if kind in b"xgLK":
                stop = self._stop_of(name, content, size, offset)
                records = self._extension(content, size, offset)
                if kind == b"g":
                    if start != offset or self._overrides(records, offset) != (None, None):
                        raise TarDamage(offset, "a global header that changes names or sizes")
                    return Member(name, "global", start, content, size, stop)
                if kind == b"x":
                    path, length = self._overrides(records, offset)
                    long_name = long_name if path is None else path
                    long_size = long_size if length is None else length
                elif kind == b"L":
                    long_name = records.partition(b"\0")[0]
                offset = stop
                continue
            name = name if long_name is None else long_name
            size = size if long_size is None else long_size
            stop = self._stop_of(name, content, size, offset)
            return Member(name, _kind(kind, name, size, offset), start, content, size, stop)
        if start != offset:
            raise TarDamage(start, "an extension header with no member after it")
        self._check_end(offset)
        return None

    def _header(self, offset: int) -> tuple[bytes, int, bytes] | None:
        """Name, size and type of the header at `offset`; None for the zeros that end an archive."""
        if offset + BLOCK > self._file.size:
            raise TarDamage(offset, "truncated: the file ends before the archive does")
        block = self.read(offset, BLOCK)
        name, owner, size, time, checksum, kind, magic, device, prefix = _FIELDS.unpack(block)
        try:
            # In the sum the checksum's own field counts as eight spaces.
            if _sum(block) - sum(checksum) + 8 * ord(" ") == _number(checksum):
                check_number(time)
                check_numbers(owner + device)
                name = name.partition(b"\0")[0]
                if prefix[0]:
                    if magic != b"ustar\0":
                        raise TarDamage(offset, "a name that readers of tar would disagree about")
                    name = prefix.partition(b"\0")[0] + b"/" + name
                return name, _number(size), kind
        except ValueError:  # not a number
            pass
        if not any(block):
            return None
        raise TarDamage(offset, _not_a_header(block) if offset == 0 else "a damaged header")

    def _stop_of(self, name: bytes, content: int, size: int, offset: int) -> int:
        stop = content + size + -size % BLOCK
        if stop > self._file.size:
            shown = name.decode("utf-8", "backslashreplace")
            missing = stop - self._file.size
            raise TarDamage(offset, f"truncated: {missing:,} bytes of {shown!r} are missing")
        return stop

    def _extension(self, content: int, size: int, offset: int) -> bytes:
        if size > _LARGEST_EXTENSION:
            raise TarDamage(offset, f"an extension header of {size:,} bytes")
        return bytes(self.read(content, size))

    def _overrides(self, content: bytes, offset: int) -> tuple[bytes | None, int | None]:
        """Name and size that a PAX header gives to its member."""
        path, size = None, None
        try:
            for key, value in pax_records(content):
                if key == b"path":
                    path = value
                elif key == b"size":
                    if not value.isdigit() or len(value) > _LONGEST_SIZE:
                        raise ValueError(value)
                    size = int(value)
                elif key.startswith(b"GNU.sparse"):
                    raise TarDamage(offset, "a sparse file, which readers treat differently")
        except ValueError:
            raise TarDamage(offset, "a damaged extension header") from None
        return path, size

    def _check_end(self, offset: int) -> None:
        """After the last member there may be zeros and nothing else."""
        while offset < self._file.size:
            length = min(WINDOW, self._file.size - offset)
            if any(self.read(offset, length).tobytes().lstrip(b"\0")[:1]):
                raise DataAfterEnd(offset, "data after the end of the archive, which is not read")
            offset += length


def check_number(field: bytes) -> None:
    """Raise ValueError unless a field holds a number, be it negative.

    Where a number is none that nobody needs, such as the time, Python's tarfile takes the header
    for the end of the archive and says nothing.
    """
    if field[0] not in (0x80, 0xFF):
        _number(field)


@lru_cache(256)  # nearly all members of an archive have the same owner and device
def check_numbers(fields: bytes) -> None:
    """As `check_number`, for several fields of eight bytes each."""
    for start in range(0, len(fields), 8):
        check_number(fields[start : start + 8])


def _sum(block: memoryview) -> int:
    # The low half of Adler-32 is one plus the sum of the bytes, modulo 65,521, and as fast as C.
    # The bytes of half a block never sum up to that.
    half = BLOCK // 2
    first, second = zlib.adler32(block[:half]), zlib.adler32(block[half:])
    return (first & 0xFFFF) + (second & 0xFFFF) - 2


def _number(field: bytes) -> int:
    """An octal number, or a big-endian one where the first bit is set."""
    if field[0] == 0x80:
        number = int.from_bytes(field, "big") - (0x80 << 8 * (len(field) - 1))
        if number >> 62:
            raise ValueError("absurd")
        return number
    text = field.partition(b"\0")[0].strip(b" ")
    if not text:
        return 0
    if not text.isdigit():
        raise ValueError(text)
    return int(text, 8)


def _kind(kind: bytes, name: bytes, size: int, offset: int) -> Kind:
    if kind in _FILES:
        if kind != b"\0" or not name.endswith(b"/"):
            return "file"
        kind = b"5"  # as it was before there were types
    if kind in _WITHOUT_CONTENT:
        if size:
            raise TarDamage(offset, "a folder, link or device with content")
        return "folder" if kind == b"5" else "other"
    raise TarDamage(offset, f"an entry of type {kind!r}, which readers treat differently")


def pax_records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a PAX header; ValueError where it is damaged."""
    at = 0
    while at < len(content) and content[at]:
        begin = _RECORD.match(content, at)
        stop = at + int(begin[1]) if begin else at
        if begin is None or not begin.end() < stop <= len(content) or content[stop - 1] != 0x0A:
            raise ValueError("a damaged record")
        yield begin[2], content[begin.end() : stop - 1]
        at = stop


def _not_a_header(block: memoryview) -> str:
    if bytes(block[:2]) == b"\x1f\x8b":
        return "compressed with gzip; unpack it with gunzip first"
    return "not a tar archive"
