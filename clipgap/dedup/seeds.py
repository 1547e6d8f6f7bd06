"""The centroids that k-means begins with, chosen among a sample of rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from clipgap.dedup.rows import Watch


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
