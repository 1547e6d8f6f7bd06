"""`test/NAME.parquet`: each test point with its nearest training rows and their keys."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.kernels.admit import Status
from clipgap.kernels.interface import NO_ID, TopK
from clipgap.scan.inputs import LoadedTest
from clipgap.scan.plan import ScanPlan
from clipgap.store import Store
from clipgap.tables.schema import TEST_SCHEMA


def test_table(plan: ScanPlan, test: LoadedTest, topk: TopK) -> Any:
    """The table of one test set."""
    filled = topk.id != NO_ID
    ids = topk.id[filled]
    shards = np.searchsorted(plan.offsets, ids, side="right") - 1
    rows = ids - plan.offsets[shards]
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
            lists(winners_keys(plan.train, shards, rows)),
        ],
        schema=TEST_SCHEMA,
    )


def winners_keys(store: Store, shards: NDArray[np.int64], rows: NDArray[np.int64]) -> Any:
    """The keys of these training rows, read shard by shard."""
    if not store.has_keys:
        return pa.nulls(len(rows), pa.string())
    order = np.lexsort((rows, shards))
    numbers, starts = np.unique(shards[order], return_index=True)
    pieces = [pa.array([], pa.string())]
    for shard, mine in zip(numbers, np.split(rows[order], starts[1:]), strict=False):
        pieces.append(store.take_keys(int(shard), mine))
    back = np.empty(len(order), np.int64)
    back[order] = np.arange(len(order))
    return pa.concat_arrays(pieces).take(pa.array(back))


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
