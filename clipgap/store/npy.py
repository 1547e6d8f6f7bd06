"""Arrays in `.npy` files: their header, read strictly and without NumPy's loader, and their rows.

Only a plain two-dimensional C-order array of floats passes. Nothing is ever unpickled, and the
header has to account for every byte of the file.
"""

from __future__ import annotations

import ast
import re
import struct
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipgap.errors import InputError
from clipgap.files.naming import join_path, split_path
from clipgap.files.volumes import File, read_bytes
from clipgap.store.keys import FixedKeys, KeySource
from clipgap.store.layout import Layout, Piece, Place, is_image_shard, order, with_suffix
from clipgap.store.rows import FileRows, Resting, RowSource

KNOWN = "NAME.npy"
MAGIC = b"\x93NUMPY"
FIRST_READ = 4096
"""Bytes to fetch first; NumPy pads headers to 128 bytes, so this nearly always holds one whole."""

_LONGEST_HEADER = 1 << 16
_FLOAT = re.compile(r"[<>|=]?f[248]")
_TEXT = re.compile(r"[<>|=]?[US][1-9][0-9]{0,3}")
_PARSING = threading.Lock()
"""CPython 3.11 counts the depth of all threads' syntax trees in one variable, so two headers read
at once can end in `SystemError: AST constructor recursion depth mismatch`."""


@dataclass(frozen=True)
class NpyHeader:
    """Where the rows of an array begin and what they look like."""

    offset: int  # of the first row, from the start of the array
    rows: int
    dim: int
    dtype: np.dtype[Any]  # as stored, byte order included

    @property
    def end(self) -> int:
        """Length of the whole array, header included."""
        return self.offset + self.rows * self.dim * self.dtype.itemsize


def recognise(place: Place) -> list[Layout]:
    """`.npy` files without keys, in the order of their numbers."""
    files = place.with_suffix(".npy")
    if not files or all(map(is_image_shard, files)):
        return []
    if place.how != "written out" and any(map(is_image_shard, files)):
        other = next(file for file in files if not is_image_shard(file))
        pattern = join_path(split_path(other.path)[0], "img_emb_*.npy")
        raise InputError(
            f"{other.path}: lies among img_emb_N.npy files, and it is unclear whether it is meant; "
            f"name the files, for example '{pattern}'"
        )
    problems: list[str] = []
    if place.how == "folder":
        problems = order(files, from_zero=True, gaps=place.options.missing)
    if place.listing and (others := with_suffix(place.listing.files, ".parquet")):
        problems.append(
            f"{others[0].path}: it is unclear what this belongs to; beside NAME.npy files no "
            "parquet is expected. Name the arrays as a glob ('…/*.npy') to leave it aside."
        )
    return [Layout("npy", "*.npy", [Piece(file) for file in files], problems)]


def open_rows(piece: Piece, resting: Resting) -> RowSource:
    return open_npy(piece.file)


def open_keys(file: File, piece: Piece, resting: Resting) -> KeySource:
    raise AssertionError("plain arrays have no keys")


def open_npy(file: File) -> FileRows:
    """Rows of an `.npy` file whose header has been checked against its size."""
    header = parse_header(_read_header(file))
    check_length(header, file.size)
    return FileRows(file, header.offset, header.rows, header.dim, header.dtype)


def header_length(start: bytes) -> int:
    """Bytes of header, from the first bytes of an array (12 are enough)."""
    if start[:6] != MAGIC:
        found = start[:6].hex(" ") or "nothing"
        raise InputError(
            f"not an .npy array: it starts with the bytes {found}, not {MAGIC.hex(' ')}. "
            "A raw float32 memmap is named as PATH?dim=D."
        )
    if len(start) < 12:
        raise InputError(f"truncated inside the .npy header, at byte {len(start):,}")
    version = start[6]
    if version == 1:
        length = 10 + int(struct.unpack_from("<H", start, 8)[0])
    elif version in (2, 3):
        length = 12 + int(struct.unpack_from("<I", start, 8)[0])
    else:
        raise InputError(f".npy format version {version}.{start[7]} at byte 6 is unknown")
    if length > _LONGEST_HEADER:
        raise InputError(f"the .npy header claims {length:,} bytes at byte 8; that is no header")
    return length


def open_npy_texts(file: File) -> FixedKeys:
    """A one-dimensional array of texts, as NumPy makes it of a list of paths."""
    header = _read_header(file)
    fields = _fields(header)
    descr, shape = fields["descr"], fields["shape"]
    if not isinstance(descr, str) or not _TEXT.fullmatch(descr):
        raise InputError(
            f"holds {str(descr)[:80]!r}; keys are texts (U or S) of up to 9,999 letters"
        )
    if not isinstance(shape, tuple) or len(shape) != 1 or type(shape[0]) is not int:
        raise InputError(f"has the shape {str(shape)[:80]}; keys are a list, of one dimension")
    keys = FixedKeys(file, len(header), shape[0], np.dtype(descr))
    end = len(header) + max(0, keys.rows) * keys.dtype.itemsize
    if keys.rows < 0 or file.size != end:
        raise InputError(
            f"the header says {keys.rows:,} texts of {keys.dtype.itemsize:,} bytes, which end at "
            f"byte {end:,}, but the file ends at byte {file.size:,}"
        )
    return keys


def parse_header(header: bytes) -> NpyHeader:
    """Check a whole header (`header_length` bytes) of an array of rows."""
    fields = _fields(header)
    dtype = _dtype(fields["descr"])
    rows, dim = _shape(fields["shape"])
    if fields["fortran_order"] is not False:
        raise InputError(
            "stored in Fortran (column) order, so a row is not a range of bytes. "
            "Rewrite it: np.save(path, np.ascontiguousarray(np.load(path)))"
        )
    return NpyHeader(len(header), rows, dim, dtype)


def _read_header(file: File) -> bytes:
    """The whole header of an `.npy` file."""
    start = read_bytes(file, 0, min(FIRST_READ, file.size))
    length = header_length(start)
    if length > file.size:
        raise InputError(
            f"truncated inside the .npy header: it should end at byte {length:,}, "
            f"the file ends at byte {file.size:,}"
        )
    return start[:length] if length <= len(start) else read_bytes(file, 0, length)


def _fields(header: bytes) -> dict[str, Any]:
    """What a whole header says, and nothing but that."""
    version = header[6]
    start = 10 if version == 1 else 12
    encoding = "utf-8" if version == 3 else "latin-1"
    try:
        with _PARSING:
            fields = ast.literal_eval(header[start:].decode(encoding).strip())
    except Exception as error:  # {[1]: 2} is a TypeError, and who knows what else there is
        raise InputError(f"the .npy header at byte {start} is not a plain dictionary") from error
    if not isinstance(fields, dict) or set(fields) != {"descr", "fortran_order", "shape"}:
        raise InputError(
            f"the .npy header at byte {start} does not have exactly the entries "
            "descr, fortran_order and shape"
        )
    return fields


def check_length(header: NpyHeader, size: int) -> None:
    """Refuse an array that is shorter or longer than its header says."""
    promise = (
        f"the header says {header.rows:,} rows × {header.dim:,} {header.dtype.name}, "
        f"which end at byte {header.end:,}"
    )
    if size < header.end:
        whole = max(0, size - header.offset) // (header.dim * header.dtype.itemsize)
        raise InputError(
            f"truncated: {promise}, but the file ends at byte {size:,}; "
            f"row {whole:,} is the first that is not whole. Fetch or write the file again."
        )
    if size > header.end:
        raise InputError(
            f"{size - header.end:,} bytes too many: {promise}, but the file ends at byte {size:,}"
        )


def _dtype(descr: object) -> np.dtype[Any]:
    if isinstance(descr, str) and _FLOAT.fullmatch(descr):
        return np.dtype(descr)
    if isinstance(descr, str) and descr.lstrip("<>|=").startswith("O"):
        raise InputError(
            "holds Python objects (dtype object), which means a pickle; pickles are never opened. "
            "Save the embeddings as a plain float16 array."
        )
    raise InputError(f"holds {str(descr)[:80]!r}; embeddings are float16, float32 or float64")


def _shape(shape: object) -> tuple[int, int]:
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise InputError(f"the .npy header gives the shape {str(shape)[:80]}, which is no shape")
    if len(shape) != 2:
        raise InputError(
            f"has {len(shape)} dimensions, shape {str(shape)[:80]}; "
            "embeddings are a table of two: rows × dimensions"
        )
    rows, dim = shape
    if dim == 0:
        raise InputError("has rows of length 0")
    return rows, dim
