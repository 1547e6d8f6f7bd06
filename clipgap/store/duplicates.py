"""Keys that occur more than once, found in bounded memory.

The keys are spread over buckets by their hash, so equal keys meet in one bucket, and each bucket
is small enough to be grouped exactly in memory. A big store spills its buckets to temporary files
(about 30 bytes a row, in TMPDIR); the hash only decides the bucket, never whether keys are equal.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clipgap.errors import InputError

_BUCKET_ROWS = 4 << 20
_MOST_BUCKETS = 256
_BUFFER_ROWS = 1 << 20
_SCHEMA = pa.schema([("key", pa.string()), ("shard", pa.int32()), ("row", pa.int64())])


@dataclass(frozen=True)
class DuplicateKey:
    """A key that occurs more than once."""

    key: str
    places: tuple[tuple[int, int], ...]  # the first few (shard, row)
    count: int


@dataclass(frozen=True)
class Duplicates:
    """How often keys repeat; both rows are always kept and told apart by (shard, key) or row."""

    within_shards: int  # rows whose key an earlier row of the same shard has
    across_shards: int  # keys that more than one shard has
    missing: int  # rows without a key
    first: tuple[DuplicateKey, ...]  # those whose first row comes first


class KeyCounter(AbstractContextManager["KeyCounter"]):
    """Takes the keys of a store block by block, then says which occur more than once."""

    def __init__(self, rows: int, *, shown: int = 10, bucket_rows: int = _BUCKET_ROWS) -> None:
        self._shown = shown
        self._buckets = min(_MOST_BUCKETS, -(-rows // bucket_rows)) or 1
        self._folder = tempfile.TemporaryDirectory(prefix="clipgap-keys-")
        self._writers: list[pa.RecordBatchStreamWriter] = []
        self._buffer: list[pa.RecordBatch] = []
        self._buffered = 0
        self._missing = 0

    def add(self, shard: int, start: int, keys: pa.Array) -> None:
        """Take the keys of rows `start`, `start` + 1, … of a shard."""
        count = len(keys)
        rows = pa.array(np.arange(start, start + count, dtype=np.int64))
        shards = pa.array(np.full(count, shard, np.int32))
        batch = pa.record_batch([keys, shards, rows], schema=_SCHEMA)
        if keys.null_count:
            self._missing += keys.null_count
            batch = batch.filter(keys.is_valid())
        self._buffer.append(batch)
        self._buffered += count
        if self._buckets > 1 and self._buffered >= _BUFFER_ROWS:
            try:
                self._spill()
            except OSError as error:
                raise InputError(
                    f"{self._folder.name}: no room to sort the keys: {error}. "
                    "About 30 bytes a row are needed there; TMPDIR names another folder."
                ) from error

    def result(self) -> Duplicates:
        """Count what repeats; the counter takes no more keys afterwards."""
        within = across = 0
        first: list[DuplicateKey] = []
        for bucket in self._read_buckets():
            counted = _count(bucket, self._shown)
            within += counted.within_shards
            across += counted.across_shards
            first = sorted([*first, *counted.first], key=lambda d: d.places[0])[: self._shown]
        return Duplicates(within, across, self._missing, tuple(first))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for writer in self._writers:
            writer.close()
        self._folder.cleanup()

    def _file(self, bucket: int) -> Path:
        return Path(self._folder.name) / f"{bucket:03d}.arrow"

    def _spill(self) -> None:
        if not self._writers:
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            self._writers = [
                pa.ipc.new_stream(str(self._file(bucket)), _SCHEMA, options=options)
                for bucket in range(self._buckets)
            ]
        table = pa.Table.from_batches(self._buffer, _SCHEMA).combine_chunks()
        self._buffer, self._buffered = [], 0
        hashes = np.fromiter(map(hash, table["key"].to_pylist()), np.int64, len(table))
        bucket_of = hashes.view(np.uint64) % np.uint64(self._buckets)
        order = np.argsort(bucket_of, kind="stable")
        ends = np.searchsorted(bucket_of[order], np.arange(self._buckets), side="right")
        start = 0
        for writer, end in zip(self._writers, ends.tolist(), strict=True):
            if end > start:
                writer.write_table(table.take(pa.array(order[start:end])))
            start = end

    def _read_buckets(self) -> Iterator[pa.Table]:
        if not self._writers:
            yield pa.Table.from_batches(self._buffer, _SCHEMA)
            return
        self._spill()
        for writer in self._writers:
            writer.close()
        for bucket in range(self._buckets):
            with pa.ipc.open_stream(str(self._file(bucket))) as stream:
                yield stream.read_all()


def _count(bucket: pa.Table, shown: int) -> Duplicates:
    """Group one bucket exactly; it holds every row of each of its keys."""
    per_shard = bucket.group_by(["key", "shard"]).aggregate([([], "count_all")])
    within = len(bucket) - len(per_shard)
    shards_of = per_shard.group_by("key").aggregate([([], "count_all")])
    across = pc.sum(pc.greater(shards_of["count_all"], 1)).as_py() or 0
    if not within and not across:
        return Duplicates(0, 0, 0, ())
    keys = bucket.group_by("key", use_threads=False).aggregate(
        [([], "count_all"), ("shard", "first"), ("row", "first")]
    )
    repeated = keys.filter(pc.greater(keys["count_all"], 1))
    earliest = repeated.sort_by([("shard_first", "ascending"), ("row_first", "ascending")])
    first = tuple(
        _describe(bucket, key, shown) for key in earliest["key"].slice(0, shown).to_pylist()
    )
    return Duplicates(within, across, 0, first)


def _describe(bucket: pa.Table, key: str, shown: int) -> DuplicateKey:
    places = bucket.filter(pc.equal(bucket["key"], key))
    listed = places.slice(0, shown)
    return DuplicateKey(
        key,
        tuple(zip(listed["shard"].to_pylist(), listed["row"].to_pylist(), strict=True)),
        len(places),
    )
