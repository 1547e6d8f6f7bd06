"""How near: what the test points say of each training set, and of each embedding."""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.report.paper import printed, share
from clipgap.report.parts import Figure, Findings, Section, outlines, training_colours
from clipgap.report.sources import Sources
from clipgap.report.svg import Drawing, Entry, colour_of
from clipgap.report.tables import Cell, Column, Table

NEAR_DUPLICATE = 0.95  # cosine distance below 0.05
NEAR_DUPLICATE_L2 = 0.99875  # Euclidean distance below 0.05: 1 - 0.05² / 2
HISTOGRAM_STEPS = 50  # bins to a similarity of 1


def findings(sources: Sources) -> Findings:
    return {
        "tests": list(_by_test_set(sources)),
        "embeddings": list(_by_embedding(sources)),
    }


def _by_test_set(sources: Sources) -> Iterator[dict[str, Any]]:
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


def _by_embedding(sources: Sources) -> Iterator[dict[str, Any]]:
    """Spearman's rank correlation with the first scan, by test set and embedding."""
    for other in sources.embeddings:
        first = sources.scans[0]
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


def _test_sets(findings: Findings) -> Iterator[Table]:
    rows = []
    for test in findings["tests"]:
        known = printed(findings, "tests", test["name"])
        for name, found in test["training"].items():
            near = known.get("near_duplicates", {}).get(name)
            nearer = found.get("nearer_share") if name != test["reference"] else None
            rows.append(
                (
                    Cell(test["name"]),
                    Cell(name),
                    Cell(test["points"], paper=known.get("points")),
                    Cell(found["median"]),
                    Cell(found["near_duplicates"], paper=near),
                    Cell(found["near_duplicates_l2"]),
                    Cell(nearer, paper=share(known.get("nearer", {}).get(name))),
                )
            )
    yield Table(
        "test-sets",
        "Test sets and what lies near them",
        "Median similarity of a test point to its nearest training row; test points with a near "
        "duplicate by cosine distance (s > 0.95) and by Euclidean distance (s > 0.99875); share "
        "of test points that are nearer to the training set than to the reference.",
        (
            Column("test set"),
            Column("training set"),
            Column("points", "count"),
            Column("median s", "score"),
            Column("near duplicates", "count"),
            Column("by L2", "count"),
            Column("nearer than reference", "percent"),
        ),
        tuple(rows),
    )


def _embeddings(findings: Findings) -> Iterator[Table]:
    theirs = (findings["paper"] or {"rho": {}})["rho"]
    yield Table(
        "embeddings",
        "Choice of embedding",
        "Spearman's rank correlation between the similarities of test points to their nearest "
        "training rows, by two embeddings.",
        (
            Column("test set"),
            Column("first"),
            Column("second"),
            Column("points", "count"),
            Column("ρ", "score"),
        ),
        tuple(
            (
                Cell(row["test"]),
                Cell(row["first"]),
                Cell(row["second"]),
                Cell(row["points"]),
                Cell(row["rho"], paper=theirs.get(row["test"])),
            )
            for row in findings["embeddings"]
        ),
    )


def _similarity(findings: Findings) -> Iterator[Figure]:
    colours = training_colours(findings)
    drawings = []
    for test in findings["tests"]:
        series = {name: found for name, found in test["training"].items() if found["histogram"]}
        if series:
            drawings.append(_histogram(test["name"], series, colours))
    yield Figure(
        "similarity",
        "How near each training set comes",
        "Similarity of each test point to its nearest training row, as share of the test points "
        "in bins of 0.02. Dashed lines: medians.",
        drawings,
    )


def _similarity_by_embedding(findings: Findings) -> Iterator[Figure]:
    rows = findings["embeddings"]
    seconds = list(dict.fromkeys(row["second"] for row in rows))
    drawings = []
    for test in findings["tests"]:
        of_test = [row for row in rows if row["test"] == test["name"] and row["histogram"]]
        if not of_test:
            continue
        first = of_test[0]["first"]
        series = {first: test["training"][first], **{row["second"]: row for row in of_test}}
        colours = {name: colour_of(n) for n, name in enumerate([first, *seconds])}
        drawings.append(_histogram(test["name"], series, colours))
    yield Figure(
        "similarity-by-embedding",
        "Similarity by other embeddings",
        "Similarity of each test point to its nearest training row, by each embedding, in bins of "
        "0.02. Dashed lines: medians.",
        drawings,
    )


def _histogram(title: str, series: dict[str, Any], colours: dict[str, int]) -> Drawing:
    shares = {
        name: [(b["low"], b["high"], b["count"] / found["scored"]) for b in found["histogram"]]
        for name, found in series.items()
    }
    drawing = outlines(
        title,
        shares,
        [Entry(name, colours[name]) for name in series],
        "similarity of the nearest neighbour",
        "test points (%)",
        "of the test points",
    )
    for name, found in series.items():
        middle = found["median"]
        drawing.path([(middle, 0), (middle, drawing.y.high)], f"median s{colours[name]}")
    return drawing


HOW_NEAR = Section(
    "how-near",
    "How near",
    findings,
    (_similarity, _test_sets, _similarity_by_embedding, _embeddings),
)
