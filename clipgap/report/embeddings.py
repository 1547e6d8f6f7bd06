"""What another embedding says: whether test points are near in the same order."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.report.similarity import HISTOGRAM_STEPS, histogram
from clipgap.report.sources import Sources


def embedding_findings(sources: Sources) -> Iterator[dict[str, Any]]:
    """Spearman's rank correlation with the first scan, by test set and embedding."""
    first = sources.scans[0]
    for other in sources.embeddings:
        for test in other.scan.test_names:
            if test not in first.scan.test_names:
                continue
            ours, theirs = first.similarity(test), other.similarity(test)
            both = ~np.isnan(ours) & ~np.isnan(theirs)
            scored = theirs[~np.isnan(theirs)]
            yield {
                "test": test,
                "first": first.name,
                "second": other.name,
                "points": int(np.count_nonzero(both)),
                "rho": spearman(ours[both], theirs[both]),
                "scored": len(scored),
                "median": float(np.median(scored)) if len(scored) else None,
                "histogram": histogram(scored, HISTOGRAM_STEPS),
            }


def spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> float | None:
    """The correlation of ranks, equal values sharing theirs; None where all values are equal."""
    a, b = _ranks(first), _ranks(second)
    # Whole numbers, so that the sums are exact up to a million points.
    product, squares = int(a @ b), int(a @ a) * int(b @ b)
    return product / math.sqrt(squares) if squares else None


def _ranks(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Twice the rank of each value, counted from the middle."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((2 * ends - counts + 1 - (len(values) + 1))[places], np.int64)
