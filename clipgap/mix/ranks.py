"""Which rows of a group come first, and where its first n end.

A rank is a hash, or by file order the place in the store. Rows with the same rank are taken in the
order of the store.

The n-th row of a group is found in two looks at its ranks: one counts them in bins of equal width,
the next gathers those of the bin in which the n-th falls, which are few.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.errors import InputError
from clipgap.mix.rules import Quotas
from clipgap.select.cells import Codes, Counts, Pool
from clipgap.select.hashes import Hashed, Ranks
from clipgap.select.work import Workers

_BINS = 22  # bits of cells times bins, at most


class Ranked(NamedTuple):
    """Some rows of a shard that come into question, in row order."""

    cell: NDArray[np.uint32]
    rank: Ranks
    place: NDArray[np.int64]  # in the store

    def only(self, some: NDArray[np.bool_]) -> Ranked:
        return Ranked(self.cell[some], self.rank[some], self.place[some])


Rows = Callable[[int], Iterator[Ranked]]
"""Gives the rows of a shard that belong to cells that are drawn from."""


@dataclass(frozen=True)
class InFiles:
    """Ranks by place, spread over all 64 bits."""

    rows: int  # of the store

    def of(self, shard: str, keys: Any, rows: NDArray[np.int64], place: int) -> Ranks:
        spread = np.uint64(64 - max(1, self.rows.bit_length()))
        ranks: Ranks = (rows + place).astype(np.uint64) << spread
        return ranks


def ranked(
    pool: Pool, shard: int, start: int, codes: Codes, of: NDArray[np.bool_], by: Hashed | InFiles
) -> tuple[NDArray[np.int64], Ranked]:
    """Which rows of a block are of these cells, and their ranks."""
    at = np.flatnonzero(np.append(False, of)[codes])
    name, first = pool.store.shards[shard].name, pool.offsets[shard]
    keys = None
    if len(at) and isinstance(by, Hashed):
        keys = pool.store.keys(shard, start, start + len(codes))
        if keys is not None and keys.null_count:
            raise InputError(
                f"{pool.store.path}: shard {name} has rows without a key, so no order by hash is "
                'told; draw with order = "file"'
            )
        if keys is not None and len(at) < len(keys):
            keys = keys.take(pa.array(at))
    ranks = by.of(name, keys, at + start, first)
    return at, Ranked(codes[at] - np.uint32(1), ranks, at + start + first)


@dataclass(frozen=True)
class Cuts:
    """The rows that are kept, and how many that makes of each cell."""

    whole: NDArray[np.bool_]  # cells of which all rows are kept
    drawn: NDArray[np.bool_]  # cells of which those up to the last row of their group are kept
    group: Counts  # of each cell
    rank: Ranks  # of each group's last row
    place: Counts
    after: Counts  # rows kept of each cell

    def keeps(self, ranked: Ranked) -> NDArray[np.bool_]:
        """Which rows of cells that are drawn from are kept."""
        group = self.group[ranked.cell]
        last = self.rank[group]
        kept: NDArray[np.bool_] = (ranked.rank < last) | (
            (ranked.rank == last) & (ranked.place <= self.place[group])
        )
        return kept


def find_cuts(quotas: Quotas, counts: Counts, rows: Rows, workers: Workers) -> Cuts:
    """Where each group's rows end. `rows` gives those of the cells that are drawn from."""
    whole, drawn = quotas.whole_and_drawn(counts)
    groups = len(quotas.rows)
    rank, place = np.zeros(groups, np.uint64), np.full(groups, -1, np.int64)
    cuts = Cuts(whole, drawn, quotas.group, rank, place, np.where(whole, counts, 0))
    if drawn.any():
        bits = min(_BINS, int(counts[drawn].sum()).bit_length())
        _cut(cuts, np.flatnonzero(drawn), quotas.rows, bits, rows, workers)
    return cuts


def _cut(
    cuts: Cuts,
    drawn: NDArray[np.int64],
    wanted: Counts,
    bits: int,
    rows: Rows,
    workers: Workers,
) -> None:
    """Find rank and place of the last row of each group, and count what is kept of its cells."""
    bits = max(1, bits - (len(drawn) - 1).bit_length())  # of bins, for each cell
    shift = np.uint64(64 - bits)
    number = np.zeros(len(cuts.group), np.int64)  # of each cell among those that are drawn from
    number[drawn] = np.arange(len(drawn))
    total, lock = np.zeros(len(drawn) << bits, np.int64), threading.Lock()

    def count(shard: int) -> None:
        for some in rows(shard):
            bins = (number[some.cell] << bits) + (some.rank >> shift).astype(np.int64)
            with lock:
                np.add.at(total, bins, 1)

    workers.each("finding the cut", count)
    bins = total.reshape(len(drawn), 1 << bits)
    groups, of = np.unique(cuts.group[drawn], return_inverse=True)
    edge = np.zeros(len(groups), np.int64)  # the bin in which each group's last row falls
    left = np.zeros(len(groups), np.int64)  # and how many rows of it are kept
    members = np.split(np.argsort(of, kind="stable"), np.cumsum(np.bincount(of))[:-1])
    for place, (which, mine) in enumerate(zip(groups, members, strict=True)):
        ends = np.cumsum(bins[mine].sum(axis=0))
        edge[place] = np.searchsorted(ends, wanted[which])
        before = ends[edge[place] - 1] if edge[place] else 0
        left[place] = wanted[which] - before
    edges = edge[of]
    below = np.arange(1 << bits) < edges[:, None]
    cuts.after[drawn] = np.where(below, bins, 0).sum(axis=1)

    gathered: list[tuple[NDArray[Any], ...]] = []

    def gather(shard: int) -> None:
        for some in rows(shard):
            mine = number[some.cell]
            at = np.flatnonzero((some.rank >> shift).astype(np.int64) == edges[mine])
            with lock:
                gathered.append((mine[at], some.rank[at], some.place[at]))

    workers.each("finding the cut", gather)
    cell, rank, place_ = (np.concatenate(each) for each in zip(*gathered, strict=True))
    order = np.lexsort((place_, rank, of[cell]))
    group = of[cell][order]
    starts = np.searchsorted(group, np.arange(len(groups)))
    last = order[starts + left - 1]
    cuts.rank[groups], cuts.place[groups] = rank[last], place_[last]
    kept = order[np.arange(len(order)) - starts[group] < left[group]]
    cuts.after[drawn] += np.bincount(cell[kept], minlength=len(drawn))
