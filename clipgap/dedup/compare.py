"""Rows of a cluster compared with each other, block by block in the keep order.

A cluster is compared in tiles that fit into memory; most are one tile. What a tile means for the
rest of its cluster is found by reading the rest past it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from clipgap.dedup.decisions import Decision, Places
from clipgap.dedup.rows import Rows, Watch
from clipgap.kernels.options import Compute
from clipgap.kernels.pairs import PairFinder, Pairs, make_finder

BLOCK = 1024
"""Rows that are settled together. Larger blocks waste more of the comparisons within a block,
smaller ones are prepared more often."""

_AT_ONCE = 16_384


@dataclass(frozen=True)
class Comparison:
    """How to compare: nothing here changes a result."""

    limit: float  # the lowest of all: nothing at or below it matters
    compute: Compute
    watch: Watch
    block: int = BLOCK

    def by_one_thread(self) -> Comparison:
        """The same, for comparing several clusters at once."""
        return replace(self, compute=replace(self.compute, threads=1))

    def settle(self, rows: Rows, first: int, decision: Decision) -> PairFinder:
        """Settle the rows of a tile, which begins at place `first` of the keep order."""
        finder = make_finder(rows, self.block, self.compute)
        stop = first + len(rows)
        for block, (start, end) in enumerate(pairwise(finder.starts)):
            places = decision.open(first + start, first + end)
            found = list(self._pairs(finder, block, first, rows[places - first], places))
            pairs = _joined(found)
            decision.settle(first + start, first + end, pairs.where(pairs.row > pairs.column))
            if end < len(rows) and decision.matters(first + start, first + end):
                places = decision.open(first + end, stop)
                self._spread(finder, block, first, rows, places - first, places, decision)
        return finder

    def spread(
        self, finder: PairFinder, first: int, rows: Rows, places: Places, decision: Decision
    ) -> None:
        """Show a settled tile some later rows."""
        every = np.arange(len(rows))
        for block, (start, end) in enumerate(pairwise(finder.starts)):
            if decision.matters(first + start, first + end):
                self._spread(finder, block, first, rows, every, places, decision)

    def _spread(
        self,
        finder: PairFinder,
        block: int,
        first: int,
        rows: Rows,
        at: NDArray[np.int64],
        places: Places,
        decision: Decision,
    ) -> None:
        """Show a settled block of a tile the later rows `at`, which have these places."""
        for start in range(0, len(at), _AT_ONCE):
            self.watch.check()
            part = slice(start, start + _AT_ONCE)
            for pairs in self._pairs(finder, block, first, rows[at[part]], places[part]):
                decision.spread(pairs)

    def _pairs(
        self, finder: PairFinder, block: int, first: int, rows: Rows, places: Places
    ) -> Iterator[Pairs]:
        """The pairs with a block, by places in the keep order."""
        for pairs in finder.find(rows, block, self.limit):
            yield Pairs(places[pairs.row], pairs.column + first, pairs.score)


def _joined(found: list[Pairs]) -> Pairs:
    if len(found) == 1:
        return found[0]
    none = np.empty(0, np.int64)
    return Pairs(
        np.concatenate([none, *(pairs.row for pairs in found)]),
        np.concatenate([none, *(pairs.column for pairs in found)]),
        np.concatenate([np.empty(0), *(pairs.score for pairs in found)]),
    )
