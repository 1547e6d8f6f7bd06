"""NAME.safetensors: one table of floats, of which the header says where it lies."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

from clipgap.errors import InputError
from clipgap.files.volumes import File, read_bytes
from clipgap.store.keys import KeySource
from clipgap.store.layout import Layout, Piece, Place
from clipgap.store.rows import FileRows, Resting, RowSource

KNOWN = "NAME.safetensors"
_LONGEST_HEADER = 100_000_000  # as the library that writes them has it
_TYPES = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}


def recognise(place: Place) -> list[Layout]:
    """Files without keys, in the order of their names."""
    files = place.with_suffix(".safetensors")
    return (
        [Layout("safetensors", "*.safetensors", [Piece(file) for file in files])] if files else []
    )


def open_rows(piece: Piece, resting: Resting) -> RowSource:
    file = piece.file
    length = struct.unpack("<Q", read_bytes(file, 0, 8))[0] if file.size >= 8 else file.size
    if length > min(_LONGEST_HEADER, file.size - 8):
        raise InputError(
            f"the header claims {length:,} bytes at byte 0; that is no safetensors file"
        )
    try:
        header = json.loads(read_bytes(file, 8, length))
        tables = {}
        for name, said in header.items():
            if name != "__metadata__" and len(said["shape"]) == 2:
                (rows, dim), (start, stop) = map(int, said["shape"]), map(int, said["data_offsets"])
                tables[name] = (str(said["dtype"]), rows, dim, start, stop)
    except (
        *(ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError),
    ) as error:
        raise InputError(
            f"the header at byte 8 is damaged: {error or type(error).__name__}"
        ) from error
    name = _choose(tables, piece.options.array)
    kind, rows, dim, start, stop = tables[name]
    if kind not in _TYPES:
        raise InputError(f"{name!r} is of {kind}; embeddings are float16, float32 or float64")
    dtype = np.dtype(_TYPES[kind])
    size, first = rows * dim * dtype.itemsize, 8 + length + start
    if rows < 0 or dim <= 0 or start < 0 or stop - start != size or first + size > file.size:
        raise InputError(
            f"{name!r} should be {rows:,} × {dim:,} of {kind} at bytes {start:,} to {stop:,} "
            f"behind the header, which does not fit a file of {file.size:,} bytes"
        )
    return FileRows(file, first, rows, dim, dtype)


def open_keys(file: File, piece: Piece, resting: Resting) -> KeySource:
    raise AssertionError("they have no keys")


def _choose(tables: dict[str, Any], asked: str | None) -> str:
    if asked in tables:
        return str(asked)
    if asked is not None or len(tables) != 1:
        raise InputError(
            f"has {len(tables):,} tables that could be meant: {', '.join(tables) or 'none'}. "
            f"Choose one: PATH?array={next(iter(tables), 'NAME')}"
        )
    return next(iter(tables))
