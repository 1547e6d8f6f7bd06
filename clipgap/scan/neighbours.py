"""`test/NAME.parquet`: each test point with its nearest training rows and their keys.

Keys are the users' own and may be long: those of all neighbours together may pass the 2 GiB that
an Arrow array of strings can hold. So they are looked up, kept and written in pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipgap.files import parquet
from clipgap.kernels.admit import Status
from clipgap.kernels.interface import NO_ID, TopK
from clipgap.scan.inputs import LoadedTest
from clipgap.scan.lists import runs, take_strings
from clipgap.scan.plan import ScanPlan
from clipgap.scan.tables import TEST_SCHEMA

_KEY_THREADS = 8
_KEYS_AT_ONCE = 1 << 16
"""Keys that one look into a store asks for."""
_KEYS_IN_ONE = 1 << 27
"""Bytes of keys that lie twice in memory for a moment."""


@dataclass(frozen=True)
class Winners:
    """Every training row that is in some list, with its key."""

    ids: NDArray[np.int64]  # ascending
    keys: Sequence[Any]  # pyarrow strings, piece after piece; none if the store has no keys

    @classmethod
    def look_up(cls, plan: ScanPlan, lists: Sequence[TopK]) -> Winners:
        """Go through the key columns once, for all test sets together."""
        ids = np.sort(np.concatenate([held.id[held.id != NO_ID] for held in lists]))
        ids = ids[np.diff(ids, prepend=NO_ID) > 0]  # several times as fast as np.unique
        if not plan.train.has_keys:
            return cls(ids, ())
        shards, rows = _places(plan, ids)
        cuts = [cut for start, stop in runs(shards) for cut in range(start, stop, _KEYS_AT_ONCE)]
        with ThreadPoolExecutor(_KEY_THREADS) as pool:
            found = pool.map(plan.train.take_keys, shards[cuts].tolist(), np.split(rows, cuts[1:]))
            return cls(ids, _joined(list(found)) if cuts else ())

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        """How many bytes each winner's key has."""
        sizes = [pc.fill_null(pc.binary_length(piece), 0).to_numpy() for piece in self.keys]
        return np.concatenate([np.zeros(0, np.int64), *sizes])

    def places(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where training rows stand among the winners."""
        places = np.empty(len(ids), np.int64)
        order = np.argsort(ids)  # those that are near each other are found in the cache
        places[order] = np.searchsorted(self.ids, ids[order])
        return places

    def size_at(self, places: NDArray[np.int64]) -> int:
        """The bytes of the keys there; one counts as often as it is named."""
        return int(self._sizes[places].sum()) if self.keys else 0

    def keys_at(self, places: NDArray[np.int64]) -> Any:
        """The keys there, which together must fit into one array."""
        return take_strings(self.keys, places) if self.keys else pa.nulls(len(places), pa.string())


def _joined(pieces: list[Any]) -> Sequence[Any]:
    """As one array, of which strings are taken without sorting, unless it would be a large one."""
    large = sum(piece.nbytes for piece in pieces) > _KEYS_IN_ONE
    return pieces if large else [pa.concat_arrays(pieces)]


def test_tables(plan: ScanPlan, test: LoadedTest, topk: TopK, winners: Winners) -> Iterator[Any]:
    """The table of one test set, row group by row group."""
    usable = test.status <= Status.NORMALISED
    column_of = np.cumsum(usable) - 1
    gap, keys = _gap_column(plan, test, topk, usable), test.keys()
    waiting = [
        (start, min(start + parquet.ROW_GROUP, len(usable)))
        for start in reversed(range(0, len(usable), parquet.ROW_GROUP))
    ]
    while waiting:
        start, stop = waiting.pop()
        listed = column_of[start:stop][usable[start:stop]]
        held = topk.id[listed]
        filled = held != NO_ID
        ids = held[filled]
        places = winners.places(ids)
        if winners.size_at(places) > parquet.GROUP_BYTES and stop - start > 1:
            middle = (start + stop) // 2
            waiting += [(middle, stop), (start, middle)]
            continue
        shards, rows = _places(plan, ids)
        lengths = np.zeros(stop - start, np.int32)
        lengths[usable[start:stop]] = filled.sum(axis=1)
        ends = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
        values = [
            pa.array(topk.sim[listed][filled] + 0.0),
            pa.array(shards.astype(np.int32)),
            pa.array(rows),
            winners.keys_at(places),
        ]
        yield pa.Table.from_arrays(
            [
                pa.array(np.arange(start, stop, dtype=np.int64)),
                pa.nulls(stop - start, pa.string()) if keys is None else keys[start:stop],
                gap[start:stop],
                *(pa.ListArray.from_arrays(ends, column) for column in values),
            ],
            schema=TEST_SCHEMA,
        )


def _places(plan: ScanPlan, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Shard and row of training ids."""
    shards = np.searchsorted(plan.offsets, ids, side="right") - 1
    return shards, ids - plan.offsets[shards]


def _gap_column(plan: ScanPlan, test: LoadedTest, topk: TopK, usable: NDArray[np.bool_]) -> Any:
    """The thresholds that were used or, in the scan of a reference, those that it found."""
    gap: NDArray[np.float64] | None = test.gap
    if plan.kind == "gap":
        gap = topk.sim[:, 0] + 0.0
    if gap is None:
        return pa.nulls(len(usable), pa.float64())
    values = np.zeros(len(usable))
    values[usable] = gap
    return pa.array(values, mask=~usable)
