"""From a store to decisions: rows get their cluster, and clusters are compared within."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from clipgap.dedup.compare import Comparison
from clipgap.dedup.decisions import Decision
from clipgap.dedup.rows import Ids, RowSource
from clipgap.dedup.settings import DedupSettings
from clipgap.machine import thread_count
from clipgap.runs.how import Progress
from clipgap.select.order import at_random

NONE = -1
"""Label of rows that belong to no cluster, because they are set aside."""

_LABELS_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Labels:
    """The cluster of each row of the store, and its similarity to the centroid."""

    label: NDArray[np.int32]
    sim: NDArray[np.float64]
    clusters: int

    def counts(self) -> NDArray[np.int64]:
        """Rows of each cluster."""
        counts = np.zeros(self.clusters, np.int64)
        for _, part in self._parts():
            counts += np.bincount(part[part != NONE], minlength=self.clusters)
        return counts

    def groups(self, room: int, begin: int = 0) -> Iterator[range]:
        """Consecutive clusters, from `begin` on, that have at most `room` rows together."""
        counts = self.counts()
        first, rows = begin, 0
        for cluster in range(begin, len(counts)):
            if rows and rows + counts[cluster] > room:
                yield range(first, cluster)
                first, rows = cluster, 0
            rows += int(counts[cluster])
        if first < len(counts):
            yield range(first, len(counts))

    def members(self, first: int, last: int) -> Ids:
        """The rows of the clusters first … last, ascending."""
        found = [np.empty(0, np.int64)]
        for start, part in self._parts():
            found.append(start + np.flatnonzero((part >= first) & (part < last)))
        return np.concatenate(found)

    def _parts(self) -> Iterator[tuple[int, NDArray[np.int32]]]:
        for start in range(0, len(self.label), _LABELS_AT_ONCE):
            yield start, self.label[start : start + _LABELS_AT_ONCE]


@dataclass(frozen=True)
class Deduplication:
    """Compares the rows of each cluster, as many clusters at a time as fit."""

    settings: DedupSettings
    labels: Labels
    source: RowSource
    comparison: Comparison
    room: int  # rows
    decide: Callable[[Ids], Decision]  # takes the rows of a cluster, in the keep order
    before: int = 0  # rows that an earlier run has compared
    began: float = field(default_factory=time.monotonic)

    def compare(self, group: range, done: int) -> tuple[Ids, NDArray[np.bool_]]:
        """The rows of a group and, for each epsilon, which of them are dropped.

        `done` rows were compared before, for the record.
        """
        ids = self.labels.members(group.start, group.stop)
        if len(ids) > self.room:
            return ids, self._compare_tiled(ids)
        label = self.labels.label[ids]
        order = self._keep_order(ids, label)
        rows = self.source.take(ids, _inverse(order), "gathering clusters")
        dropped = np.zeros((len(self.settings.limits), len(ids)), np.bool_)
        ends = np.cumsum(np.bincount(label - group.start, minlength=len(group))).tolist()
        clusters = list(pairwise([0, *ends]))

        def settle(comparison: Comparison, cluster: tuple[int, int]) -> int:
            start, end = cluster
            if end - start > 1:
                comparison.watch.check()
                decision = self.decide(ids[order[start:end]])
                comparison.settle(rows[start:end], 0, decision)
                dropped[:, order[start:end]] = ~decision.kept
            return end - start

        for compared in self._each(clusters, settle):
            done += compared
            self._report(done)
        return ids, dropped

    def _each(
        self,
        clusters: list[tuple[int, int]],
        settle: Callable[[Comparison, tuple[int, int]], int],
    ) -> Iterator[int]:
        """Settle many small clusters at once, each by one thread; large ones by all threads."""
        threads = thread_count(self.comparison.compute.threads)
        share = clusters[-1][1] / (2 * threads) if threads > 1 else 0
        for cluster in clusters:
            if cluster[1] - cluster[0] > share:
                yield settle(self.comparison, cluster)
        small = [cluster for cluster in clusters if cluster[1] - cluster[0] <= share]
        with ThreadPoolExecutor(threads, thread_name_prefix="clipgap-dedup") as pool:
            try:
                yield from pool.map(partial(settle, self.comparison.by_one_thread()), small)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _compare_tiled(self, ids: Ids) -> NDArray[np.bool_]:
        """A cluster that is larger than memory: each tile is settled, then shown all later rows."""
        n = len(ids)
        order = self._keep_order(ids, np.zeros(n, np.int32))
        place = _inverse(order)
        decision = self.decide(ids[order])
        for first in range(0, n, self.room):
            tile = order[first : first + self.room]
            ascending = np.argsort(tile)
            rows = self.source.take(ids[tile[ascending]], ascending, "gathering a large cluster")
            finder = self.comparison.settle(rows, first, decision)
            after = first + len(tile)
            waiting = np.zeros(n, np.bool_)
            waiting[decision.open(after, n)] = True
            if not waiting.any():
                continue
            for block, here in self.source.blocks("comparing a large cluster"):
                member = np.minimum(np.searchsorted(ids, here), n - 1)
                places = place[member]
                now = (ids[member] == here) & waiting[places]
                self.comparison.spread(finder, first, block[now], places[now], decision)
        return ~decision.kept[:, place]

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
        return np.lexsort((ids, key, label))

    def _report(self, rows: int) -> None:
        seconds = time.monotonic() - self.began
        total, before = self.source.store.rows, self.before
        self.comparison.watch.report(
            Progress(
                stage="comparing",
                works=True,
                done=rows,
                total=total,
                earlier=before,
                seconds=seconds,
            )
        )


def _inverse(order: NDArray[np.int64]) -> NDArray[np.int64]:
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return place
