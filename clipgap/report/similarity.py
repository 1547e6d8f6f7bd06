"""What the test points say: how near each training set comes to them."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.report.sources import Sources

NEAR_DUPLICATE = 0.95  # cosine distance below 0.05
NEAR_DUPLICATE_L2 = 0.99875  # Euclidean distance below 0.05: 1 - 0.05² / 2
HISTOGRAM_STEPS = 50  # bins to a similarity of 1


def test_sets(sources: Sources) -> Iterator[dict[str, Any]]:
    """Each test set with what every training set has near it."""
    for test in sources.tests:
        similarity = {one.name: one.similarity(test) for one in sources.having(test)}
        thresholds = sources.thresholds(test)
        if thresholds is not None:
            similarity.setdefault(*thresholds)
        yield {
            "name": test,
            "points": len(next(iter(similarity.values()))),
            "reference": None if thresholds is None else thresholds[0],
            "training": {
                name: _describe(values, None if thresholds is None else thresholds[1])
                for name, values in similarity.items()
            },
        }


def _describe(
    values: NDArray[np.float64], thresholds: NDArray[np.float64] | None
) -> dict[str, Any]:
    scored = values[~np.isnan(values)]
    found: dict[str, Any] = {
        "scored": len(scored),
        "mean": fmean(scored.tolist()) if len(scored) else None,
        "median": float(np.median(scored)) if len(scored) else None,
        "near_duplicates": int(np.count_nonzero(scored > NEAR_DUPLICATE)),
        "near_duplicates_l2": int(np.count_nonzero(scored > NEAR_DUPLICATE_L2)),
        "histogram": histogram(scored, HISTOGRAM_STEPS),
    }
    if thresholds is not None:
        # Of points that both have scores for; the reference itself is never nearer than itself.
        both = ~np.isnan(values) & ~np.isnan(thresholds)
        nearer = int(np.count_nonzero(values[both] > thresholds[both]))
        found["compared"] = int(np.count_nonzero(both))
        found["nearer"] = nearer
        found["nearer_share"] = nearer / found["compared"] if found["compared"] else None
    return found


def histogram(values: NDArray[np.float64], steps: int) -> list[dict[str, Any]]:
    """Counts in bins low <= value < high, `steps` of them to 1, from the first that has any."""
    if not len(values):
        return []
    bins = bin_of(values, steps)
    first = int(bins.min())
    counts = np.bincount(bins - first)
    return [
        {"low": (first + i) / steps, "high": (first + i + 1) / steps, "count": int(count)}
        for i, count in enumerate(counts)
    ]


def bin_of(values: NDArray[np.float64], steps: int) -> NDArray[np.int64]:
    """The number b of each value's bin: b / steps <= value < (b + 1) / steps, in float64."""
    bins = np.floor(values * steps).astype(np.int64)
    # The product may have been rounded over an edge; the edges themselves decide.
    bins -= values < bins / steps
    bins += values >= (bins + 1) / steps
    return bins
