"""Labelled rows of a store, with their embeddings, in three parts that share no row.

One part trains, one chooses thresholds, one tests. Rows are sorted by label, source and class, and
within these by hash; then they are dealt out one after the other. So each label, class and source
has its share of each part, to within a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.errors import InputError
from clipgap.heads.heads import LABELS
from clipgap.kernels.admit import admit
from clipgap.select.cells import Pool
from clipgap.select.hashes import Hashed
from clipgap.store.base import Store

PARTS = ("train", "thresholds", "test")

_ROWS = 1 << 14


@dataclass(frozen=True, eq=False)
class Labelled:
    """Labelled rows, in the order of the store."""

    rows: NDArray[np.float16]
    labels: NDArray[np.int64]  # places in LABELS
    part: NDArray[np.int64]  # places in PARTS

    def of(self, part: str) -> tuple[NDArray[np.float16], NDArray[np.int64]]:
        mine = self.part == PARTS.index(part)
        return self.rows[mine], self.labels[mine]

    def counts(self) -> dict[str, dict[str, int]]:
        """Rows by part and label."""
        counts = {}
        for part in PARTS:
            of_labels = np.bincount(self.of(part)[1], minlength=len(LABELS))
            counts[part] = dict(zip(LABELS, of_labels.tolist(), strict=True))
        return counts


def load(pool: Pool, train_share: float, seed: int) -> Labelled:
    """Read what is labelled, and part it; refuses labels that heads do not know."""
    strangers = sorted({cell.domain for cell in pool.cells} - set(LABELS))
    if strangers:
        raise InputError(
            f"{pool.tables[0]}: the domain {strangers[0]!r} is none that heads know; label rows as "
            f"{', '.join(LABELS)}"
        )
    missing = [label for label in LABELS if label not in {cell.domain for cell in pool.cells}]
    if len(missing) > 1:
        raise InputError(
            f"{pool.tables[0]}: all labels are {next(iter(set(LABELS) - set(missing)))!r}; heads "
            "need rows of at least two domains"
        )
    places = np.flatnonzero(pool.codes)
    cells = pool.codes[places].astype(np.int64) - 1
    rows, ranks = _read(pool, places, seed)
    labels = np.array([LABELS.index(cell.domain) for cell in pool.cells])[cells]
    order = np.lexsort((places, ranks, cells, labels))
    part = np.empty(len(order), np.int64)
    part[order] = deal(len(order), train_share)
    return Labelled(rows, labels, part)


def deal(rows: int, train_share: float) -> NDArray[np.int64]:
    """The part of each of so many rows: in every stretch of them all parts have their shares."""
    ends = np.floor(np.arange(rows + 1) * train_share)
    part = np.where(np.diff(ends) > 0, 0, 1)
    rest = np.flatnonzero(part)
    part[rest[1::2]] = 2
    return part


def _read(
    pool: Pool, places: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.float16], NDArray[np.uint64]]:
    """The rows at these places of a store, and their ranks."""
    store, by = pool.store, Hashed(seed)
    rows = np.empty((len(places), store.dim), np.float16)
    ranks = np.empty(len(places), np.uint64)
    for shard in store.shards:
        first = pool.offsets[shard.index]
        for start in range(0, shard.rows, _ROWS):
            pool.workers.check()
            stop = min(start + _ROWS, shard.rows)
            low, high = np.searchsorted(places, [first + start, first + stop])
            if low == high:
                continue
            mine = places[low:high] - first
            rows[low:high] = _admitted(store, shard.index, start, stop, mine)
            keys: Any = store.keys(shard.index, start, stop)
            if keys is not None:
                keys = keys.take(pa.array(mine - start))
            ranks[low:high] = by.of(shard.name, keys, mine)
    return rows, ranks


def _admitted(
    store: Store, shard: int, start: int, stop: int, rows: NDArray[np.int64]
) -> NDArray[np.float16]:
    admitted = admit(store.read(shard, start, stop)[rows - start])
    bad = rows[~admitted.ok]
    if len(bad):
        raise InputError(
            f"{store.path}: row {bad[0]:,} of {store.shards[shard].name} has a label, but is zero, "
            "NaN or infinite"
        )
    return admitted.rows
