"""Lance datasets: NAME.lance/ with _versions/ and data/. A fragment is a shard.

The newest version counts, without the rows that are deleted in it. Columns are chosen as in other
tables: one of lists of floats, or of several `PATH?array=NAME`; keys are in one of `columns.KEYS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.errors import InputError
from clipgap.files.identity import digest_of_group, mark_of
from clipgap.files.naming import join_path, split_path
from clipgap.files.volumes import File, file_at
from clipgap.packages import missing
from clipgap.store.columns import choose, embeddings_in, float_of, key_column_of, matrix_of
from clipgap.store.keys import KeySource, ListedKeys, decoding
from clipgap.store.layout import Layout, Piece, Place
from clipgap.store.rows import Resting, RowSource

KNOWN = "NAME.lance/"
_VERSIONS, _DATA = "_versions", "data"


def recognise(place: Place) -> list[Layout]:
    """A folder that Lance wrote, with a column of embeddings."""
    if place.listing is None or not {_VERSIONS, _DATA} <= place.listing.folders:
        return []
    if "://" in place.path:
        raise InputError(f"{place.path}: Lance datasets are read from local folders only")
    dataset = _dataset(place.path)
    _fragments.cache_clear()  # another dataset may have been here
    if not embeddings_in(dataset.schema):
        return []
    has_keys = key_column_of(dataset.schema) is not None
    layout = Layout("lance", f"{_VERSIONS}/", [], sure=True)
    for name in _fragments(place.path, dataset.version):
        path = join_path(join_path(place.path, _DATA), name)
        if (file := place.volume.file(path)) is None:
            layout.problems.append(f"{path}: missing, version {dataset.version} lists it")
        else:
            layout.pieces.append(Piece(file, file if has_keys else None))
    return [layout]


def open_rows(piece: Piece, resting: Resting) -> RowSource:
    folder, dataset = _of(piece.file)
    name = choose(dataset.schema, piece.options.array)
    column = _Column.open(folder, dataset.version, piece.file, name)
    kind = dataset.schema.field(name).type
    dim = kind.list_size if pa.types.is_fixed_size_list(kind) else 0
    if not dim and column.rows:
        dim = len(column.read(0, 1)[0].as_py() or ())
    if not dim:
        raise InputError(f"nothing says how long the rows of {name!r} are")
    return LanceRows(column, dim, float_of(kind))


def open_keys(file: File, piece: Piece, resting: Resting) -> KeySource:
    folder, dataset = _of(file)
    name = key_column_of(dataset.schema)
    assert name is not None, "the dataset has keys"
    return LanceKeys(_Column.open(folder, dataset.version, file, name))


@dataclass(frozen=True)
class _Column:
    """One column of one fragment, as it was in one version."""

    folder: str
    version: int
    fragment: str  # by the name of its first file
    name: str
    rows: int
    files: tuple[tuple[str, File], ...]  # the data and what is deleted of it

    @classmethod
    def open(cls, folder: str, version: int, file: File, name: str) -> _Column:
        fragment = split_path(file.path)[1]
        with _reading("not a readable fragment"):
            found = _fragments(folder, version)[fragment]
            names = [join_path(_DATA, each.path) for each in found.data_files()]
            deleted = found.deletion_file()
            names += [] if deleted is None else [deleted]
            files = tuple((each, file_at(join_path(folder, each))) for each in names)
            return cls(folder, version, fragment, name, found.count_rows(), files)

    def read(self, start: int, stop: int) -> Any:
        """Rows [start, stop) as an Arrow array."""
        with _reading(f"{self.files[0][1].path}: the column {self.name} cannot be read"):
            fragment = _fragments(self.folder, self.version)[self.fragment]
            scanner = fragment.scanner(columns=[self.name], offset=start, limit=stop - start)
            found = scanner.to_table()[self.name].combine_chunks()
            found.validate(full=True)
        if len(found) != stop - start:
            raise InputError(f"{self.files[0][1].path}: ends before row {stop:,}")
        return found

    def digest(self) -> str:
        return f"{self.name}:{digest_of_group(self.files)}"

    def modified(self) -> str:
        return mark_of(file for _, file in self.files)


@dataclass(frozen=True)
class LanceRows:
    """A column of embeddings."""

    column: _Column
    dim: int
    dtype: np.dtype[Any]

    @property
    def rows(self) -> int:
        return self.column.rows

    def read(self, start: int, stop: int) -> NDArray[Any]:
        if start == stop:
            return np.zeros((0, self.dim), self.dtype)
        lists, path = self.column.read(start, stop), self.column.files[0][1].path
        return np.array(matrix_of(lists, self.dim, path, self.column.name, start), self.dtype)

    def digest(self) -> str:
        return self.column.digest()

    def modified(self) -> str:
        return self.column.modified()


@dataclass(frozen=True)
class LanceKeys:
    """A column of keys."""

    column: _Column

    @property
    def rows(self) -> int:
        return self.column.rows

    def read(self, start: int, stop: int) -> pa.Array:
        if start == stop:
            return pa.array([], pa.string())
        return ListedKeys.of(self.column.read(start, stop)).keys

    def digest(self) -> str:
        return self.column.digest()

    def modified(self) -> str:
        return self.column.modified()


def _of(file: File) -> tuple[str, Any]:
    """The folder of the dataset that a file of data is of, and its newest version."""
    folder = split_path(split_path(file.path)[0])[0]
    return folder, _dataset(folder)


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """As `decoding`; what Rust calls a panic is no `Exception`."""
    try:
        with decoding(what):
            yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise InputError(f"{what}: {error}") from error


def _dataset(folder: str, version: int | None = None) -> Any:
    try:
        import lance
    except ModuleNotFoundError:
        raise missing("lance") from None
    with _reading(f"{folder}: not a readable Lance dataset"):
        dataset = lance.dataset(folder, version=version)
        len(dataset.schema)  # made anew whenever it is asked for, so here it is seen to be readable
        return dataset


@lru_cache(maxsize=8)
def _fragments(folder: str, version: int) -> dict[str, Any]:
    """The fragments of a version in order, by the names of their first files."""
    with _reading(f"{folder}: version {version} cannot be read"):
        fragments = _dataset(folder, version).get_fragments()
        return {each.data_files()[0].path: each for each in fragments}
