"""The fallback for machines without our C++ library: float32 tiles in torch, decided in float64.

The same idea as the C++ kernel with a coarser tool. A float32 matrix product is off by at most
`slack`, so a pair whose score stays more than that below a known lower bound cannot matter; what is
left is computed exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipgap.kernels.interface import (
    MAX_SCORE,
    NO_ID,
    BlockResult,
    Counters,
    OneAtATime,
    TestSet,
    TopK,
)
from clipgap.kernels.oracle import merge_topk
from clipgap.packages import missing

if TYPE_CHECKING:
    import torch

TILE_ROWS = 2048
TILE_COLUMNS = 4096
REFINE_PAIRS = 8192  # pairs whose vectors are gathered at a time
DENSE_SHARE = 0.02  # survivors of a tile above which a float64 product is cheaper than gathering


def import_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise missing("torch") from error


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """PyTorch's own number of threads: one for the whole process, so it is given back."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class TorchScanner(OneAtATime):
    """`Scanner` on torch's CPU matrix product."""

    name = "torch"

    def __init__(self, tests: Sequence[TestSet], k: int, threads: int | None = None) -> None:
        import_torch()
        import torch

        k = max(1, k)  # a list of one is simpler than none
        self._threads = threads or torch.get_num_threads()
        self.tests, self.k, self.counters = list(tests), k, Counters()
        self.columns = [torch.from_numpy(np.ascontiguousarray(test.rows)) for test in tests]
        d = tests[0].rows.shape[1]
        # A sum of d products of vectors no longer than 1.01 gathers at most this much rounding,
        # in any order, fused or not; the products themselves are exact.
        unit = 2.0**-24
        self.slack = MAX_SCORE * d * unit / (1.0 - d * unit)
        self._topk = [
            TopK(np.full((len(t.rows), k), -np.inf), np.full((len(t.rows), k), NO_ID, np.int64))
            for t in self.tests
        ]
        self._told = [np.full(len(t.rows), -np.inf) for t in self.tests]  # k-th bests

    def scan(self, rows: NDArray[np.float16], ids: NDArray[np.int64]) -> BlockResult:
        shape = (len(rows), len(self.tests))
        result = BlockResult(
            np.full(shape, -np.inf),
            np.zeros(shape, np.int32),
            np.full(shape, -np.inf),
            np.full(shape, -1, np.int32),
        )
        with _full_precision(), torch_threads(self._threads):
            for start in range(0, len(rows), TILE_ROWS):
                here = slice(start, start + TILE_ROWS)
                for g in range(len(self.tests)):
                    self._scan_tiles(g, rows[here], ids[here], result, here)
        self.counters.rows += len(rows)
        self.counters.pairs += len(rows) * sum(len(test.rows) for test in self.tests)
        return result

    def _scan_tiles(
        self,
        g: int,
        rows: NDArray[np.float16],
        ids: NDArray[np.int64],
        result: BlockResult,
        here: slice,
    ) -> None:
        """One tile of rows against all columns of test set g."""
        import torch

        halves = torch.from_numpy(np.ascontiguousarray(rows))
        gap = self.tests[g].gap
        best = _Winner(len(rows))
        margin = _Winner(len(rows))
        floats = halves.float()
        for start in range(0, len(self.columns[g]), TILE_COLUMNS):
            columns = self.columns[g][start : start + TILE_COLUMNS]
            estimate = floats @ columns.float().T
            of_tile = slice(start, start + TILE_COLUMNS)
            bounds = torch.from_numpy(
                np.maximum(self._topk[g].sim[of_tile, -1], self._told[g][of_tile])
            )
            # The tile's own best estimates are lower bounds too, before any score is exact.
            reach = torch.maximum(
                torch.from_numpy(best.value), estimate.amax(1).double() - self.slack
            )
            alive = estimate >= _below(reach - self.slack)[:, None]
            top = min(self.k, len(rows))
            kth = estimate.topk(top, dim=0).values[-1].double() - self.slack
            if len(rows) >= self.k:
                bounds = torch.maximum(bounds, kth)
            alive |= estimate >= _below(bounds - self.slack)[None, :]
            if gap is not None:
                tau = torch.from_numpy(gap[start : start + TILE_COLUMNS])
                room = estimate.double() - tau
                known = torch.maximum(torch.from_numpy(margin.value), room.amax(1) - self.slack)
                alive |= room >= (known - 2 * self.slack)[:, None]
            row, column = (index.numpy() for index in alive.nonzero(as_tuple=True))
            score = self._refine(halves, columns, row, column)
            best.take(row, score, column + start)
            if gap is not None:
                margin.take(row, score - gap[column + start], column + start)
            self._offer(g, start, column, score, ids[row])
        result.sim[here, g], result.nn[here, g] = best.value, best.column
        if gap is not None:
            result.margin[here, g], result.witness[here, g] = margin.value, margin.column

    def _refine(
        self,
        rows: torch.Tensor,
        columns: torch.Tensor,
        row: NDArray[np.int64],
        column: NDArray[np.int64],
    ) -> NDArray[np.float64]:
        """Exact scores of the surviving pairs; where many survive, of the whole tile at once."""
        self.counters.survivors += len(row)
        self.counters.refined += len(row)
        if len(row) > len(rows) * len(columns) * DENSE_SHARE:
            return (rows.double() @ columns.double().T).numpy()[row, column]
        scores = np.empty(len(row))
        for start in range(0, len(row), REFINE_PAIRS):
            here = slice(start, start + REFINE_PAIRS)
            products = rows[row[here]].double() * columns[column[here]].double()
            scores[here] = products.sum(1).numpy()
        return scores

    def _offer(
        self,
        g: int,
        first: int,
        column: NDArray[np.int64],
        score: NDArray[np.float64],
        ids: NDArray[np.int64],
    ) -> None:
        """Merge candidates, given as pairs, into the lists of their columns."""
        held = self._topk[g]
        touched, place, count = np.unique(column, return_inverse=True, return_counts=True)
        order = np.argsort(place, kind="stable")
        slot = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)
        sim = np.full((len(touched), int(count.max(initial=0))), -np.inf)
        id_ = np.full(sim.shape, NO_ID, np.int64)
        sim[place[order], slot], id_[place[order], slot] = score[order], ids[order]
        where = touched + first
        held.sim[where], held.id[where] = merge_topk(
            np.hstack([held.sim[where], sim]), np.hstack([held.id[where], id_]), self.k
        )

    def topk(self) -> list[TopK]:
        return [TopK(held.sim.copy(), held.id.copy()) for held in self._topk]

    def load_topk(self, lists: list[TopK]) -> None:
        self._topk = [TopK(held.sim.copy(), held.id.copy()) for held in lists]

    def raise_bounds(self, kth: list[NDArray[np.float64]]) -> None:
        self._told = [np.maximum(*both) for both in zip(self._told, kth, strict=True)]


@contextmanager
def _full_precision() -> Iterator[None]:
    """float32 products in float32, whatever shortcut (bfloat16, TF32) is switched on outside."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _below(bound: torch.Tensor) -> torch.Tensor:
    """A float32 no larger than each float64 bound, so that comparing in float32 loses nothing."""
    import torch

    rounded = bound.float()
    return torch.nextafter(rounded, torch.full_like(rounded, -torch.inf))


class _Winner:
    """The best value of each row so far and its column; of equals the lowest column."""

    def __init__(self, rows: int) -> None:
        self.value = np.full(rows, -np.inf)
        self.column = np.zeros(rows, np.int32)

    def take(
        self, row: NDArray[np.int64], value: NDArray[np.float64], column: NDArray[np.int64]
    ) -> None:
        order = np.lexsort((column, -value, row))
        row, value, column = row[order], value[order], column[order]
        first = np.ones(len(row), bool)
        first[1:] = row[1:] != row[:-1]
        row, value, column = row[first], value[first], column[first]
        better = value > self.value[row]
        self.value[row[better]] = value[better]
        self.column[row[better]] = column[better]
