"""Spherical k-means whose assignment is a scan: centroids as test set, best column per row.

Nothing in it depends on block sizes, threads or kernels. Scores are exact, of equally near
centroids the first wins, sums of rows are exact in any order, and a centroid is such a sum,
normalised and rounded to float16 once, as every row of a store is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.dedup.lowest import Lowest
from clipgap.dedup.rows import Ids, Rows, RowSource
from clipgap.kernels.admit import admit
from clipgap.kernels.choose import make_scanner
from clipgap.kernels.interface import Pending, TestSet
from clipgap.kernels.options import Compute
from clipgap.kernels.sums import add_to_sums


@dataclass(frozen=True)
class Centroids:
    """Where k-means has come to."""

    rows: NDArray[np.float16]  # (clusters, d)
    history: tuple[float, ...] = ()  # mean similarity of rows to their centroid, per iteration
    converged: bool = False

    @property
    def iterations(self) -> int:
        return len(self.history)


@dataclass(frozen=True)
class Assigned:
    """Some rows with their nearest centroids."""

    rows: Rows
    ids: Ids
    label: NDArray[np.int32]
    sim: NDArray[np.float64]


def assign(
    centroids: NDArray[np.float16], source: RowSource, compute: Compute, stage: str
) -> Iterator[Assigned]:
    """Every row with its nearest centroid, in order."""
    scanner = make_scanner([TestSet("centroids", centroids)], 1, compute=compute)

    def figures(rows: int, seconds: float) -> dict[str, Any]:
        found = scanner.counters.figures(rows, 2.0 * rows * centroids.size, seconds)
        return {"figures": found, "means": scanner.name}

    begun: deque[tuple[Rows, Ids, Pending]] = deque()
    for rows, ids in source.blocks(stage, figures, scanner.block_rows):
        begun.append((rows, ids, scanner.start(rows, ids)))
        if len(begun) > scanner.ahead:
            yield _assigned(*begun.popleft())
    for one in begun:
        yield _assigned(*one)


def step(
    centroids: Centroids, source: RowSource, compute: Compute, stage: str = "clustering"
) -> Centroids:
    """One iteration: assign all rows, then move each centroid to the middle of its rows.

    A cluster without rows begins anew at the row that is farthest from its centroid, the next such
    cluster at the next row.
    """
    clusters, dim = centroids.rows.shape
    sums, counts = np.zeros((clusters, dim)), np.zeros(clusters, np.int64)
    farthest, total = Lowest(clusters, dim, np.float64), 0
    for some in assign(centroids.rows, source, compute, stage):
        add_to_sums(sums, some.rows, some.label, compute.threads)
        counts += np.bincount(some.label, minlength=clusters)
        farthest.add(some.sim, some.ids, some.rows)
        total += _exact_sum(some.sim)
    moved = centroids.rows.copy()
    middle = admit(sums)
    # Rows that cancel out have no middle direction; their centroid stays.
    moved[middle.ok] = middle.rows[middle.ok]
    empty = np.flatnonzero(counts == 0)[: len(farthest.rows)]
    moved[empty] = farthest.rows[: len(empty)]
    similarity = total / (int(counts.sum()) << 48)
    return Centroids(
        moved,
        (*centroids.history, similarity),
        bool(np.array_equal(moved, centroids.rows)),
    )


def _assigned(rows: Rows, ids: Ids, pending: Pending) -> Assigned:
    result = pending.result()
    return Assigned(rows, ids, np.ascontiguousarray(result.nn[:, 0]), result.sim[:, 0])


def _exact_sum(sims: NDArray[np.float64]) -> int:
    """The sum in units of 2^-48, of which all scores are multiples; in two halves that fit."""
    units = np.ldexp(sims, 48).astype(np.int64)
    return (int((units >> 24).sum()) << 24) + int((units & 0xFFFFFF).sum())
