"""The rules that a split can follow, as plain data, and how each comes to its decision.

A rule is made ready once, which may take passes over a column, and then decides block by block.
It only ever sees candidates: rows that have scores and lie within the given keep-list.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import reduce
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from clipgap.errors import InputError, UsageError
from clipgap.select.columns import Block, ScanTables
from clipgap.select.order import Cut, at_random, by_similarity, find_cut, similarity_of
from clipgap.select.sizes import Sizes
from clipgap.select.work import Workers

Choose = Callable[[Block], NDArray[np.bool_]]
"""Which candidates of a block are kept; to be asked for a shard's blocks in their order."""


@dataclass(frozen=True)
class Decision:
    """A rule made ready for the tables at hand."""

    columns: tuple[str, ...]
    shard: Callable[[int, Sizes], Choose]  # may count into the sizes of the shard
    sets: tuple[str, ...] = ()  # test sets whose removals are counted
    facts: Mapping[str, Any] = field(default_factory=dict)  # what it came to, for the manifest
    keys: bool = False  # whether it looks at keys


class Rule(Protocol):
    """What a split shall keep."""

    def ready(self, tables: ScanTables, workers: Workers) -> Decision:
        """Check the rule against the tables and find out what it takes to decide."""
        ...

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        ...


@dataclass(frozen=True)
class Prune:
    """Drop what is nearer to a point of any of these test sets than its threshold plus `offset`.

    With offset 0 the column `pruned` decides, which is exact. Any other offset is compared with the
    stored margin, which is the exact one rounded to float32: pruned ⇔ margin_NAME > offset.
    """

    sets: tuple[str, ...]
    offset: float = 0.0

    def ready(self, tables: ScanTables, workers: Workers) -> Decision:
        if not math.isfinite(self.offset):
            raise UsageError(f"the offset is {self.offset}; it must be a finite number")
        sets = tables.set_columns(self.sets, with_gap=True)
        columns = [names.margin if self.offset else names.pruned for names in sets]

        def shard(number: int, sizes: Sizes) -> Choose:
            def choose(block: Block) -> NDArray[np.bool_]:
                values = [block.among(block.values[name]) for name in columns]
                pruned = values
                if self.offset:
                    pruned = [exceeds(margin, self.offset) for margin in values]
                    nearest = np.float32(self.offset)
                    sizes.at_offset += [np.count_nonzero(margin == nearest) for margin in values]
                sizes.count_pruned(pruned)
                return ~reduce(np.logical_or, pruned)

            return choose

        return Decision(tuple(columns), shard, self.sets)

    def to_json(self) -> dict[str, Any]:
        return {"name": "prune", **_plain(self)}


@dataclass(frozen=True)
class Below:
    """Keep the rows whose similarity to every point of these test sets is at most `sim`.

    The stored similarity decides, which is the exact one rounded to float32.
    """

    sim: float
    by: tuple[str, ...]

    def ready(self, tables: ScanTables, workers: Workers) -> Decision:
        if not -1 <= self.sim <= 1:
            raise UsageError(f"the similarity is {self.sim}; it must lie between -1 and 1")
        columns = tuple(names.sim for names in tables.set_columns(self.by))
        nearest = np.float32(self.sim)

        def shard(number: int, sizes: Sizes) -> Choose:
            def choose(block: Block) -> NDArray[np.bool_]:
                values = [block.among(block.values[name]) for name in columns]
                above = [exceeds(sim, self.sim) for sim in values]
                sizes.at_offset += [np.count_nonzero(sim == nearest) for sim in values]
                sizes.count_pruned(above)
                return ~reduce(np.logical_or, above)

            return choose

        return Decision(columns, shard, self.by)

    def to_json(self) -> dict[str, Any]:
        return {"name": "below", **_plain(self)}


@dataclass(frozen=True)
class Far:
    """Keep the n rows that are most similar to the test sets: the least similar are pruned away.

    Similarity is the highest `sim` over the test sets; among equals the lower id comes first.
    """

    n: int
    by: tuple[str, ...]
    name: str = "far"

    def ready(self, tables: ScanTables, workers: Workers) -> Decision:
        return _ranked(tables, workers, self.by, self.n, first=True)

    def to_json(self) -> dict[str, Any]:
        return _plain(self)


@dataclass(frozen=True)
class Core(Far):
    """`Far` over several test sets at once: the core set."""

    name: str = "core"


@dataclass(frozen=True)
class Near:
    """Keep the n rows that are least similar to the test sets: the most similar are pruned away."""

    n: int
    by: tuple[str, ...]
    name: str = "near"

    def ready(self, tables: ScanTables, workers: Workers) -> Decision:
        return _ranked(tables, workers, self.by, self.n, first=False)

    def to_json(self) -> dict[str, Any]:
        return _plain(self)


@dataclass(frozen=True)
class Rand:
    """Keep n rows at random. The same seed and store give the same rows."""

    n: int
    seed: int = 0

    def ready(self, tables: ScanTables, workers: Workers) -> Decision:
        _require_enough(tables, workers, self.n)
        offsets = tables.offsets

        def rank(block: Block, shard: int) -> NDArray[np.uint32]:
            first = offsets[shard] + block.start
            return at_random(block.among(np.arange(first, first + block.rows)), self.seed)

        def ranks(shard: int) -> Iterator[NDArray[np.uint32]]:
            return (rank(block, shard) for block in tables.blocks(shard, ()))

        cut = find_cut(ranks, self.n, workers)

        def shard_(number: int, sizes: Sizes) -> Choose:
            first = cut.first(number)
            return lambda block: first(rank(block, number))

        return Decision((), shard_)

    def to_json(self) -> dict[str, Any]:
        return {"name": "rand", **_plain(self)}


def exceeds(stored: NDArray[np.float32], limit: float) -> NDArray[np.bool_]:
    """Whether stored margins or scores exceed a limit, compared as the real numbers they are."""
    with np.errstate(over="ignore"):
        below = np.float32(limit)
    if float(below) > limit:
        below = np.nextafter(below, np.float32(-np.inf))
    # `below` is the largest float32 that is not above the limit.
    above: NDArray[np.bool_] = stored > below
    return above


def similarity(block: Block, columns: tuple[str, ...]) -> NDArray[np.float32]:
    """The highest similarity of each candidate over the named columns."""
    return reduce(np.maximum, (block.among(block.values[name]) for name in columns))


def _ranked(
    tables: ScanTables, workers: Workers, by: tuple[str, ...], n: int, *, first: bool
) -> Decision:
    columns = tuple(names.sim for names in tables.set_columns(by))
    candidates = _require_enough(tables, workers, n)

    def ranks(shard: int) -> Iterator[NDArray[np.uint32]]:
        for block in tables.blocks(shard, columns):
            workers.check()
            yield by_similarity(similarity(block, columns))

    cut = find_cut(ranks, n if first else candidates - n, workers)

    def shard_(number: int, sizes: Sizes) -> Choose:
        among_first = cut.first(number)

        def choose(block: Block) -> NDArray[np.bool_]:
            chosen = among_first(by_similarity(similarity(block, columns)))
            return chosen if first else ~chosen

        return choose

    return Decision(columns, shard_, facts=_facts(cut))


def _facts(cut: Cut) -> dict[str, Any]:
    """Where the order was cut; nothing to say of a cut before the first row."""
    if not cut.equals:
        return {}
    return {"cut": {"sim": similarity_of(cut.rank), "equals": cut.equals, "above": cut.taken}}


def _require_enough(tables: ScanTables, workers: Workers, n: int) -> int:
    """How many candidates there are; refuses to keep more than that."""
    if n < 0:
        raise UsageError(f"cannot keep {n:,} rows; give a number from 0")
    if tables.within is None:
        candidates = tables.rows - tables.quarantined
    else:
        candidates = sum(workers.each("counting", tables.candidates))
    if n > candidates:
        where = "" if tables.within is None else f" and lie within {tables.within.path}"
        raise InputError(
            f"cannot keep {n:,} rows: of {tables.rows:,} rows, {candidates:,} have scores{where}"
        )
    return candidates


def _plain(rule: Any) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(rule).items()
    }
