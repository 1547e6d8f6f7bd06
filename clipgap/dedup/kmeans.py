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

from clipgap.dedup.labels import NONE
from clipgap.dedup.rows import Ids, Rows, RowSource, Watch
from clipgap.kernels.admit import admit
from clipgap.kernels.choose import make_scanner
from clipgap.kernels.interface import Pending, Scanner, TestSet
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


class Assignment:
    """Passes over the rows that find each one's nearest centroid.

    Centroids move little from pass to pass: where a row was before is where it is looked for first.
    """

    def __init__(self, source: RowSource, compute: Compute, label: NDArray[np.int32]) -> None:
        self.source, self.compute = source, compute
        self.label = label  # of each row of the store, NONE until it is known
        self._scanner: Scanner | None = None

    def to(self, centroids: NDArray[np.float16], stage: str) -> Iterator[Assigned]:
        """Every row with its nearest centroid, in order; fills the labels."""
        scanner = make_scanner([TestSet("centroids", centroids)], 0, compute=self.compute)
        if self._scanner is not None:
            scanner.begin_like(self._scanner)
        self._scanner = scanner

        def figures(rows: int, seconds: float) -> dict[str, Any]:
            found = scanner.counters.figures(rows, 2.0 * rows * centroids.size, seconds)
            return {"figures": found, "means": scanner.name}

        begun: deque[tuple[Rows, Ids, Pending]] = deque()
        for rows, ids in self.source.blocks(stage, figures, scanner.block_rows):
            near = self.label[ids]
            if near.min(initial=0) > NONE:
                scanner.guess(near[:, None])
            begun.append((rows, ids, scanner.start(rows, ids)))
            if len(begun) > scanner.ahead:
                yield self._assigned(*begun.popleft())
        for one in begun:
            yield self._assigned(*one)

    def _assigned(self, rows: Rows, ids: Ids, pending: Pending) -> Assigned:
        result = pending.result()
        label = np.ascontiguousarray(result.nn[:, 0])
        self.label[ids] = label
        return Assigned(rows, ids, label, result.sim[:, 0])


def step(centroids: Centroids, assignment: Assignment, stage: str = "clustering") -> Centroids:
    """One iteration: assign all rows, then move each centroid to the middle of its rows.

    A cluster without rows begins anew at the row that is farthest from its centroid, the next such
    cluster at the next row. Sums, counts, the farthest rows and the total could be gathered of each
    shard alone and merged in any order, exactly: shards would be the units here.
    """
    clusters, dim = centroids.rows.shape
    sums, counts = np.zeros((clusters, dim)), np.zeros(clusters, np.int64)
    farthest, total = Lowest(clusters, dim, np.float64), 0
    for some in assignment.to(centroids.rows, stage):
        add_to_sums(sums, some.rows, some.label, assignment.compute.threads)
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


def _exact_sum(sims: NDArray[np.float64]) -> int:
    """The sum in units of 2^-48, of which all scores are multiples; in two halves that fit."""
    units = np.ldexp(sims, 48).astype(np.int64)
    return (int((units >> 24).sum()) << 24) + int((units & 0xFFFFFF).sum())


class Lowest:
    """Holds at most `room` rows: those of the lowest keys, of equals those of the lowest ids."""

    def __init__(self, room: int, dim: int, dtype: Any) -> None:
        self._room = room
        self.keys = np.empty(0, dtype)
        self.ids = np.empty(0, np.int64)
        self.rows = np.empty((0, dim), np.float16)

    def add(self, keys: NDArray[Any], ids: NDArray[np.int64], rows: NDArray[np.float16]) -> None:
        """Look at some rows."""
        if len(self.keys) == self._room:
            able = keys <= self.keys[-1]
            keys, ids, rows = keys[able], ids[able], rows[able]
        if len(keys) > self._room:  # sorting takes longer than to find where to cut
            able = keys <= np.partition(keys, self._room - 1)[self._room - 1]
            keys, ids, rows = keys[able], ids[able], rows[able]
        if not len(keys):
            return
        keys, ids = np.concatenate([self.keys, keys]), np.concatenate([self.ids, ids])
        order = np.lexsort((ids, keys))[: self._room]
        held = len(self.keys)
        chosen = np.empty((len(order), rows.shape[1]), np.float16)
        old = order < held
        chosen[old], chosen[~old] = self.rows[order[old]], rows[order[~old] - held]
        self.keys, self.ids, self.rows = keys[order], ids[order], chosen


# --- the rows that it begins with


def choose_seeds(
    sample: NDArray[np.float16], clusters: int, seeding: str, seed: int, watch: Watch
) -> NDArray[np.float16]:
    """`clusters` rows of a sample that came in random order."""
    chosen = np.arange(clusters)
    if seeding == "kmeans++":
        chosen = _plus_plus(sample, clusters, seed, watch)
    return np.ascontiguousarray(sample[chosen])


def _plus_plus(
    sample: NDArray[np.float16], clusters: int, seed: int, watch: Watch
) -> NDArray[np.int64]:
    """Each seed is drawn in proportion to its squared distance from the nearest one before.

    Between unit vectors that is 2 - 2s. The scores are exact, in whatever order BLAS adds them up,
    so that every machine draws the same seeds.
    """
    random = np.random.default_rng([seed, 1])
    wide = sample.astype(np.float64)
    chosen = np.empty(clusters, np.int64)
    chosen[0] = random.integers(len(sample))
    distance = np.full(len(sample), np.inf)
    for i in range(1, clusters):
        watch.check()
        last = chosen[i - 1]
        distance = np.minimum(distance, np.maximum(0.0, 1.0 - wide @ wide[last]))
        distance[last] = 0.0
        sums = np.cumsum(distance)
        if sums[-1] > 0.0:
            at = np.searchsorted(sums, random.random() * sums[-1], side="right")
            chosen[i] = min(int(at), len(sample) - 1)
        else:  # all rows that are left are copies of seeds
            chosen[i] = np.setdiff1d(np.arange(len(sample)), chosen[:i])[0]
    return chosen
