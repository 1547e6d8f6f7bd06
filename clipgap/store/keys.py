"""Where the keys of a shard come from: a parquet column, texts of one width, or memory."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipgap.errors import InputError
from clipgap.files.identity import digest_of
from clipgap.files.parquet import chunks_of
from clipgap.files.volumes import File, RangeReader, read_bytes
from clipgap.store.rows import FileProof, Resting

KEY_NAMES = ("key", "uid", "image_path", "__key__", "image_id")
"""What the column of keys is called in tables of others, the likeliest first."""

_BATCH = 65_536
_LONGEST = 16 << 10
"""Bytes of a key. A batch of such keys is a GiB, half of what an Arrow array of strings holds."""


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
    resting: Resting
    proof: FileProof | None = None

    @property
    def rows(self) -> int:
        return self.group_starts[-1]

    def read(self, start: int, stop: int) -> pa.Array:
        if self.proof is not None:
            self.proof.check()
        with decoding(
            f"{self.file.path}: the column {self.column} cannot be read near row {start:,}"
        ):
            cursor = self.resting.take(self.file.path)
            if cursor is None or cursor.position > start:
                cursor = ParquetCursor(self)
            keys = cursor.read(start, stop)
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
            self._open(group)
        while row >= self.position + len(self._batch):
            self.position += len(self._batch)
            batch = next(self._batches, None)
            if batch is None:
                raise InputError(
                    f"{self._keys.file.path}: row group {group} ends before row {row:,}, "
                    "which its index promises"
                )
            self._batch = batch.column(0).cast(pa.string())
            if (long := _first_long(self._batch)) is not None:
                raise self._too_long(f"the key of row {self.position + long:,}")
            self._batch.validate(full=True)

    def _open(self, group: int) -> None:
        """Go to the start of a row group, once its keys are known not to burst the memory."""
        start, stop = self._keys.group_starts[group : group + 2]
        wanted: dict[str, Any] = {"row_groups": [group], "columns": [self._keys.column]}
        size, has_dictionary = _size_of(self._parquet.metadata, group, self._keys.column)
        rows = f"a key of rows {start:,} to {stop - 1:,}"
        if size > (stop - start) * _LONGEST:
            raise self._too_long(rows)
        if has_dictionary and size > _LONGEST:
            # A long key that is repeated takes its room once in the file, in memory each time.
            folded = pq.ParquetFile(
                RangeReader(self._keys.file), read_dictionary=[self._keys.column]
            )

            def first(rows: int) -> Any:
                return next(folded.iter_batches(rows, use_threads=False, **wanted)).column(0)

            long = pc.greater(pc.binary_length(first(1).dictionary), _LONGEST)
            if pc.any(long).as_py():
                row = pc.index(long.take(first(_BATCH).indices), True).as_py()
                raise self._too_long(rows if row < 0 else f"the key of row {start + row:,}")
        self._group = group
        self._batches = self._parquet.iter_batches(_BATCH, use_threads=False, **wanted)
        self.position = start
        self._batch = self._batch.slice(0, 0)

    def _too_long(self, which: str) -> InputError:
        return InputError(
            f"{self._keys.file.path}: {which} is longer than {_LONGEST:,} bytes, the most that a "
            f"key may have. Is {self._keys.column!r} the column of the keys?"
        )


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


@dataclass(frozen=True)
class FixedKeys:
    """Texts of one width, padded with NUL, one after another: bytes (`S`) or UTF-32 (`U`)."""

    file: File
    offset: int  # of the first, in bytes
    rows: int
    dtype: np.dtype[Any]

    def read(self, start: int, stop: int) -> pa.Array:
        width = self.dtype.itemsize
        raw = read_bytes(self.file, self.offset + start * width, (stop - start) * width)
        try:
            texts = np.frombuffer(raw, self.dtype).tolist()
            if self.dtype.kind == "S":
                texts = [text.decode() for text in texts]
            return pa.array(texts, pa.string())
        except (ValueError, SystemError) as error:  # the latter of numbers that are no letter
            raise InputError(
                f"{self.file.path}: a path between rows {start:,} and {stop:,} is not UTF-8: "
                f"{error}"
            ) from error

    def digest(self) -> str:
        return digest_of(self.file)

    def modified(self) -> str:
        return self.file.modified


def open_parquet_keys(file: File, column: str, resting: Resting) -> ParquetKeys:
    """The key column of a parquet file, after a look at its footer only."""
    with decoding("not a readable parquet file"):
        parquet = pq.ParquetFile(RangeReader(file))
        schema = parquet.schema_arrow
        groups = [
            parquet.metadata.row_group(index).num_rows for index in range(parquet.num_row_groups)
        ]
    if column not in schema.names:
        raise InputError(
            f"has no column {column!r} for the keys; it has {', '.join(schema.names[:12])}"
        )
    if schema.names.count(column) > 1:
        raise InputError(f"has the column {column!r} more than once")
    kind = schema.field(column).type
    if any(groups) or not pa.types.is_null(kind):  # as pandas writes a column without values
        _require_strings(kind, f"the column {column!r}")
    starts = [0]
    for rows in groups:
        starts.append(starts[-1] + rows)
    return ParquetKeys(file, column, tuple(starts), resting)


def called_otherwise(key: str | None, theirs: pa.Array) -> str:
    """How a table's keys would fit a store with this key, if they only lie in another folder.

    clip-retrieval and clip-ood call an image by its whole path, most tables by its path in a
    folder of images. Tables of labels are not guessed about: a label may miss, or be another's.
    """
    parts = [] if key is None else key.split("/")
    for at in range(len(parts)):
        end = "/".join(parts[at:])
        same = pc.or_(pc.equal(theirs, end), pc.ends_with(theirs, f"/{end}"))
        if (found := pc.index(same, True).as_py()) >= 0:
            if (match := theirs[found].as_py()) == key:
                break
            ours, other = "/".join([*parts[:at], ""]), match.removesuffix(end)
            put = f"put {ours!r} before them" if ours else f"take {other!r} off them"
            instead = f" in place of {other!r}" if ours and other else ""
            return f" (keys are compared as text; if {match!r} is {key!r}, {put}{instead})"
    return ""


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


def _size_of(metadata: Any, group: int, column: str) -> tuple[int, bool]:
    """Bytes that a column takes in a row group unpacked, and whether it has a dictionary."""
    for chunk in chunks_of(metadata, group):
        if chunk.path_in_schema == column:
            return chunk.total_uncompressed_size, any("DICT" in e for e in chunk.encodings)
    return 0, False


def _first_long(keys: Any) -> int | None:
    """Where the first key that is too long stands."""
    lengths = pc.binary_length(keys)
    if (pc.max(lengths).as_py() or 0) <= _LONGEST:
        return None
    return int(pc.index(pc.greater(lengths, _LONGEST), True).as_py())


@contextmanager
def decoding(what: str) -> Iterator[None]:
    """Whatever a library makes of a damaged file is the file's fault."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # ArrowException, OSError, UnicodeDecodeError, ValueError, …
        raise InputError(f"{what}: {error or type(error).__name__}") from error
