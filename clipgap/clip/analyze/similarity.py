"""How alike two representations are: CKA, shared neurons, shared circuits. All in float64.

Classes are what is drawn again for intervals. A sum over classes that have to differ stays one: a
class that was drawn twice weighs more, but is never paired with itself, which would look like
agreement.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from clipgap.intervals import LEVEL

Matrix = NDArray[np.float64]

LEAST_CLASSES = 4
"""Of which an unbiased HSIC can be made: it is a mean over quadruples."""

SHARE = 0.1
"""Of the neurons of a block, those that are called its top."""

_ROUNDING = 1e-12
"""What lies below this share of the largest value may be nothing but rounding."""


def linear_kernel(rows: Matrix) -> Matrix:
    """Products of all rows; the mean, which no result depends on, is taken away first."""
    centred = rows - rows.mean(axis=0)
    products: Matrix = centred @ centred.T
    return products


def rbf_kernel(rows: Matrix) -> Matrix:
    """exp(-d²/2σ²), where σ² is the median of the squared distances that are not zero."""
    products = linear_kernel(rows)
    lengths = np.diag(products)
    squares = np.maximum(lengths[:, None] + lengths - 2 * products, 0.0)
    squares[squares <= _ROUNDING * squares.max()] = 0.0
    some = squares[squares > 0]
    return np.exp(-squares / (2 * np.median(some))) if some.size else np.ones_like(squares)


KERNELS = {"linear": linear_kernel, "rbf": rbf_kernel}


def hsic(first: Matrix, second: Matrix, weights: Matrix) -> Matrix:
    """The unbiased HSIC of two kernels of n classes, times the number of quadruples of them.

    A sum over all classes i, j, q, r that differ, of K_ij L_ij + K_ij L_qr - 2 K_ij L_iq. Each
    column of `weights` gives one: there class i counts w_i times. With all weights 1 it is the
    estimator of Song et al. (2012), times n(n-1)(n-2)(n-3).
    """
    k, m = (matrix - np.diag(np.diag(matrix)) for matrix in (first, second))
    both = k * m
    w, w2, w3 = weights, weights**2, weights**3
    total, squares = w.sum(axis=0), w2.sum(axis=0)
    k1, m1, b1 = k @ w, m @ w, both @ w
    k2, m2 = k @ w2, m @ w2
    b11, b21, b31 = ((each * b1).sum(axis=0) for each in (w, w2, w3))
    b22 = (w2 * (both @ w2)).sum(axis=0)
    same = (total**2 - squares) * b11 - 4 * total * b21 + 4 * b31 + 2 * b22
    apart = (w * k1).sum(axis=0) * (w * m1).sum(axis=0)
    apart += 2 * b22 - 4 * (w2 * k1 * m1).sum(axis=0)
    one = (w * ((total - w) * k1 * m1 - k2 * m1 - k1 * m2)).sum(axis=0)
    one += b22 + 2 * b31 - total * b21
    found: Matrix = same + apart - 2 * one
    return found


def cka(first: Matrix, second: Matrix, weights: Matrix) -> Matrix:
    """The CKA of two kernels for each column of weights; NaN where there is none.

    That is where fewer than four classes have a weight, or where a kernel does not vary.
    """
    first, second = (k / max(float(np.abs(k).max()), np.finfo(float).tiny) for k in (first, second))
    own, other = (hsic(k, k, weights) for k in (first, second))
    least = _ROUNDING * weights.sum(axis=0) ** 4
    good = (own > least) & (other > least) & (np.count_nonzero(weights, axis=0) >= LEAST_CLASSES)
    size = np.sqrt(np.where(good, own * other, 1.0))
    return np.where(good, hsic(first, second, weights) / size, np.nan)


def draws(classes: int, count: int, seed: int) -> Matrix:
    """How often each class is drawn: once in the first column, at random in the others."""
    chance = np.random.default_rng(seed)
    drawn = chance.multinomial(classes, np.full(classes, 1 / classes), size=count)
    found: Matrix = np.vstack([np.ones((1, classes)), drawn]).T.copy()
    return found


def interval(values: Matrix) -> dict[str, float | None]:
    """The first value, and the percentiles of those others that there are."""
    others = values[1:][~np.isnan(values[1:])]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(others, [tail, 1 - tail]).tolist() if others.size else (None, None)
    value = float(values[0])
    return {"value": None if math.isnan(value) else value, "low": low, "high": high}


def mean_interval(values: Matrix, weights: Matrix) -> dict[str, float | None]:
    """The mean over classes, with its interval."""
    return interval(values @ weights / weights.sum(axis=0))


# --- sets of neurons


def top(effects: Matrix, share: float) -> NDArray[np.bool_]:
    """In each row the strongest share, rounded up, by absolute value; of equals the first ones."""
    found = np.zeros(effects.shape, np.bool_)
    places = strongest(effects, math.ceil(share * effects.shape[1]))
    np.put_along_axis(found, places, True, axis=1)
    return found


def strongest(effects: Matrix, count: int) -> NDArray[np.int64]:
    """In each row the places of the strongest by absolute value; of equals the first ones."""
    return np.argsort(-np.abs(effects), axis=1, kind="stable")[:, :count]


def jaccard(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Matrix:
    """Of each row: what is in both, as a share of what is in either."""
    found: Matrix = (first & second).sum(axis=1) / (first | second).sum(axis=1)
    return found


@cache
def chance_jaccard(size: int, count: int) -> float:
    """What is to be expected of two sets of `count` out of `size` that have nothing in common.

    The mean over the hypergeometric distribution of what they share: for a tenth of many about
    0.1/1.9 = 0.053, of few more.
    """
    total = math.comb(size, count)
    return math.fsum(
        math.comb(count, both)
        * math.comb(size - count, count - both)
        / total
        * (both / (2 * count - both))
        for both in range(count + 1)
    )


# --- circuits: neurons and what leads from one to another


@dataclass(frozen=True)
class Graph:
    """Nodes, and directed edges between them."""

    nodes: Sequence[Hashable]
    edges: Sequence[tuple[Hashable, Hashable]]


def weisfeiler_lehman(first: Graph, second: Graph, rounds: int) -> list[float]:
    """The normalised subtree kernel of two graphs, after each of so many rounds.

    A node is first called as it is, then by its own name and those of the nodes that lead to it,
    and that it leads to. Names that both graphs have are counted, over all rounds so far.
    """
    numbers: dict[Hashable, int] = {}
    graphs = (first, second)
    called: list[dict[Hashable, int]] = [
        {node: numbers.setdefault(node, len(numbers)) for node in graph.nodes} for graph in graphs
    ]
    cross = own = other = 0
    found = []
    for turn in range(rounds + 1):
        one, two = (Counter(names.values()) for names in called)
        cross += sum(count * two[name] for name, count in one.items())
        own += sum(count**2 for count in one.values())
        other += sum(count**2 for count in two.values())
        if turn:
            found.append(cross / math.sqrt(own * other))
        called = [_called(*each, numbers) for each in zip(graphs, called, strict=True)]
    return found


def _called(
    graph: Graph, names: Mapping[Hashable, int], numbers: dict[Hashable, int]
) -> dict[Hashable, int]:
    """The next names of a graph's nodes, as numbers."""
    before: dict[Hashable, list[int]] = {node: [] for node in graph.nodes}
    behind: dict[Hashable, list[int]] = {node: [] for node in graph.nodes}
    for source, target in graph.edges:
        before[target].append(names[source])
        behind[source].append(names[target])
    found = {}
    for node in graph.nodes:
        name = (names[node], tuple(sorted(before[node])), tuple(sorted(behind[node])))
        found[node] = numbers.setdefault(name, len(numbers))
    return found
