"""FILE?dim=D&paths=FILE: a raw float32 memmap and its paths of 24 bytes, as SemDeDup has them."""

from __future__ import annotations

import numpy as np

from clipgap.errors import InputError
from clipgap.files.addresses import public
from clipgap.files.naming import join_path, split_path
from clipgap.files.volumes import File, is_absolute, read_bytes, volume_of
from clipgap.store.keys import FixedKeys, KeySource
from clipgap.store.layout import Layout, Piece, Place
from clipgap.store.rows import FileRows, Resting, RowSource

KNOWN = "a raw float32 memmap as FILE?dim=D"
KEY_WIDTH = 24
"""Bytes of one entry in a memmap of paths (`S24`)."""


def recognise(place: Place) -> list[Layout]:
    """Nothing in a raw file tells what it is, so `dim` must have been said."""
    if place.options.dim is None:
        return []
    if len(place.files) != 1 or place.how != "written out":
        raise InputError(
            f"{public(place.path)}: there is no such file (?dim= names a single raw memmap)"
        )
    return [Layout("semdedup", KNOWN, [Piece(place.files[0], _paths(place))], sure=True)]


def open_rows(piece: Piece, resting: Resting) -> RowSource:
    assert piece.options.dim is not None, "recognised by it"
    return _open_raw(piece.file, piece.options.dim)


def open_keys(file: File, piece: Piece, resting: Resting) -> KeySource:
    if file.size % KEY_WIDTH:
        raise InputError(
            f"{file.size:,} bytes are not a whole number of {KEY_WIDTH}-byte paths (S{KEY_WIDTH}): "
            f"{file.size % KEY_WIDTH} bytes are left over"
        )
    return FixedKeys(file, 0, file.size // KEY_WIDTH, np.dtype(f"S{KEY_WIDTH}"))


def _paths(place: Place) -> File | None:
    wanted = place.options.paths
    if wanted is None:
        return None
    if not is_absolute(wanted):
        wanted = join_path(split_path(place.path)[0], wanted)
    volume, wanted = volume_of(wanted)
    file = volume.file(wanted)
    if file is None:
        raise InputError(
            f"{public(wanted)}: there is no such file; paths= of {public(place.path)} names it"
        )
    return file


def _open_raw(file: File, dim: int) -> FileRows:
    """Rows of a headerless float32 memmap, as SemDeDup writes it."""
    if file.size >= 6 and read_bytes(file, 0, 6) == b"\x93NUMPY":
        raise InputError("is an .npy file, not a raw memmap; leave ?dim= out")
    width = 4 * dim
    if file.size % width:
        raise InputError(
            f"{file.size:,} bytes are not a whole number of float32 rows of dim={dim} "
            f"({width:,} bytes each): {file.size % width:,} bytes are left over. "
            "Is dim right, and the file complete?"
        )
    return FileRows(file, 0, file.size // width, dim, np.dtype("<f4"))
