"""What `clipgap store info` tells: a look at every row of a store, in bounded memory."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.kernels.admit import Status, admit
from clipgap.machine import thread_count
from clipgap.store.base import ShardInfo, Store
from clipgap.store.duplicates import Duplicates, KeyCounter

_BLOCK_BYTES = 16 << 20


@dataclass(frozen=True)
class BadRow:
    """A row that no scan will use."""

    shard: int
    shard_name: str
    row: int
    key: str | None
    reason: str  # "zero" or "not finite"


@dataclass(frozen=True)
class Norms:
    """Norms of the rows that are finite and not zero, as stored."""

    min: float
    mean: float
    max: float


@dataclass(frozen=True)
class StoreInfo:
    """Everything that reading a store once can tell."""

    path: str
    format: str
    shards: tuple[ShardInfo, ...]
    rows: int
    dim: int
    dtypes: dict[str, int]  # dtype → number of shards
    norms: Norms | None  # None if no row is usable
    normalised: int  # rows whose norm is off by more than 1e-3, so a scan scales them
    zero: int
    not_finite: int
    first_bad: tuple[BadRow, ...]
    duplicate_keys: Duplicates | None  # None if the store has no keys


@dataclass(frozen=True)
class _Block:
    shard: int
    start: int
    status: NDArray[np.uint8]
    norm: NDArray[np.float64]


def inspect(
    store: Store, on_progress: Callable[[int, int], None] | None = None, *, shown: int = 10
) -> StoreInfo:
    """Read every row and key once; `on_progress` is told (rows done, rows in all)."""
    counts: NDArray[np.int64] = np.zeros(len(Status), np.int64)
    low, high, total = math.inf, -math.inf, 0.0
    bad: list[BadRow] = []
    done = 0
    with KeyCounter(store.rows, shown=shown) as counter:
        for block in _blocks(store):
            keys = store.keys(block.shard, block.start, block.start + len(block.status))
            if keys is not None:
                counter.add(block.shard, block.start, keys)
            counts += np.bincount(block.status, minlength=len(Status))
            good = block.norm[block.status <= Status.NORMALISED]
            if len(good):
                low, high = min(low, float(good.min())), max(high, float(good.max()))
                total += _sum(good)
            bad += _bad_rows(store, block, keys, shown - len(bad))
            done += len(block.status)
            if on_progress:
                on_progress(done, store.rows)
        duplicates = counter.result() if store.has_keys else None
    usable = int(counts[Status.OK] + counts[Status.NORMALISED])
    dtypes = [shard.dtype for shard in store.shards]
    return StoreInfo(
        store.path,
        store.format,
        store.shards,
        store.rows,
        store.dim,
        {dtype: dtypes.count(dtype) for dtype in dict.fromkeys(dtypes)},
        Norms(low, total / usable, high) if usable else None,
        int(counts[Status.NORMALISED]),
        int(counts[Status.ZERO]),
        int(counts[Status.NOT_FINITE]),
        tuple(bad),
        duplicates,
    )


def _sum(norms: NDArray[np.float64]) -> float:
    try:
        return math.fsum(norms)
    except OverflowError:  # float64 rows can be as long as that
        return math.inf


def _blocks(store: Store) -> Iterator[_Block]:
    """The admission status of every row, in order, computed a few blocks ahead."""
    step = max(1, _BLOCK_BYTES // (store.dim * 8))
    spans = (
        (shard.index, start, min(start + step, shard.rows))
        for shard in store.shards
        for start in range(0, shard.rows, step)
    )

    def look(span: tuple[int, int, int]) -> _Block:
        shard, start, stop = span
        admitted = admit(store.read(shard, start, stop))
        return _Block(shard, start, admitted.status, admitted.norm)

    workers = thread_count()
    with ThreadPoolExecutor(workers) as pool:
        yield from _in_order(pool, look, spans, ahead=workers + 1)


def _in_order(
    pool: ThreadPoolExecutor,
    work: Callable[[tuple[int, int, int]], _Block],
    spans: Iterable[tuple[int, int, int]],
    ahead: int,
) -> Iterator[_Block]:
    """`pool.map` that never holds more than `ahead` results, however many spans there are."""
    waiting: deque[Future[_Block]] = deque()
    try:
        for span in spans:
            waiting.append(pool.submit(work, span))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _bad_rows(store: Store, block: _Block, keys: pa.Array | None, wanted: int) -> list[BadRow]:
    names = {Status.ZERO: "zero", Status.NOT_FINITE: "not finite"}
    rows = np.flatnonzero(block.status >= Status.ZERO)[: max(0, wanted)]
    return [
        BadRow(
            block.shard,
            store.shards[block.shard].name,
            block.start + row,
            None if keys is None else keys[row].as_py(),
            names[Status(block.status[row])],
        )
        for row in rows.tolist()
    ]
