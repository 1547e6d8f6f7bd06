"""NAME.npz with NAME.parquet beside it, as DataComp publishes its embeddings.

One array of each archive is read without unpacking the rest: a stored one by byte range, a
compressed one as a stream.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from clipgap.errors import InputError
from clipgap.files.identity import digest_of
from clipgap.files.naming import split_path, stem_of
from clipgap.files.volumes import File, RangeReader, read_bytes
from clipgap.memory import blank
from clipgap.store.keys import KeySource, open_parquet_keys
from clipgap.store.layout import Layout, Piece, Place, order, with_suffix
from clipgap.store.npy import NpyHeader, check_length, header_length, parse_header
from clipgap.store.rows import FileRows, Resting, RowSource, as_bytes, to_native

KNOWN = "NAME.npz"
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ENCRYPTED = 0x1
_MODELS = {"b32_img": "ViT-B-32", "l14_img": "ViT-L-14"}
"""The models, with OpenAI's weights, whose features DataComp publishes under these names."""
_SKIP = 1 << 20


def recognise(place: Place) -> list[Layout]:
    """Archives, each with its keys; all have keys or none has."""
    files = place.with_suffix(".npz")
    if not files:
        return []
    problems: list[str] = []
    if place.how == "folder":
        problems = order(files, from_zero=True, gaps=place.options.missing)
    folders = dict.fromkeys(split_path(file.address)[0] for file in files)
    listings = {folder: place.listing or place.beside(folder) for folder in folders}
    pieces = []
    for file in files:
        folder, name = split_path(file.address)
        listing = listings[folder]
        keys = listing.files.get(f"{stem_of(name)}.parquet") if listing else None
        pieces.append(Piece(file, keys))
    if any(piece.keys for piece in pieces):
        problems += [f"{p.file.path}: no {p.stem}.parquet beside it" for p in pieces if not p.keys]
    if place.listing is not None:
        stems = {piece.stem for piece in pieces}
        for parquet in with_suffix(place.listing.files, ".parquet"):
            if Piece(parquet).stem not in stems:
                problems.append(f"{parquet.path}: no {Piece(parquet).stem}.npz beside it")
    published = _MODELS.get(place.options.array or "")
    model = {"model": published, "pretrained": "openai"} if published else None
    return [Layout("datacomp", "*.npz", pieces, problems, model=model)]


def open_rows(piece: Piece, resting: Resting) -> RowSource:
    """Rows of one array of an archive."""
    file = piece.file
    with _unpacking("not a readable .npz archive (a zip file)"):
        with zipfile.ZipFile(_reader(file)) as archive:
            member = _choose(archive.infolist(), piece.options.array)
            if member.flag_bits & _ENCRYPTED:
                raise InputError(f"{member.filename} is encrypted")
            with archive.open(member) as stream:
                header = _header(stream)
        try:
            check_length(header, member.file_size)
        except InputError as error:
            raise InputError(f"the array {member.filename}: {error}") from None
        if member.compress_type == zipfile.ZIP_STORED:
            start = _data_offset(file, member)
            return FileRows(file, start + header.offset, header.rows, header.dim, header.dtype)
    return ZippedRows(
        file, member.filename, header.offset, header.rows, header.dim, header.dtype, resting
    )


def open_keys(file: File, piece: Piece, resting: Resting) -> KeySource:
    return open_parquet_keys(file, "uid", resting)


@dataclass(frozen=True)
class ZippedRows:
    """Rows in a compressed zip member, which can only be read from its start onwards."""

    file: File
    member: str
    offset: int  # of the first row within the unpacked member
    rows: int
    dim: int
    dtype: np.dtype[Any]
    resting: Resting

    def read(self, start: int, stop: int) -> NDArray[Any]:
        block = blank((stop - start, self.dim), self.dtype)
        target = as_bytes(block)
        at = self.offset + start * self.dim * self.dtype.itemsize
        what = f"the compressed array {self.member} is damaged near row {start:,}"
        with _unpacking(f"{self.file.path}: {what}"):
            stream: IO[bytes] | None = self.resting.take(self.file.path)
            if stream is None or stream.tell() > at:
                stream = zipfile.ZipFile(_reader(self.file)).open(self.member)  # noqa: SIM115
            while (behind := at - stream.tell()) > 0 and stream.read(min(behind, _SKIP)):
                pass
            done = 0
            while done < len(target) and (piece := stream.read(len(target) - done)):
                target[done : done + len(piece)] = piece
                done += len(piece)
        if done < len(target):
            raise InputError(f"{self.file.path}: {self.member} ends before row {stop:,}")
        self.resting.keep(self.file.path, stream)
        return to_native(block)

    def digest(self) -> str:
        return f"{self.member}:{digest_of(self.file)}"

    def modified(self) -> str:
        return self.file.modified


@contextmanager
def _unpacking(what: str) -> Iterator[None]:
    """Whatever the zip library makes of a damaged archive is the archive's fault."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # BadZipFile, zlib.error, EOFError, struct.error, UnicodeError, …
        raise InputError(f"{what}: {error or type(error).__name__}") from error


def _reader(file: File) -> IO[bytes]:
    return io.BufferedReader(RangeReader(file), 1 << 18)


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
