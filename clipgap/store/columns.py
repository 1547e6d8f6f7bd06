"""Tables with a column of embeddings: parquet as on the Hugging Face hub, folders of `datasets`.

NAME.parquet                a column of lists of floats; one of `KEYS`, if it is there, has keys
data-*.arrow, state.json    the same as `datasets` saves it to disk

Of several columns of embeddings `PATH?array=NAME` chooses one.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipgap.errors import InputError
from clipgap.files.identity import digest_of
from clipgap.files.naming import join_path, suffix_of
from clipgap.files.volumes import File, RangeReader, read_bytes
from clipgap.memory import blank
from clipgap.store.keys import KEY_NAMES, KeySource, ListedKeys, decoding, open_parquet_keys
from clipgap.store.layout import Layout, Piece, Place
from clipgap.store.rows import Resting, RowSource

KNOWN = "NAME.parquet with a column of embeddings"
KEYS = (*KEY_NAMES, "id")
"""Columns of keys, the first that is there counts."""

_STATE, _SPLITS = "state.json", "dataset_dict.json"
_BATCH = 4_096


def recognise(place: Place) -> list[Layout]:
    """Parquet files without arrays beside them, or what `datasets` saved, with such a column."""
    files = tables_at(place)
    has_arrays = place.with_suffix(".npy") or place.with_suffix(".npz")
    if not files or (has_arrays and not _is_saved(place)):
        return []
    try:
        schema = schema_of(files[0])
    except InputError:
        return []  # whatever it is, others have more to say of it
    if not embeddings_in(schema):
        return []
    has_keys = key_column_of(schema) is not None
    kind = suffix_of(files[0].path)
    pieces = [Piece(file, file if has_keys else None) for file in files]
    return [Layout(kind[1:], f"*{kind}", pieces)]


def open_rows(piece: Piece, resting: Resting) -> RowSource:
    schema = schema_of(piece.file)
    column = choose(schema, piece.options.array)
    kind = schema.field(column).type
    groups = groups_of(piece.file)
    dim = kind.list_size if pa.types.is_fixed_size_list(kind) else 0
    rows = ColumnRows(piece.file, column, groups, dim, float_of(kind), resting)
    if not dim:
        if not rows.rows:
            raise InputError(f"holds no rows, so nothing says how long those of {column!r} are")
        with decoding(f"the column {column!r} cannot be read near row 0"):
            first = next(batch for batch in batches(piece.file, [column]) if batch.num_rows)
            dim = len(first.column(0)[0].as_py() or ())
        rows = ColumnRows(piece.file, column, groups, dim, rows.dtype, resting)
    if not dim:
        raise InputError(f"row 0 of the column {column!r} has length 0")
    return rows


def open_keys(file: File, piece: Piece, resting: Resting) -> KeySource:
    column = key_column_of(schema_of(file))
    if column is None:
        raise InputError(f"has no column of keys ({', '.join(KEYS)}), but other files here have")
    if suffix_of(file.path) == ".parquet":
        return open_parquet_keys(file, column, resting)
    with decoding("not a readable Arrow file"):
        keys = _table(file)[column]
        keys.validate(full=True)
        return ListedKeys.of(keys.combine_chunks())


@dataclass(frozen=True)
class ColumnRows:
    """One column of lists, decoded a batch at a time."""

    file: File
    column: str
    groups: tuple[int, ...]  # first row of each row group, then the number of rows
    dim: int
    dtype: np.dtype[Any]
    resting: Resting

    @property
    def rows(self) -> int:
        return self.groups[-1]

    def read(self, start: int, stop: int) -> NDArray[Any]:
        block = blank((stop - start, self.dim), self.dtype)
        resting_place = f"{self.file.path}?{self.column}"  # keys of the same file rest elsewhere
        with decoding(f"{self.file.path}: the column {self.column} is damaged near row {start:,}"):
            cursor = self.resting.take(resting_place)
            if cursor is None or cursor.start > start:
                cursor = _Cursor(self, start)
            at = start
            while at < stop:
                values, first = cursor.values_at(at)
                part = values[at - first : stop - first]
                block[at - start : at - start + len(part)] = part
                at += len(part)
        self.resting.keep(resting_place, cursor)
        return block

    def digest(self) -> str:
        return f"{self.column}:{digest_of(self.file)}"

    def modified(self) -> str:
        return self.file.modified


class _Cursor:
    """Reads the column forwards, holding a single batch; it starts at a row group."""

    def __init__(self, source: ColumnRows, row: int) -> None:
        self._source = source
        group = max(0, bisect_right(source.groups, row) - 1)
        self.start = source.groups[group]
        self._batches = batches(source.file, [source.column], group)
        self._values = np.zeros((0, source.dim), source.dtype)

    def values_at(self, row: int) -> tuple[NDArray[Any], int]:
        """The batch that has a row, and its first row."""
        while row >= self.start + len(self._values):
            self.start += len(self._values)
            batch = next(self._batches, None)
            path, column, dim = self._source.file.path, self._source.column, self._source.dim
            if batch is None:
                raise InputError(f"{path}: ends before row {row:,}")
            self._values = matrix_of(batch.column(0), dim, path, column, self.start)
        return self._values, self.start


def matrix_of(lists: Any, dim: int, path: str, column: str, start: int) -> NDArray[Any]:
    """Lists as rows of so many numbers; the first of them is row `start` of the column."""
    lengths = pc.fill_null(pc.list_value_length(lists), -1).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(lengths != dim)
    values = lists.flatten()
    if len(wrong) or values.null_count:
        row = start + (int(wrong[0]) if len(wrong) else 0)
        raise InputError(
            f"{path}: row {row:,} of {column!r} or one after it is no list of {dim:,} numbers"
        )
    matrix: NDArray[Any] = values.to_numpy(zero_copy_only=False).reshape(-1, dim)
    return matrix


def rows_and_keys(table: Any, name: str, asked: str | None) -> tuple[NDArray[Any], Any]:
    """Those of a table in memory; None for keys that it does not have."""
    columns = [asked] if asked else embeddings_in(table.schema)
    if len(columns) != 1:
        raise InputError(
            f"{name}: has {len(columns)} columns of lists of floats: {', '.join(columns) or 'none'}"
            "; give a table with one"
        )
    column = choose(table.schema, columns[0])
    dtype = float_of(table.schema.field(column).type)
    parts: list[NDArray[Any]] = []
    start = 0
    for lists in table[column].chunks:
        if len(lists):
            dim = parts[0].shape[1] if parts else len(lists[0].as_py() or ())
            parts.append(matrix_of(lists, dim, name, column, start))
            start += len(lists)
    keys = key_column_of(table.schema)
    rows = np.concatenate(parts) if parts else np.zeros((0, 0), dtype)
    return rows, None if keys is None else table[keys].combine_chunks()


def tables_at(place: Place) -> list[File]:
    """The tables of a place, in their order."""
    if place.listing is not None and _SPLITS in place.listing.files:
        inner = ", ".join(join_path(place.path, name) for name in sorted(place.listing.folders))
        raise InputError(f"{place.path}: holds several sets; name one of {inner}")
    if _is_saved(place):
        return _saved(place)
    return place.with_suffix(".parquet") or place.with_suffix(".arrow")


def _is_saved(place: Place) -> bool:
    return place.listing is not None and _STATE in place.listing.files


def _saved(place: Place) -> list[File]:
    """The files of a folder that `datasets` saved, in their order."""
    assert place.listing is not None
    state = place.listing.files[_STATE]
    try:
        named = json.loads(read_bytes(state, 0, min(state.size, 1 << 24)))["_data_files"]
        names = [str(each["filename"]) for each in named]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
    missing = [name for name in names if name not in place.listing.files]
    place.problems.extend(f"{place.path}/{name}: missing, {_STATE} lists it" for name in missing)
    return [place.listing.files[name] for name in names if name not in missing]


def embeddings_in(schema: Any) -> list[str]:
    """The columns of lists of floats."""
    return [field.name for field in schema if float_of(field.type) is not None]


def float_of(kind: Any) -> Any:
    """The type of the numbers in lists of floats; None of any other column."""
    is_list = (
        pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    )
    if not is_list or not pa.types.is_floating(kind.value_type):
        return None
    return np.dtype(kind.value_type.to_pandas_dtype())


def key_column_of(schema: Any) -> str | None:
    """The column that has the keys, if there is one."""
    strings = {
        f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)
    }
    return next((name for name in KEYS if name in strings), None)


def choose(schema: Any, asked: str | None) -> str:
    """The column of embeddings that is meant."""
    columns = embeddings_in(schema)
    if asked is not None and asked not in columns:
        raise InputError(
            f"has no column of embeddings {asked!r}; it has {', '.join(columns) or 'none'}"
        )
    if asked is None and len(columns) != 1:
        raise InputError(
            f"has {len(columns)} columns of embeddings: {', '.join(columns) or 'none'}. Choose "
            f"one: PATH?array={columns[0] if columns else 'NAME'}"
        )
    return asked or columns[0]


def schema_of(file: File) -> Any:
    """The columns of a table, by its header or footer."""
    with decoding("not a readable table"):
        if suffix_of(file.path) == ".parquet":
            schema = pq.ParquetFile(RangeReader(file)).schema_arrow
        else:
            schema = _table(file).schema
        _ = schema.names  # those that are no text fail here
        return schema


def groups_of(file: File) -> tuple[int, ...]:
    """The first row of each row group, and the number of rows."""
    with decoding("not a readable table"):
        if suffix_of(file.path) != ".parquet":
            return 0, _table(file).num_rows
        metadata = pq.ParquetFile(RangeReader(file)).metadata
        starts = [0]
        for group in range(metadata.num_row_groups):
            starts.append(starts[-1] + metadata.row_group(group).num_rows)
        return tuple(starts)


def batches(file: File, columns: list[str], group: int = 0, rows: int = _BATCH) -> Iterator[Any]:
    """Batches of some columns, so many rows each, from a row group on."""
    if suffix_of(file.path) != ".parquet":
        return map(_validated, _table(file).select(columns).to_batches(rows))
    parquet = pq.ParquetFile(RangeReader(file))
    groups = list(range(group, parquet.num_row_groups))
    made: Iterator[Any] = parquet.iter_batches(
        rows, row_groups=groups, columns=columns, use_threads=False
    )
    return made


def _validated(batch: Any) -> Any:
    """Whose bytes lie as they do in the file: nothing has looked at its offsets and counts yet."""
    batch.validate(full=True)
    return batch


def _table(file: File) -> Any:
    """A file of record batches, mapped and not read: `datasets` writes the streaming form."""
    if "://" in file.path:
        raise InputError(f"{file.path}: Arrow files are read from local folders only")
    with pa.memory_map(file.path) as mapped:
        return pa.ipc.open_stream(mapped).read_all()
