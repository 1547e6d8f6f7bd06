"""The total orders that rows are ranked by, and where to cut one to get exactly n rows.

A rank is an unsigned 32-bit number; the lowest rank comes first, and among equals the lowest id. To
rank by similarity, most similar first, is to turn float32 into integers of the opposite order. To
rank at random is to scramble the id with the seed.

The n-th row is found in two passes, however many rows there are: one counts the upper halves of all
ranks, the next the lower halves of those whose upper half is that of the n-th. The latter are few,
so they are also held, to count each shard's share of the equals if the cut falls between equals.
Where too many have that upper half for holding them, the equals are counted in a third look.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from clipgap.select.work import Workers

Ranks = Callable[[int], Iterator[NDArray[np.uint32]]]
"""Gives the ranks of a shard's candidates, in row order, block by block."""

_HALF = 1 << 16
_HELD = 1 << 25
"""Lower halves held in memory, of two bytes each."""
_SHIFT = np.uint32(16)


@dataclass(frozen=True)
class Cut:
    """The first n of all candidates: those with a lower rank, and the first `taken` equals."""

    rank: int
    taken: int
    equals: int
    before: tuple[int, ...]  # equals in earlier shards, for each shard; empty if it is all or none

    def first(self, shard: int) -> Callable[[NDArray[np.uint32]], NDArray[np.bool_]]:
        """A function that tells, for ranks in row order, which rows are among the first n."""
        if self.taken == self.equals:
            return lambda ranks: ranks <= self.rank
        if not self.taken:
            return lambda ranks: ranks < self.rank
        left = self.taken - self.before[shard]

        def among(ranks: NDArray[np.uint32]) -> NDArray[np.bool_]:
            nonlocal left
            chosen = ranks < self.rank
            equal = np.flatnonzero(ranks == self.rank)
            chosen[equal[: max(left, 0)]] = True
            left -= len(equal)
            return chosen

        return among


def find_cut(ranks: Ranks, n: int, workers: Workers) -> Cut:
    """Where the first n rows end; there must be at least n."""
    if n == 0:
        return Cut(0, 0, 0, ())
    uppers = _count(workers, lambda shard: (block >> _SHIFT for block in ranks(shard)))
    upper, below = _place(uppers, n - 1)

    held = _Held(_HELD)

    def lowers_of(shard: int) -> Iterator[NDArray[np.uint32]]:
        for block in ranks(shard):
            lowers = block[block >> _SHIFT == upper] & np.uint32(_HALF - 1)
            held.add(shard, lowers)
            yield lowers

    lowers = _count(workers, lowers_of)
    lower, more = _place(lowers, n - 1 - below)
    rank, equals, taken = upper << 16 | lower, int(lowers[lower]), n - below - more
    before: tuple[int, ...] = ()
    if taken < equals:

        def count(shard: int) -> int:
            return sum(int(np.count_nonzero(block == rank)) for block in ranks(shard))

        per_shard = held.count(lower, workers.shards)
        if per_shard is None:
            per_shard = workers.each("counting equals", count)
        before = tuple(accumulate(per_shard, initial=0))
    return Cut(rank, taken, equals, before)


def by_similarity(sim: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Ranks that put the highest similarity first."""
    bits = sim.view(np.int32)
    # Positive floats rise with their bits, negative ones fall: all bits but the sign are turned
    # over for the former.
    ranks: NDArray[np.int32] = bits ^ (~(bits >> 31) & 0x7FFFFFFF)
    return ranks.view(np.uint32)


def similarity_of(rank: int) -> float:
    """The similarity that has this rank."""
    bits = rank if rank >> 31 else rank ^ 0x7FFFFFFF
    return float(np.array([bits], np.uint32).view(np.float32)[0])


def at_random(ids: NDArray[np.int64], seed: int) -> NDArray[np.uint32]:
    """Ranks that look random and depend on seed and id alone: the splitmix64 generator's output
    at position id of a stream that the seed chooses.
    """
    numbers = scramble(ids.astype(np.uint64) * STEP + stream_of(seed))
    ranks: NDArray[np.uint32] = (numbers >> np.uint64(32)).astype(np.uint32)
    return ranks


STEP = np.uint64(0x9E3779B97F4A7C15)


def stream_of(seed: int) -> np.uint64:
    """Where the random numbers of a seed begin."""
    mixed: np.uint64 = scramble(np.array([seed % 2**64], np.uint64) + STEP)[0]
    return mixed


def scramble(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The last step of splitmix64: one to one, and no bit of the result looks like one of x."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed


def _count(
    workers: Workers, halves: Callable[[int], Iterator[NDArray[np.uint32]]]
) -> NDArray[np.int64]:
    """How often each half occurs among all shards."""
    total, lock = np.zeros(_HALF, np.int64), threading.Lock()

    def count(shard: int) -> None:
        counts = np.zeros(_HALF, np.int64)
        for block in halves(shard):
            counts += np.bincount(block, minlength=_HALF)
        with lock:
            np.add(total, counts, out=total)

    workers.each("finding the cut", count)
    return total


def _place(counts: NDArray[np.int64], index: int) -> tuple[int, int]:
    """The bin that the index-th of all falls into, and how many lie in earlier bins."""
    ends = np.cumsum(counts)
    place = int(np.searchsorted(ends, index, side="right"))
    return place, int(ends[place] - counts[place])


class _Held:
    """Lower halves by shard, as long as they are few."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._lock = threading.Lock()
        self._parts: dict[int, list[NDArray[np.uint16]]] = {}

    def add(self, shard: int, lowers: NDArray[np.uint32]) -> None:
        with self._lock:
            self._room -= len(lowers)
            if self._room < 0:
                self._parts.clear()
            else:
                self._parts.setdefault(shard, []).append(lowers.astype(np.uint16))

    def count(self, lower: int, shards: int) -> list[int] | None:
        """How often each shard has this one; None if there were too many to hold."""
        if self._room < 0:
            return None
        return [
            sum(int(np.count_nonzero(part == lower)) for part in self._parts.get(shard, ()))
            for shard in range(shards)
        ]
