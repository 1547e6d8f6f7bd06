"""Which rows go, decided from pairs that are too near, for several limits at once.

Rows are known by their place in the keep order of their cluster. Blocks of rows are settled in that
order; pairs between a settled block and later rows may then come in any order, and none is needed
twice, so that no pair is ever held.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from clipgap.kernels.pairs import Pairs

Places = NDArray[np.int64]


class Decision(Protocol):
    """The rows of one cluster. In pairs `column` comes before `row` in the keep order."""

    @property
    def kept(self) -> NDArray[np.bool_]:
        """(limits, n); final for a place once all blocks up to it are settled and spread."""
        ...

    def settle(self, first: int, last: int, pairs: Pairs) -> None:
        """Decide the rows first … last, from the pairs among them."""
        ...

    def spread(self, pairs: Pairs) -> None:
        """What settled rows mean for later ones."""
        ...

    def open(self, first: int, last: int) -> Places:
        """Rows for which a pair could still change something."""
        ...

    def matters(self, first: int, last: int) -> bool:
        """Whether rows first … last, once settled, can change anything for later ones."""
        ...


class _Dropping:
    """What greedy and chain have in common: rows are kept until a pair drops them."""

    def __init__(self, n: int, limits: Sequence[float]) -> None:
        self._limits = limits
        self.kept = np.ones((len(limits), n), np.bool_)

    def open(self, first: int, last: int) -> Places:
        return first + np.flatnonzero(self.kept[:, first:last].any(axis=0))


class Greedy(_Dropping):
    """A row is dropped if a row that is kept comes before it and is too near."""

    def settle(self, first: int, last: int, pairs: Pairs) -> None:
        for kept, limit in zip(self.kept, self._limits, strict=True):
            near = pairs.score > limit
            later, earlier = pairs.row[near], pairs.column[near]
            # In each round, who has no undecided row before it is kept and drops what is after it.
            while True:
                undecided = kept[later] & kept[earlier]
                later, earlier = later[undecided], earlier[undecided]
                if not len(later):
                    break
                waiting = np.zeros(last - first, np.bool_)
                waiting[later - first] = True
                kept[later[~waiting[earlier - first]]] = False

    def spread(self, pairs: Pairs) -> None:
        for kept, limit in zip(self.kept, self._limits, strict=True):
            kept[pairs.row[(pairs.score > limit) & kept[pairs.column]]] = False

    def matters(self, first: int, last: int) -> bool:
        return bool(self.kept[:, first:last].any())


class Chain(_Dropping):
    """A row is dropped if any row comes before it and is too near, itself dropped or not."""

    def settle(self, first: int, last: int, pairs: Pairs) -> None:
        self.spread(pairs)

    def spread(self, pairs: Pairs) -> None:
        for kept, limit in zip(self.kept, self._limits, strict=True):
            kept[pairs.row[pairs.score > limit]] = False

    def matters(self, first: int, last: int) -> bool:
        return True


class Components:
    """Of all rows that pairs connect, however far around, the first is kept."""

    def __init__(self, n: int, limits: Sequence[float]) -> None:
        self._limits = limits
        self._parent = np.tile(np.arange(n), (len(limits), 1))

    @property
    def kept(self) -> NDArray[np.bool_]:
        kept: NDArray[np.bool_] = self._parent == np.arange(self._parent.shape[1])
        return kept

    def settle(self, first: int, last: int, pairs: Pairs) -> None:
        self.spread(pairs)

    def spread(self, pairs: Pairs) -> None:
        for parent, limit in zip(self._parent, self._limits, strict=True):
            near = pairs.score > limit
            _unite(parent, pairs.row[near], pairs.column[near])

    def open(self, first: int, last: int) -> Places:
        return np.arange(first, last)

    def matters(self, first: int, last: int) -> bool:
        return True


class Tainted(Components):
    """Of all rows that pairs connect none is kept if one of them is tainted, or else all are."""

    def __init__(self, n: int, limits: Sequence[float], tainted: NDArray[np.bool_]) -> None:
        super().__init__(n, limits)
        self._tainted = tainted

    @property
    def kept(self) -> NDArray[np.bool_]:
        kept = np.empty(self._parent.shape, np.bool_)
        for parent, mine in zip(self._parent, kept, strict=True):
            root = _roots(parent, np.arange(len(parent)))
            goes = np.zeros(len(parent), np.bool_)
            goes[root[self._tainted]] = True
            mine[:] = ~goes[root]
        return kept


def make_decision(
    mode: str, n: int, limits: Sequence[float], tainted: NDArray[np.bool_] | None = None
) -> Decision:
    if tainted is not None:
        return Tainted(n, limits, tainted)
    made: dict[str, type[Greedy] | type[Chain] | type[Components]] = {
        "greedy": Greedy,
        "chain": Chain,
        "components": Components,
    }
    return made[mode](n, limits)


def _unite(parent: Places, a: Places, b: Places) -> None:
    """Join the trees of each pair; a tree hangs from its lowest place."""
    while len(a):
        a, b = _roots(parent, a), _roots(parent, b)
        apart = a != b
        a, b = a[apart], b[apart]
        # Of several trees that one could hang from, the lowest; the others meet it next time.
        np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))


def _roots(parent: Places, at: Places) -> Places:
    while True:
        above = parent[at]
        higher = parent[above]
        if np.array_equal(above, higher):
            return above
        parent[at] = higher  # halves the way for whoever comes next
        at = above
