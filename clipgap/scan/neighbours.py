"""`test/NAME.parquet`: each test point with its nearest training rows and their keys."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.kernels.admit import Status
from clipgap.kernels.interface import NO_ID, TopK
from clipgap.scan.inputs import LoadedTest
from clipgap.scan.plan import ScanPlan
from clipgap.scan.tables import TEST_SCHEMA

_KEY_THREADS = 8


@dataclass(frozen=True)
class Winners:
    """Every training row that is in some list, with its key."""

    ids: NDArray[np.int64]  # ascending
    keys: Any  # pyarrow strings

    @classmethod
    def look_up(cls, plan: ScanPlan, lists: Sequence[TopK]) -> Winners:
        """Go through the key columns once, for all test sets together."""
        ids = np.unique(np.concatenate([held.id[held.id != NO_ID] for held in lists]))
        if not plan.train.has_keys:
            return cls(ids, pa.nulls(len(ids), pa.string()))
        shards, rows = _places(plan, ids)
        numbers, starts = np.unique(shards, return_index=True)
        with ThreadPoolExecutor(_KEY_THREADS) as pool:
            found = pool.map(plan.train.take_keys, numbers.tolist(), np.split(rows, starts[1:]))
            return cls(ids, pa.concat_arrays([pa.array([], pa.string()), *found]))

    def keys_of(self, ids: NDArray[np.int64]) -> Any:
        return self.keys.take(pa.array(np.searchsorted(self.ids, ids)))


def test_table(plan: ScanPlan, test: LoadedTest, topk: TopK, winners: Winners) -> Any:
    """The table of one test set."""
    filled = topk.id != NO_ID
    ids = topk.id[filled]
    shards, rows = _places(plan, ids)
    usable = test.status <= Status.NORMALISED
    lengths = np.zeros(len(usable), np.int64)
    lengths[usable] = filled.sum(axis=1)
    ends = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))

    def lists(values: Any) -> Any:
        return pa.ListArray.from_arrays(ends, values)

    keys = test.keys()
    return pa.Table.from_arrays(
        [
            pa.array(np.arange(len(usable), dtype=np.int64)),
            pa.nulls(len(usable), pa.string()) if keys is None else keys,
            _gap_column(plan, test, topk, usable),
            lists(pa.array(topk.sim[filled] + 0.0)),
            lists(pa.array(shards.astype(np.int32))),
            lists(pa.array(rows)),
            lists(winners.keys_of(ids)),
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
