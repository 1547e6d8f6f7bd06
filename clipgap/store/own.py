"""A store in clipgap's own format: `store.json` is its catalogue, written last.

STORE/store.json                 what there is: dim, shards with rows and checksums
STORE/embeddings/00000.npy       float16 rows of norm 1
STORE/keys/00000.parquet         the column `key`, then whatever columns the writer was given
STORE/manifest.json              where `clipgap embed` made it: model, weights, preprocessing

Whoever reads a shard has it checked: its rows by their sum as they go by, its keys as a whole
before the first of them is used. A shard of a store that was written before there were sums of
rows is checked as a whole, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from clipgap.errors import InputError
from clipgap.files.documents import MANIFEST, is_count, misfits
from clipgap.files.naming import join_path
from clipgap.files.volumes import File, read_bytes
from clipgap.store.keys import KeySource, open_parquet_keys
from clipgap.store.layout import Layout, Piece, Place, Promise, with_suffix
from clipgap.store.npy import open_npy
from clipgap.store.provenance import read_model
from clipgap.store.rows import FileProof, Resting, RowSource, RowsProof

STORE_FILE = "store.json"
EMBEDDINGS = "embeddings"
KEYS = "keys"
KEY_COLUMN = "key"
KNOWN = STORE_FILE

_FORMAT = "clipgap store"
_VERSION = 1
_LARGEST = 256 << 20


@dataclass(frozen=True)
class Entry:
    """One shard as it was written."""

    name: str
    rows: int
    normalised: int  # rows that had to be scaled to norm 1
    embeddings_sha256: str
    keys_sha256: str | None
    rows_sum: str | None = None  # see `rows.sum_of_rows`; not of stores by an earlier clipgap


@dataclass(frozen=True)
class Catalogue:
    """Everything `store.json` says."""

    dim: int
    keys: bool
    shards: tuple[Entry, ...]

    def to_json(self) -> str:
        content = {"format": _FORMAT, "version": _VERSION, **asdict(self)}
        return json.dumps(content, indent=1, sort_keys=True) + "\n"


def _is_hexadecimal(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{1,64}", value) is not None


_ENTRY = {
    "name": str,
    **dict.fromkeys(("rows", "normalised"), is_count),
    "embeddings_sha256": str,
    "keys_sha256": (None, str),
    "rows_sum": (None, _is_hexadecimal),
}


def recognise(place: Place) -> list[Layout]:
    """A folder with a catalogue, which lists every shard."""
    if place.listing is None or STORE_FILE not in place.listing.files:
        return []
    catalogue = read_catalogue(place.listing.files[STORE_FILE])
    path = place.path
    arrays = _files_in(place, EMBEDDINGS)
    tables = _files_in(place, KEYS)
    pieces, problems = [], []
    for shard in catalogue.shards:
        array = arrays.get(f"{shard.name}.npy")
        keys = tables.get(f"{shard.name}.parquet") if catalogue.keys else None
        if array is None:
            problems.append(f"{path}/{EMBEDDINGS}/{shard.name}.npy: missing, {STORE_FILE} lists it")
        else:
            pieces.append(Piece(array, keys, _promise(catalogue, shard)))
        if catalogue.keys and keys is None:
            problems.append(f"{path}/{KEYS}/{shard.name}.parquet: missing, {STORE_FILE} lists it")
    listed = {shard.name for shard in catalogue.shards}
    problems += [
        f"{array.path}: not listed in {STORE_FILE}"
        for array in with_suffix(arrays, ".npy")
        if Piece(array).stem not in listed
    ]
    manifest = place.listing.files.get(MANIFEST)
    model = None if manifest is None else read_model(manifest)
    return [Layout("clipgap", STORE_FILE, pieces, problems, sure=True, model=model)]


def open_rows(piece: Piece, resting: Resting) -> RowSource:
    promise, rows = piece.promise, open_npy(piece.file)
    assert promise is not None, "a catalogue lists the shard"
    if rows.dtype != np.dtype("<f2"):
        raise InputError(f"holds {rows.dtype.str}, not the float16 that a store of clipgap holds")
    if promise.rows_sum is None:
        return replace(rows, proof=FileProof(piece.file, promise.embeddings_sha256))
    return replace(rows, proof=RowsProof(piece.file.path, rows.rows, int(promise.rows_sum, 16)))


def open_keys(file: File, piece: Piece, resting: Resting) -> KeySource:
    keys = open_parquet_keys(file, KEY_COLUMN, resting)
    if piece.promise is None or piece.promise.keys_sha256 is None:
        return keys
    return replace(keys, proof=FileProof(file, piece.promise.keys_sha256))


def is_unfinished(place: Place) -> bool:
    """Whether a folder is what a writer of ours leaves that was stopped."""
    return place.listing is not None and {EMBEDDINGS, KEYS} <= place.listing.folders


def read_catalogue(file: File) -> Catalogue:
    """Parse and check a `store.json`."""
    try:
        if file.size > _LARGEST:
            raise ValueError(f"{file.size:,} bytes are too many")
        content: Any = json.loads(read_bytes(file, 0, file.size))
        if content["format"] != _FORMAT:
            raise ValueError(f"its format is {content['format']!r}, not {_FORMAT!r}")
        if content["version"] != _VERSION:
            raise ValueError(
                f"its version is {content['version']!r}; this clipgap reads {_VERSION}"
            )
        for problem in misfits(content, {"dim": is_count, "keys": bool, "shards": [_ENTRY]}):
            raise ValueError(problem)
        shards = tuple(Entry(**entry) for entry in content["shards"])
        return Catalogue(content["dim"], content["keys"], shards)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{file.path}: not the catalogue of a clipgap store: {error}") from error


def _promise(catalogue: Catalogue, shard: Entry) -> Promise:
    return Promise(
        shard.rows, catalogue.dim, shard.rows_sum, shard.embeddings_sha256, shard.keys_sha256
    )


def _files_in(place: Place, folder: str) -> Mapping[str, File]:
    listing = place.beside(join_path(place.path, folder))
    return listing.files if listing else {}
