"""Sums that are exact: of rows by group, of rows times weights, of their words modulo 2^64.

Every float16 is a multiple of 2^-24 and at most about 1 here, so a float64 holds the sum of 2^28 of
them exactly. Sums by group therefore do not depend on the order of rows, on blocks or on threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.kernels import cpu

EXACT_ROWS = 1 << 28
"""Rows that a group may have for its sum to be exact."""

_WORDS_AT_ONCE = 128  # rows of them, which then fit into a core's own cache


def add_to_sums(
    sums: NDArray[np.float64],
    rows: NDArray[np.float16],
    group: NDArray[np.int32],
    threads: int | None = None,
) -> None:
    """Add rows (n, d) to the sums (groups, d) of their groups."""
    if cpu.is_built():
        cpu.add_to_sums(sums, np.ascontiguousarray(rows), group, threads)
    elif len(rows):
        order = np.argsort(group, kind="stable")
        starts = np.flatnonzero(np.diff(group[order], prepend=-1))
        wide = rows[order].astype(np.float64)
        sums[group[order[starts]]] += np.add.reduceat(wide, starts, axis=0)


def sums_of_words(rows: NDArray[Any], factors: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """For each row (n, d) the sum, modulo 2^64, of its words times their factors.

    A word is 64 bits as they lie in a file, the last one filled up with zeros, and its upper half
    is folded into the lower.
    """
    rows = np.ascontiguousarray(rows)
    if cpu.is_built():
        return cpu.sums_of_words(rows, factors)
    content = rows.view(np.uint8)
    if content.shape[1] % 8:
        content = np.pad(content, ((0, 0), (0, -content.shape[1] % 8)))
    words = content.view("<u8").astype(np.uint64, copy=False)
    sums = np.empty(len(rows), np.uint64)
    for first in range(0, len(rows), _WORDS_AT_ONCE):
        part = words[first : first + _WORDS_AT_ONCE]
        np.matmul(part ^ (part >> np.uint64(32)), factors, out=sums[first : first + len(part)])
    return sums


def weigh(
    rows: NDArray[np.float16], weights: NDArray[np.float64], threads: int | None = None
) -> NDArray[np.float64]:
    """Scalar products (n, heads) of rows (n, d) with weights (heads, d).

    Exact, and so the same everywhere, where weights are coarse enough for every partial sum to fit
    into float64.
    """
    if cpu.is_built():
        return cpu.weigh(np.ascontiguousarray(rows), weights, threads)
    products: NDArray[np.float64] = rows.astype(np.float64) @ weights.T
    return products
