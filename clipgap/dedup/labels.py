"""Which cluster each row of a store belongs to, and how near its centroid is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.dedup.rows import Ids
from clipgap.runs.lock import PROGRESS

LABELS, SIMS = f"{PROGRESS}/labels.npy", f"{PROGRESS}/sims.npy"

NONE = -1
"""Label of rows that belong to no cluster, because they are set aside."""

_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Labels:
    """The cluster of each row of the store, and its similarity to the centroid."""

    label: NDArray[np.int32]
    sim: NDArray[np.float64]  # without any entry where there is but one cluster, of all rows
    clusters: int
    folder: Path | None = None  # that has them as files, for a copy of this elsewhere

    @classmethod
    def open(cls, folder: Path, clusters: int) -> Labels:
        """Those that lie in the work folder of a run."""
        label, sim = (np.load(folder / name, mmap_mode="r") for name in (LABELS, SIMS))
        return cls(label, sim, clusters, folder)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.folder is None:
            raise TypeError("labels in memory stay in this process")
        return Labels.open, (self.folder, self.clusters)

    def counts(self) -> NDArray[np.int64]:
        """Rows of each cluster."""
        counts = np.zeros(self.clusters, np.int64)
        for _, part in self._parts():
            counts += np.bincount(part[part != NONE], minlength=self.clusters)
        return counts

    def groups(self, room: int, done: Iterable[range] = ()) -> Iterator[range]:
        """Consecutive clusters that have at most `room` rows together, of those not yet done."""
        counts = self.counts()
        left = np.ones(len(counts), np.bool_)
        for clusters in done:
            left[clusters.start : clusters.stop] = False
        first, rows = 0, 0
        for cluster, more in enumerate(counts.tolist()):
            if first < cluster and (not left[cluster] or (rows and rows + more > room)):
                yield range(first, cluster)
                first, rows = cluster, 0
            if left[cluster]:
                rows += more
            else:
                first = cluster + 1
        if first < len(counts):
            yield range(first, len(counts))

    def members(self, clusters: range) -> Ids:
        """The rows of some clusters, ascending."""
        found = [np.empty(0, np.int64)]
        for start, part in self._parts():
            inside = (part >= clusters.start) & (part < clusters.stop)
            found.append(start + np.flatnonzero(inside))
        return np.concatenate(found)

    def _parts(self) -> Iterator[tuple[int, NDArray[np.int32]]]:
        for start in range(0, len(self.label), _AT_ONCE):
            yield start, self.label[start : start + _AT_ONCE]
