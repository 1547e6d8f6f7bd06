"""Deduplication in the plainest NumPy and Python: the definition, for the tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from clipgap.select.order import at_random


def kmeans(
    rows: NDArray[np.float16], seeds: NDArray[np.float16], iterations: int
) -> tuple[NDArray[np.float16], int]:
    """Spherical k-means; the centroids, and how many iterations it took."""
    centroids = seeds
    for iteration in range(1, iterations + 1):
        scores = rows.astype(np.float64) @ centroids.astype(np.float64).T
        label, best = scores.argmax(axis=1), scores.max(axis=1)
        farthest = iter(np.lexsort((np.arange(len(rows)), best)))
        moved = centroids.copy()
        for cluster in range(len(centroids)):
            mine = rows[label == cluster].astype(np.float64)
            if not len(mine):
                moved[cluster] = rows[next(farthest)]
                continue
            middle = mine.sum(axis=0)
            length = np.sqrt(np.sum(middle**2))
            if length:
                unit = middle / length if abs(length - 1) > 1e-3 else middle
                moved[cluster] = unit.astype(np.float16)
        if np.array_equal(moved, centroids):
            return centroids, iteration
        centroids = moved
    return centroids, iterations


def keep_order(ids: NDArray[np.int64], sim: NDArray[np.float64], keep: str, seed: int) -> list[int]:
    """Row numbers of one cluster, in the order in which they are to be kept."""
    key = {
        "first": lambda i: (ids[i],),
        "centroid-far": lambda i: (sim[i], ids[i]),
        "centroid-near": lambda i: (-sim[i], ids[i]),
        "random": lambda i: (at_random(ids[i : i + 1], seed)[0], ids[i]),
    }[keep]
    return [int(ids[i]) for i in sorted(range(len(ids)), key=key)]


Scores = Callable[[NDArray[np.float16]], NDArray[np.float64]]


def exact_scores(rows: NDArray[np.float16]) -> NDArray[np.float64]:
    scores: NDArray[np.float64] = rows.astype(np.float64) @ rows.astype(np.float64).T
    return scores


def kept_rows(
    rows: NDArray[np.float16], order: list[int], mode: str, epsilon: float, scores: Scores
) -> set[int]:
    """What one cluster keeps."""
    near = scores(rows[order]) > 1.0 - epsilon
    n = len(order)
    kept = [True] * n
    if mode == "components":
        group = list(range(n))
        for i in range(n):
            for j in range(i):
                if near[i, j] and group[i] != group[j]:
                    low, high = sorted((group[i], group[j]))
                    group = [low if g == high else g for g in group]
        kept = [group[i] == i for i in range(n)]
    else:
        for i in range(n):
            kept[i] = not any(near[i, j] and (mode == "chain" or kept[j]) for j in range(i))
    return {order[i] for i in range(n) if kept[i]}


def dedup(
    rows: NDArray[np.float16],
    labels: NDArray[np.int64],
    centroids: NDArray[np.float16] | None,
    *,
    mode: str,
    keep: str,
    epsilon: float,
    seed: int,
    scores: Scores = exact_scores,
) -> NDArray[np.bool_]:
    """Which rows stay; those labelled -1 never do."""
    mask = np.zeros(len(rows), bool)
    for cluster in set(labels.tolist()) - {-1}:
        ids = np.flatnonzero(labels == cluster)
        sim = np.zeros(len(ids))
        if centroids is not None:
            sim = rows[ids].astype(np.float64) @ centroids[cluster].astype(np.float64)
        order = keep_order(ids, sim, keep, seed)
        mask[list(kept_rows(rows, order, mode, epsilon, scores))] = True
    return mask
