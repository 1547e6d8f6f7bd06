"""Sums that are exact: of rows by group, and of rows times weights.

Every float16 is a multiple of 2^-24 and at most about 1 here, so a float64 holds the sum of 2^28 of
them exactly. Sums by group therefore do not depend on the order of rows, on blocks or on threads.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clipgap.kernels import cpu

EXACT_ROWS = 1 << 28
"""Rows that a group may have for its sum to be exact."""


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
