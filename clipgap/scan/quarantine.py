"""The list of rows that no score was computed for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.kernels.admit import Status
from clipgap.scan.inputs import Block, LoadedTest
from clipgap.scan.sinks import Sink
from clipgap.scan.tables import QUARANTINE_SCHEMA, TRAIN

REASONS = {Status.ZERO: "all zero", Status.NOT_FINITE: "NaN or infinity"}


def of_block(block: Block) -> Any:
    """The bad rows of a training block."""
    return _table(TRAIN, block.shard, block.start, block.status, block.keys)


def gathered(sink: Sink, shards: Iterable[int], tests: Sequence[LoadedTest]) -> Iterator[Any]:
    """All bad rows: the training store's, shard by shard, then each test set's."""
    for shard in shards:
        yield from sink.gathered_bad_rows(shard)
    yield from of_tests(tests)


def of_tests(tests: Sequence[LoadedTest]) -> Iterator[Any]:
    """The bad rows of the test sets, told apart by shard and row of their store."""
    for test in tests:
        for shard in test.store.shards:
            first = test.first_rows[shard.index]
            status = test.status[first : first + shard.rows]
            if (status > Status.NORMALISED).any():
                has_keys = test.store.has_keys
                keys = test.store.keys(shard.index, 0, shard.rows) if has_keys else None
                yield _table(test.name, shard.index, 0, status, keys)


def _table(name: str, shard: int, start: int, status: NDArray[np.uint8], keys: Any | None) -> Any:
    bad = np.flatnonzero(status > Status.NORMALISED)
    arrays = [
        pa.array([name] * len(bad), pa.string()),
        pa.array(np.full(len(bad), shard, np.int32)),
        pa.array(start + bad),
        pa.nulls(len(bad), pa.string()) if keys is None else keys.take(pa.array(bad)),
        pa.array([REASONS[Status(code)] for code in status[bad]], pa.string()),
    ]
    return pa.Table.from_arrays(arrays, schema=QUARANTINE_SCHEMA)
