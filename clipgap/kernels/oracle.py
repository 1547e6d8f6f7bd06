"""The oracle: the definition of the results, written down in NumPy float64.

A float64 product of stored rows is exact in any order (docs/exactness.md), so one matrix product is
the truth, and stable sorting by id is the whole tie rule. Every other kernel is tested against this
file with `==`. It is also the kernel of last resort on a machine with neither compiler nor torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clipgap.kernels.interface import NO_ID, BlockResult, Counters, OneAtATime, TestSet, TopK

_SCORES_AT_ONCE = 1 << 24  # 128 MiB


def exact_scores(rows: NDArray[np.float16], tests: NDArray[np.float16]) -> NDArray[np.float64]:
    """All scores of rows (n, d) against tests (m, d), exact."""
    scores: NDArray[np.float64] = rows.astype(np.float64) @ tests.astype(np.float64).T
    return scores


def merge_topk(
    sim: NDArray[np.float64], ids: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The k best of each row of candidates (m, c): score down, id up; an id counts once."""
    order = np.lexsort((ids, -sim), axis=1)
    sim, ids = np.take_along_axis(sim, order, 1), np.take_along_axis(ids, order, 1)
    # Equal ids have equal scores, so after sorting a repetition is its own left neighbour.
    again = (ids[:, 1:] == ids[:, :-1]) & (ids[:, 1:] != NO_ID)
    if again.any():
        sim[:, 1:][again], ids[:, 1:][again] = -np.inf, NO_ID
        return merge_topk(sim, ids, k)
    return sim[:, :k], ids[:, :k]


class OracleScanner(OneAtATime):
    """`Scanner` in NumPy float64: the reference, in the fewest lines."""

    name = "numpy"

    def __init__(self, tests: Sequence[TestSet], k: int) -> None:
        self.tests, self.k, self.counters = list(tests), k, Counters()
        self._topk = [
            TopK(np.full((len(t.rows), k), -np.inf), np.full((len(t.rows), k), NO_ID, np.int64))
            for t in self.tests
        ]

    def scan(self, rows: NDArray[np.float16], ids: NDArray[np.int64]) -> BlockResult:
        widest = max((len(test.rows) for test in self.tests), default=0)
        step = max(1, _SCORES_AT_ONCE // max(1, widest))
        starts = range(0, max(1, len(rows)), step)
        pieces = [self._scan(rows[i : i + step], ids[i : i + step]) for i in starts]
        return BlockResult(
            np.concatenate([piece.sim for piece in pieces]),
            np.concatenate([piece.nn for piece in pieces]),
            np.concatenate([piece.margin for piece in pieces]),
            np.concatenate([piece.witness for piece in pieces]),
        )

    def _scan(self, rows: NDArray[np.float16], ids: NDArray[np.int64]) -> BlockResult:
        n, groups = len(rows), len(self.tests)
        result = BlockResult(
            np.zeros((n, groups)),
            np.zeros((n, groups), np.int32),
            np.full((n, groups), -np.inf),
            np.full((n, groups), -1, np.int32),
        )
        if n == 0:
            return result
        for g, test in enumerate(self.tests):
            scores = exact_scores(rows, test.rows)
            result.nn[:, g] = scores.argmax(axis=1)  # the first of equals: the lowest test row
            result.sim[:, g] = scores.max(axis=1)
            if test.gap is not None:
                margins = scores - test.gap
                result.witness[:, g] = margins.argmax(axis=1)
                result.margin[:, g] = margins.max(axis=1)
            held = self._topk[g]
            self._topk[g] = TopK(
                *merge_topk(
                    np.hstack([held.sim, scores.T]),
                    np.hstack([held.id, np.broadcast_to(ids, (len(test.rows), n))]),
                    self.k,
                )
            )
        pairs = n * sum(len(t.rows) for t in self.tests)
        self.counters.rows += n
        self.counters.pairs += pairs
        self.counters.survivors += pairs
        self.counters.refined += pairs
        return result

    def topk(self) -> list[TopK]:
        return list(self._topk)

    def load_topk(self, lists: list[TopK]) -> None:
        self._topk = list(lists)

    def raise_bounds(self, kth: list[NDArray[np.float64]]) -> None:
        """Nothing is filtered, so nothing would be saved."""
