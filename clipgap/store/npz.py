"""One array of an `.npz` archive, read without unpacking the rest."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from typing import IO

from clipgap.errors import InputError
from clipgap.files.volumes import File, RangeReader, read_bytes
from clipgap.store.npy import NpyHeader, check_length, header_length, parse_header
from clipgap.store.resting import Resting
from clipgap.store.rows import FileRows, RowSource, ZippedRows

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ENCRYPTED = 0x1


def open_npz(file: File, array: str | None, resting: Resting[IO[bytes]]) -> RowSource:
    """Rows of one array of an archive; a stored one by byte range, a compressed one as a stream."""
    try:
        with zipfile.ZipFile(_reader(file)) as archive:
            member = _choose(archive.infolist(), array)
            if member.flag_bits & _ENCRYPTED:
                raise InputError(f"{member.filename} is encrypted")
            with archive.open(member) as stream:
                header = _header(stream)
    except (zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise InputError(f"not a readable .npz archive (a zip file): {error}") from error
    try:
        check_length(header, member.file_size)
    except InputError as error:
        raise InputError(f"the array {member.filename}: {error}") from None
    if member.compress_type == zipfile.ZIP_STORED:
        start = _data_offset(file, member)
        return FileRows(file, start + header.offset, header.rows, header.dim, header.dtype)
    return ZippedRows(
        file,
        member.filename,
        header.offset,
        header.rows,
        header.dim,
        header.dtype,
        _opener(file, member.filename),
        resting,
    )


def _reader(file: File) -> IO[bytes]:
    return io.BufferedReader(RangeReader(file), 1 << 18)


def _opener(file: File, member: str) -> Callable[[], IO[bytes]]:
    return lambda: zipfile.ZipFile(_reader(file)).open(member)


def _choose(members: list[zipfile.ZipInfo], array: str | None) -> zipfile.ZipInfo:
    names = [member.filename.removesuffix(".npy") for member in members]
    if len(set(names)) < len(names):
        raise InputError("two arrays of the archive have the same name")
    if array is not None:
        if array not in names:
            raise InputError(f"has no array {array!r}; it has {', '.join(names) or 'none'}")
        return members[names.index(array)]
    images = [name for name in names if name.endswith("_img")] or names
    if len(images) != 1:
        raise InputError(
            f"has {len(images)} arrays that could be meant: {', '.join(images) or 'none'}. "
            f"Choose one: PATH?array={images[0] if images else 'NAME'}"
        )
    return members[names.index(images[0])]


def _header(stream: IO[bytes]) -> NpyHeader:
    start = stream.read(12)
    length = header_length(start)
    header = start + stream.read(max(0, length - len(start)))
    if len(header) < length:
        raise InputError(f"truncated inside the .npy header, at byte {len(header):,}")
    return parse_header(header[:length])


def _data_offset(file: File, member: zipfile.ZipInfo) -> int:
    """First byte of a stored member: behind its local header, whose own lengths decide."""
    magic, name, extra = _LOCAL_HEADER.unpack(
        read_bytes(file, member.header_offset, _LOCAL_HEADER.size)
    )
    if magic != b"PK\x03\x04":
        raise InputError(f"no zip entry at byte {member.header_offset:,}, where the index says")
    return int(member.header_offset + _LOCAL_HEADER.size + name + extra)
