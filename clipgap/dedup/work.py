"""Clusters compared within: the units, the work, and how the rows of one cluster are compared.

A unit is a range of clusters, and what comes of it are the rows that are dropped. Who else does it,
how often and in which order does not matter, since dropping a row twice drops it. Rows of a cluster
are compared in tiles that fit into memory, in the keep order; most clusters are one tile. What a
tile means for the rest of its cluster is found by reading the rest past it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.dedup.decisions import Decision, Places, make_decision
from clipgap.dedup.labels import Labels
from clipgap.dedup.plan import DedupSettings
from clipgap.dedup.rows import Ids, Rows, RowSource, Watch
from clipgap.errors import Interrupted
from clipgap.files.atomic import write_atomic
from clipgap.files.sums import Hashed
from clipgap.kernels.options import Compute
from clipgap.kernels.pairs import PairFinder, Pairs, joined, make_finder
from clipgap.runs.lock import PROGRESS
from clipgap.runs.units import Event, Made, Slot, Step
from clipgap.select.order import at_random

DROPPED = f"{PROGRESS}/dropped"
"""Where the files of units lie: the number of an epsilon and a row that it drops, in columns."""

BLOCK = 1024
"""Rows that are settled together. Larger blocks waste more of the comparisons within a block,
smaller ones are prepared more often."""

_AT_ONCE = 16_384

Dropped = NDArray[np.int64]


@dataclass(frozen=True)
class Clusters:
    """The unit: clusters that are done together."""

    start: int
    stop: int
    size: int = 1  # rows

    @property
    def name(self) -> str:
        return f"clusters-{self.start}-{self.stop}"


@dataclass(frozen=True)
class CompareWork:
    """Compares the rows of each cluster, those of a unit in one pass over the store.

    `memory` is what rows may take, of each worker. `decide` takes the rows of a cluster in the keep
    order; None: by the mode of the settings. `find` makes what finds pairs.
    """

    settings: DedupSettings
    source: RowSource
    labels: Labels
    compute: Compute
    memory: int  # bytes
    folder: Path | None  # takes what is dropped; None: records hold it
    decide: Callable[[Ids], Decision] | None = None
    find: Callable[[Rows, int, Compute], PairFinder] = make_finder

    @property
    def room(self) -> int:
        """Rows that fit: each as found, as a column of the filter, and on the way there."""
        return max(1, self.memory // (8 * self.source.store.dim + 64))

    def do(self, units: Iterable[Clusters], slot: Slot) -> Iterator[Event]:
        """A step for each cluster, and for each block of a pass over the store."""
        here = replace(
            self,
            source=replace(self.source, watch=Watch(stop=slot.stop)),
            compute=replace(self.compute, threads=slot.cores),
        )
        try:
            for unit in units:
                ids, dropped = yield from here.compare(range(unit.start, unit.stop))
                number, column = np.nonzero(dropped)
                record = self._record(unit, np.stack([number, ids[column]]))
                yield Made({unit.name: record}, worker=slot.number)
        except Interrupted:
            return  # as the slot has asked

    def compare(self, clusters: range) -> Generator[Step, None, tuple[Ids, NDArray[np.bool_]]]:
        """The rows of some clusters and, for each epsilon, which of them are dropped."""
        ids = self.labels.members(clusters)
        if len(ids) > self.room:
            return ids, (yield from self._compare_tiled(ids))
        label = self.labels.label[ids]
        order = self._keep_order(ids, label)
        rows = yield from self._gather(ids, _inverse(order), "gathering clusters")
        dropped = np.zeros((len(self.settings.limits), len(ids)), np.bool_)
        ends = np.cumsum(np.bincount(label - clusters.start, minlength=len(clusters))).tolist()

        def settle(comparison: Comparison, cluster: tuple[int, int]) -> int:
            start, end = cluster
            if end - start > 1:
                comparison.watch.check()
                decision = self._decision(ids[order[start:end]])
                comparison.settle(rows[start:end], 0, decision)
                dropped[:, order[start:end]] = ~decision.kept
            return end - start

        for compared in self._each(list(pairwise([0, *ends])), settle):
            yield Step(compared)
        return ids, dropped

    def _each(
        self,
        clusters: list[tuple[int, int]],
        settle: Callable[[Comparison, tuple[int, int]], int],
    ) -> Iterator[int]:
        """Settle many small clusters at once, each by one thread; large ones by all threads."""
        threads = self.compute.threads or 1
        share = clusters[-1][1] / (2 * threads) if threads > 1 else 0
        for cluster in clusters:
            if cluster[1] - cluster[0] > share:
                yield settle(self._comparison, cluster)
        small = [cluster for cluster in clusters if cluster[1] - cluster[0] <= share]
        with ThreadPoolExecutor(threads, thread_name_prefix="clipgap-dedup") as pool:
            try:
                yield from pool.map(partial(settle, self._comparison.by_one_thread()), small)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _compare_tiled(self, ids: Ids) -> Generator[Step, None, NDArray[np.bool_]]:
        """A cluster that is larger than memory: each tile is settled, then shown all later rows."""
        n, comparison = len(ids), self._comparison
        order = self._keep_order(ids, np.zeros(n, np.int32))
        place = _inverse(order)
        decision = self._decision(ids[order])
        for first in range(0, n, self.room):
            tile = order[first : first + self.room]
            ascending = np.argsort(tile)
            rows = yield from self._gather(
                ids[tile[ascending]], ascending, "gathering a large cluster"
            )
            finder = comparison.settle(rows, first, decision)
            after = first + len(tile)
            waiting = np.zeros(n, np.bool_)
            waiting[decision.open(after, n)] = True
            if waiting.any():
                step = _steps("comparing a large cluster")
                for block, here, last in self.source.read():
                    member = np.minimum(np.searchsorted(ids, here), n - 1)
                    places = place[member]
                    now = (ids[member] == here) & waiting[places]
                    comparison.spread(finder, first, block[now], places[now], decision)
                    yield step(last)
            yield Step(len(tile))
        return ~decision.kept[:, place]

    def _gather(
        self, ids: Ids, place: NDArray[np.int64], stage: str
    ) -> Generator[Step, None, Rows]:
        """Some rows, given by ascending ids, each at its place among them."""
        rows, step = np.empty((len(ids), self.source.store.dim), np.float16), _steps(stage)
        for last in self.source.fill(rows, ids, place):
            yield step(last)
        return rows

    def _keep_order(self, ids: Ids, label: NDArray[np.int32]) -> NDArray[np.int64]:
        """Positions in `ids`, cluster by cluster, those to be kept first."""
        keep = self.settings.options.keep
        if keep == "first":
            return np.argsort(label, kind="stable")
        key: NDArray[np.float64] | NDArray[np.uint32]
        if keep == "random":
            key = at_random(ids, self.settings.options.seed)
        else:
            sim = self.labels.sim[ids]
            key = sim if keep == "centroid-far" else -sim
            if keep == "centroid-far" and self.settings.options.ties == "curator":
                return np.lexsort((-ids, key, label))
        return np.lexsort((ids, key, label))

    def _decision(self, ids: Ids) -> Decision:
        if self.decide is not None:
            return self.decide(ids)
        tainted = self.settings.tainted
        mine = None if tainted is None else tainted[ids]
        return make_decision(self.settings.options.mode, len(ids), self.settings.limits, mine)

    @property
    def _comparison(self) -> Comparison:
        return Comparison(
            min(self.settings.limits), self.compute, self.source.watch, find=self.find
        )

    def _record(self, unit: Clusters, dropped: Dropped) -> dict[str, Any]:
        """What the ledger keeps of a unit."""
        record: dict[str, Any] = {"clusters": [unit.start, unit.stop]}
        if self.folder is None:
            return {**record, "dropped": dropped}
        name = f"{DROPPED}/{unit.name}.npy"
        path = self.folder / name
        with write_atomic(path) as temporary, temporary.open("wb") as file:
            hashed = Hashed(file)
            np.lib.format.write_array(hashed, dropped, allow_pickle=False)
        return {**record, "files": {name: asdict(hashed.sum)}}


def load_dropped(folder: Path | None, record: Mapping[str, Any]) -> Dropped:
    """What a unit drops, from its record."""
    if folder is None:
        held: Dropped = record["dropped"]
        return held
    (name,) = record["files"]
    dropped: Dropped = np.load(folder / name)
    return dropped


def _steps(stage: str) -> Callable[[int], Step]:
    """Makes the steps of a pass over the store, by how many of its rows have passed.

    They count no work, and say what there is to report meanwhile.
    """
    began = time.monotonic()

    def step(rows: int) -> Step:
        return Step(0, {"stage": stage, "done": rows, "seconds": time.monotonic() - began})

    return step


def _inverse(order: NDArray[np.int64]) -> NDArray[np.int64]:
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return place


# --- the rows of one tile


@dataclass(frozen=True)
class Comparison:
    """How to compare: but for what finds the pairs, nothing here changes a result."""

    limit: float  # the lowest of all: nothing at or below it matters
    compute: Compute
    watch: Watch
    block: int = BLOCK
    find: Callable[[Rows, int, Compute], PairFinder] = make_finder

    def by_one_thread(self) -> Comparison:
        """The same, for comparing several clusters at once."""
        return replace(self, compute=replace(self.compute, threads=1))

    def settle(self, rows: Rows, first: int, decision: Decision) -> PairFinder:
        """Settle the rows of a tile, which begins at place `first` of the keep order."""
        finder = self.find(rows, self.block, self.compute)
        stop = first + len(rows)
        for block, (start, end) in enumerate(pairwise(finder.starts)):
            decision.settle(
                first + start, first + end, self._within(finder, block, first, rows, decision)
            )
            if end < len(rows) and decision.matters(first + start, first + end):
                places = decision.open(first + end, stop)
                self._spread(finder, block, first, rows, places - first, places, decision)
        return finder

    def spread(
        self, finder: PairFinder, first: int, rows: Rows, places: Places, decision: Decision
    ) -> None:
        """Show a settled tile some later rows."""
        every = np.arange(len(rows))
        for block, (start, end) in enumerate(pairwise(finder.starts)):
            if decision.matters(first + start, first + end):
                self._spread(finder, block, first, rows, every, places, decision)

    def _spread(
        self,
        finder: PairFinder,
        block: int,
        first: int,
        rows: Rows,
        at: NDArray[np.int64],
        places: Places,
        decision: Decision,
    ) -> None:
        """Show a settled block of a tile the later rows `at`, which have these places."""
        for start in range(0, len(at), _AT_ONCE):
            self.watch.check()
            part = slice(start, start + _AT_ONCE)
            for pairs in self._pairs(finder, block, first, rows[at[part]], places[part]):
                decision.spread(pairs)

    def _within(
        self, finder: PairFinder, block: int, first: int, rows: Rows, decision: Decision
    ) -> Pairs:
        """The pairs among the rows of a block, as far as they can matter."""
        start, end = finder.starts[block : block + 2]
        places = decision.open(first + start, first + end)
        if len(places) == end - start:
            pairs = finder.among(block, self.limit)
            return Pairs(pairs.row + first, pairs.column + first, pairs.score)
        pairs = joined(list(self._pairs(finder, block, first, rows[places - first], places)))
        return pairs.where(pairs.row > pairs.column)

    def _pairs(
        self, finder: PairFinder, block: int, first: int, rows: Rows, places: Places
    ) -> Iterator[Pairs]:
        """The pairs with a block, by places in the keep order."""
        for pairs in finder.find(rows, block, self.limit):
            yield Pairs(places[pairs.row], pairs.column + first, pairs.score)
