"""All pairs of rows and columns whose score exceeds a limit, exactly.

The same filter and the same float64 decision as in a scan, with one difference: the limit is known
beforehand, so it is the bound that a pair has to reach.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from clipgap.kernels import cpu
from clipgap.kernels.interface import MAX_SCORE, TestSet
from clipgap.kernels.options import Compute

PAIRS_AT_ONCE = 1 << 22
"""Pairs looked at in one go. All of them may exceed the limit, which bounds memory to 64 MiB."""

FEW = 32
"""Columns below which preparing them for the C++ filter costs more than it saves."""


@dataclass(frozen=True)
class Pairs:
    """Pairs in no particular order; rows and columns count from 0 within what was given."""

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    score: NDArray[np.float64]

    def where(self, mask: NDArray[np.bool_]) -> Pairs:
        return Pairs(self.row[mask], self.column[mask], self.score[mask])


def joined(found: list[Pairs]) -> Pairs:
    if len(found) == 1:
        return found[0]
    none = np.empty(0, np.int64)
    return Pairs(
        np.concatenate([none, *(pairs.row for pairs in found)]),
        np.concatenate([none, *(pairs.column for pairs in found)]),
        np.concatenate([np.empty(0), *(pairs.score for pairs in found)]),
    )


class PairFinder(Protocol):
    """Holds columns in blocks, and finds what is near to those of one block."""

    starts: list[int]  # where the blocks begin, and where the last one ends

    def find(self, rows: NDArray[np.float16], block: int, limit: float) -> Iterator[Pairs]:
        """The pairs of rows (n, d) with columns of a block whose score exceeds `limit`.

        They come for a part of the rows at a time, in bounded memory however many there are.
        """
        ...

    def among(self, block: int, limit: float) -> Pairs:
        """The same for the columns of a block themselves: each pair once, the later as its row."""
        ...


def make_finder(columns: NDArray[np.float16], block: int, compute: Compute) -> PairFinder:
    """Columns (m, d) in blocks of `block`. Both ways give the same pairs with the same scores."""
    if compute.kernel in ("torch", "numpy") or len(columns) < FEW or not cpu.is_built():
        return FloatPairs(columns, block)
    return CpuPairs(columns, block, compute.threads)


def _starts(columns: int, block: int) -> list[int]:
    return [*range(0, columns, block), columns]


class CpuPairs:
    """`PairFinder` over the C++ library: a test set for each block."""

    def __init__(self, columns: NDArray[np.float16], block: int, threads: int | None) -> None:
        self.starts = _starts(len(columns), block)
        tests = [
            TestSet(str(first), columns[first:last])
            for first, last in zip(self.starts[:-1], self.starts[1:], strict=True)
        ]
        self._scanner = cpu.CpuScanner(tests, 1, threads)

    def find(self, rows: NDArray[np.float16], block: int, limit: float) -> Iterator[Pairs]:
        first, last = self.starts[block : block + 2]
        for start, part in _parts(rows, last - first):
            row, column, score = self._scanner.pairs(part, block, limit)
            yield Pairs(row.astype(np.int64) + start, column.astype(np.int64) + first, score)

    def among(self, block: int, limit: float) -> Pairs:
        first = self.starts[block]
        row, column, score = self._scanner.pairs_among(block, limit)
        return Pairs(row.astype(np.int64) + first, column.astype(np.int64) + first, score)


class FloatPairs:
    """`PairFinder` in NumPy: a float32 product, off by at most `slack`, decided in float64."""

    def __init__(self, columns: NDArray[np.float16], block: int) -> None:
        self.starts = _starts(len(columns), block)
        self._columns = columns
        unit = columns.shape[1] * 2.0**-24
        self._slack = MAX_SCORE * unit / (1.0 - unit)

    def find(self, rows: NDArray[np.float16], block: int, limit: float) -> Iterator[Pairs]:
        first, last = self.starts[block : block + 2]
        columns = self._columns[first:last]
        wide = columns.astype(np.float32)
        need = np.nextafter(np.float32(limit - self._slack), np.float32(-np.inf))
        for start, part in _parts(rows, last - first):
            row, column = np.nonzero(part.astype(np.float32) @ wide.T >= need)
            score = _exact(part, columns, row, column)
            pairs = Pairs(row + start, column + first, score)
            yield pairs.where(score > limit)

    def among(self, block: int, limit: float) -> Pairs:
        first, last = self.starts[block : block + 2]
        found = joined(list(self.find(self._columns[first:last], block, limit)))
        pairs = Pairs(found.row + first, found.column, found.score)
        return pairs.where(pairs.row > pairs.column)


def _parts(rows: NDArray[np.float16], columns: int) -> Iterator[tuple[int, NDArray[np.float16]]]:
    step = max(1, PAIRS_AT_ONCE // max(1, columns))
    for start in range(0, len(rows), step):
        yield start, rows[start : start + step]


def _exact(
    rows: NDArray[np.float16],
    columns: NDArray[np.float16],
    row: NDArray[np.int64],
    column: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Scores of single pairs; where they are many, of all at once."""
    if 50 * len(row) > len(rows) * len(columns):
        dense: NDArray[np.float64] = rows.astype(np.float64) @ columns.astype(np.float64).T
        return dense[row, column]
    score = np.empty(len(row))
    for start in range(0, len(row), 8192):
        here = slice(start, start + 8192)
        products = rows[row[here]].astype(np.float64) * columns[column[here]]
        score[here] = products.sum(axis=1)
    return score
