"""Where the keys of a shard come from: a parquet column, fixed-width strings, or memory."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipgap.errors import InputError
from clipgap.files.identity import digest_of
from clipgap.files.volumes import File, RangeReader, read_bytes
from clipgap.store.resting import Resting

KEY_WIDTH = 24
"""Bytes of one entry in a SemDeDup paths memmap (`S24`)."""

_BATCH = 65_536


class KeySource(Protocol):
    """The keys of one shard, a string each."""

    @property
    def rows(self) -> int: ...
    def read(self, start: int, stop: int) -> pa.Array:
        """Keys [start, stop) as an Arrow array of type string."""
        ...

    def digest(self) -> str: ...
    def modified(self) -> str: ...


@dataclass(frozen=True)
class ParquetKeys:
    """One column of a parquet file, decoded a batch at a time."""

    file: File
    column: str
    group_starts: tuple[int, ...]  # first row of each row group, then the number of rows
    resting: Resting[ParquetCursor]

    @property
    def rows(self) -> int:
        return self.group_starts[-1]

    def read(self, start: int, stop: int) -> pa.Array:
        cursor = self.resting.take(self.file.path)
        if cursor is None or cursor.position > start:
            cursor = ParquetCursor(self)
        try:
            keys = cursor.read(start, stop)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{self.file.path}: the column {self.column} cannot be read "
                f"near row {start:,}: {error}"
            ) from error
        self.resting.keep(self.file.path, cursor)
        return keys

    def digest(self) -> str:
        return f"{self.column}:{digest_of(self.file)}"

    def modified(self) -> str:
        return self.file.modified


class ParquetCursor:
    """Reads one key column forwards, holding a single decoded batch."""

    def __init__(self, keys: ParquetKeys) -> None:
        self._keys = keys
        self._parquet = pq.ParquetFile(RangeReader(keys.file))
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._group = -1
        self._batch = pa.array([], pa.string())
        self.position = 0
        """First row of the batch at hand; earlier ones are out of reach."""

    def read(self, start: int, stop: int) -> pa.Array:
        pieces = []
        while start < stop:
            self._advance_to(start)
            piece = self._batch.slice(start - self.position, stop - start)
            pieces.append(piece)
            start += len(piece)
        return pa.concat_arrays(pieces) if pieces else pa.array([], pa.string())

    def _advance_to(self, row: int) -> None:
        group = bisect_right(self._keys.group_starts, row) - 1
        if group > self._group:
            self._group = group
            self._batches = self._parquet.iter_batches(
                _BATCH, row_groups=[group], columns=[self._keys.column], use_threads=False
            )
            self.position = self._keys.group_starts[group]
            self._batch = self._batch.slice(0, 0)
        while row >= self.position + len(self._batch):
            self.position += len(self._batch)
            batch = next(self._batches, None)
            if batch is None:
                raise InputError(
                    f"{self._keys.file.path}: row group {group} ends before row {row:,}, "
                    "which its index promises"
                )
            self._batch = batch.column(0).cast(pa.string())
            self._batch.validate(full=True)


@dataclass(frozen=True)
class FixedKeys:
    """Strings of 24 bytes, padded with NUL, one after another."""

    file: File
    rows: int

    def read(self, start: int, stop: int) -> pa.Array:
        raw = read_bytes(self.file, start * KEY_WIDTH, (stop - start) * KEY_WIDTH)
        names = np.frombuffer(raw, f"S{KEY_WIDTH}")
        try:
            return pa.array([name.decode() for name in names.tolist()], pa.string())
        except UnicodeDecodeError as error:
            raise InputError(
                f"{self.file.path}: a path between rows {start:,} and {stop:,} is not UTF-8: "
                f"{error}"
            ) from error

    def digest(self) -> str:
        return digest_of(self.file)

    def modified(self) -> str:
        return self.file.modified


@dataclass(frozen=True, eq=False)
class ListedKeys:
    """Keys in memory."""

    keys: pa.Array

    @classmethod
    def of(cls, keys: Sequence[str] | pa.Array) -> ListedKeys:
        try:
            array = keys if isinstance(keys, pa.Array) else pa.array(keys, pa.string())
            return cls(_require_strings(array.type, "keys") and array.cast(pa.string()))
        except (pa.ArrowException, TypeError) as error:
            raise InputError(f"keys must be strings: {error}") from error

    @property
    def rows(self) -> int:
        return len(self.keys)

    def read(self, start: int, stop: int) -> pa.Array:
        return self.keys.slice(start, stop - start)

    def digest(self) -> str:
        return hashlib.sha256("\0".join(map(str, self.keys.to_pylist())).encode()).hexdigest()

    def modified(self) -> str:
        return ""


def open_parquet_keys(file: File, column: str, resting: Resting[ParquetCursor]) -> ParquetKeys:
    """The key column of a parquet file, after a look at its footer only."""
    try:
        parquet = pq.ParquetFile(RangeReader(file))
        schema = parquet.schema_arrow
        groups = [
            parquet.metadata.row_group(index).num_rows for index in range(parquet.num_row_groups)
        ]
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"not a readable parquet file: {error}") from error
    if column not in schema.names:
        raise InputError(
            f"has no column {column!r} for the keys; it has {', '.join(schema.names[:12])}"
        )
    if schema.names.count(column) > 1:
        raise InputError(f"has the column {column!r} more than once")
    _require_strings(schema.field(column).type, f"the column {column!r}")
    starts = [0]
    for rows in groups:
        starts.append(starts[-1] + rows)
    return ParquetKeys(file, column, tuple(starts), resting)


def open_fixed_keys(file: File) -> FixedKeys:
    """A SemDeDup paths memmap."""
    if file.size % KEY_WIDTH:
        raise InputError(
            f"{file.size:,} bytes are not a whole number of {KEY_WIDTH}-byte paths (S{KEY_WIDTH}): "
            f"{file.size % KEY_WIDTH} bytes are left over"
        )
    return FixedKeys(file, file.size // KEY_WIDTH)


def _require_strings(kind: pa.DataType, what: str) -> bool:
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_string(values) or pa.types.is_large_string(values):
        return True
    hint = (
        "; numbers lose the leading zeros of keys such as 000012345"
        if pa.types.is_integer(values)
        else ""
    )
    raise InputError(f"{what} must be strings, not {kind}{hint}")
