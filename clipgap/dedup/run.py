"""The steps of a deduplication, each kept when it is done: seeds, iterations, labels, decisions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.dedup.audit import audit
from clipgap.dedup.clusters import NONE, Deduplication, Labels
from clipgap.dedup.compare import Comparison
from clipgap.dedup.decisions import Decision, make_decision
from clipgap.dedup.kmeans import Centroids, assign, step
from clipgap.dedup.lowest import Lowest
from clipgap.dedup.rows import Ids, RowSource
from clipgap.dedup.seeds import choose_seeds
from clipgap.dedup.settings import DedupSettings
from clipgap.dedup.state import State
from clipgap.keep.writing import KeepWriter, Piece
from clipgap.kernels.options import Compute
from clipgap.runs.how import Progress
from clipgap.select.order import at_random
from clipgap.store.base import Store

_CENTROIDS, _LABELLED, _DECIDED, _AUDIT = "centroids", "labelled", "decided", "audit"
_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class Run:
    """A store on its way to keep-lists."""

    settings: DedupSettings
    store: Store
    source: RowSource
    compute: Compute
    state: State
    memory: int

    def decide(self) -> None:
        """Do all that is not done yet. Afterwards every row is kept or dropped."""
        self.label()
        if self.settings.options.audit and self.state.load(_AUDIT) is None:
            found = audit(self.settings, self.labels, self.source, self.compute)
            self.state.save(_AUDIT, {str(one.epsilon): one.to_json() for one in found})
        begun = (self.state.load(_DECIDED) or {"clusters": 0})["clusters"]
        mode, limits = self.settings.options.mode, self.settings.limits
        for ids, gone, done in self.compare(
            lambda ids: make_decision(mode, len(ids), limits), begun
        ):
            self._dropped[:, ids] = gone
            self.state.save(_DECIDED, {"clusters": done})

    def label(self) -> None:
        """Give every row its cluster."""
        if self.state.load(_LABELLED) is None:
            self.state.save(_LABELLED, self._label())
        else:
            _ = self.labels
            self.state.require_within("labels", NONE, self.labels.clusters)

    def compare(
        self, decide: Callable[[Ids], Decision], begin: int = 0
    ) -> Iterator[tuple[Ids, NDArray[np.bool_], int]]:
        """The rows of some clusters, which of them a decision drops, and where the next begin."""
        # A row and its copies: as found, as columns of the filter, and on the way there.
        room = max(1, self.memory // (8 * self.store.dim + 64))
        comparison = Comparison(min(self.settings.limits), self.compute, self.source.watch)
        counts = self.labels.counts()
        before = int(counts[:begin].sum())
        task = Deduplication(
            self.settings, self.labels, self.source, comparison, room, decide, before
        )
        for group in self.labels.groups(room, begin):
            yield *task.compare(group, int(counts[: group.start].sum())), group.stop

    @cached_property
    def labels(self) -> Labels:
        n, clusters = self.store.rows, self.settings.options.clusters
        return Labels(
            self.state.array("labels", (n,), np.int32),
            self.state.array("sims", (n if clusters else 0,), np.float64),
            clusters or 1,
        )

    @property
    def clustering(self) -> dict[str, Any] | None:
        """What came of the clustering."""
        return None if self.settings.options.exact else self.state.load(_LABELLED)

    @property
    def audits(self) -> Mapping[str, Any]:
        return self.state.load(_AUDIT) or {}

    @property
    def centroids(self) -> NDArray[np.float16] | None:
        held = self.state.load_arrays(_CENTROIDS)
        return None if held is None else held["rows"]

    def write(self, number: int, writer: KeepWriter) -> dict[str, Any]:
        """The keep-list of one epsilon."""
        offset = 0
        for shard in self.store.shards:
            writer.write(shard.index, self._pieces(number, shard.index, offset))
            offset += shard.rows
            done = Progress(
                stage="writing",
                works=True,
                done=offset,
                total=self.store.rows,
                part=shard.index + 1,
                parts=len(self.store.shards),
            )
            self.source.watch.report(done)
        return self.sizes(number)

    def sizes(self, number: int) -> dict[str, Any]:
        rows, usable = self.store.rows, int(self.labels.counts().sum())
        dropped = int(np.count_nonzero(self._dropped[number]))
        return {
            "rows": rows,
            "quarantined": rows - usable,
            "candidates": usable,
            "kept": usable - dropped,
            "removed": dropped,
        }

    def dropped(self, number: int, ids: Ids) -> NDArray[np.bool_]:
        """Which of some rows one epsilon drops."""
        gone: NDArray[np.bool_] = self._dropped[number, ids]
        return gone

    def mask(self, number: int) -> Callable[[int], NDArray[np.bool_]]:
        """A function that tells which rows of a shard one epsilon keeps."""
        ends = np.cumsum([0, *(shard.rows for shard in self.store.shards)])
        return lambda shard: self._kept(number, int(ends[shard]), int(ends[shard + 1]))

    @property
    def _dropped(self) -> NDArray[np.bool_]:
        shape = (len(self.settings.epsilons), self.store.rows)
        dropped: NDArray[np.bool_] = self.state.array("dropped", shape, np.bool_)
        return dropped

    def _kept(self, number: int, start: int, stop: int) -> NDArray[np.bool_]:
        usable = self.labels.label[start:stop] != NONE
        kept: NDArray[np.bool_] = usable & ~self._dropped[number, start:stop]
        return kept

    def _pieces(self, number: int, shard: int, offset: int) -> Iterator[Piece]:
        rows = self.store.shards[shard].rows
        for start in range(0, rows, _ROWS_AT_ONCE):
            self.source.watch.check()
            stop = min(start + _ROWS_AT_ONCE, rows)
            mask = self._kept(number, offset + start, offset + stop)
            keys = self.store.keys(shard, start, stop)
            yield mask, None if keys is None else keys.filter(pa.array(mask))

    # --- steps

    def _label(self) -> dict[str, Any]:
        label, sim = self.labels.label, self.labels.sim
        label[:] = NONE
        if self.settings.options.exact:
            for _, ids in self.source.blocks("reading"):
                label[ids] = 0
            self.settings.require_usable(self.store, int(self.labels.counts()[0]))
            return {}
        centroids = self._cluster()
        for some in assign(centroids.rows, self.source, self.compute, "assigning"):
            label[some.ids], sim[some.ids] = some.label, some.sim
        counts = self.labels.counts()
        return {
            "clusters": len(counts),
            "iterations": centroids.iterations,
            "converged": centroids.converged,
            "similarity": centroids.history[-1] if centroids.history else None,
            "empty": int(np.count_nonzero(counts == 0)),
            "largest": int(counts.max()),
        }

    def _cluster(self) -> Centroids:
        held = self.state.load_arrays(_CENTROIDS)
        if held is not None:
            wanted = (self.settings.options.clusters, self.store.dim)
            if (
                held.keys() != {"rows", "history", "converged"}
                or held["rows"].dtype != np.float16
                or held["rows"].shape != wanted
                or held["history"].ndim != 1
                or held["converged"].ndim
            ):
                raise self.state.damaged(f"{_CENTROIDS}.npz", "it holds other arrays")
            centroids = Centroids(
                held["rows"], tuple(held["history"].tolist()), bool(held["converged"])
            )
        else:
            centroids = Centroids(self._seeds())
            self._save(centroids)
        while not centroids.converged and centroids.iterations < self.settings.options.iterations:
            stage = f"clustering, iteration {centroids.iterations + 1}"
            centroids = step(centroids, self.source, self.compute, stage)
            self._save(centroids)
        return centroids

    def _seeds(self) -> NDArray[np.float16]:
        """The sample is what random ranks put first, whatever the order of reading."""
        said = self.settings.options
        sample, usable = Lowest(said.sampled, self.store.dim, np.uint32), 0
        for rows, ids in self.source.blocks("choosing seeds"):
            sample.add(at_random(ids, said.seed), ids, rows)
            usable += len(ids)
        self.settings.require_usable(self.store, usable)
        assert said.clusters is not None
        return choose_seeds(sample.rows, said.clusters, said.seeding, said.seed, self.source.watch)

    def _save(self, centroids: Centroids) -> None:
        self.state.save_arrays(
            _CENTROIDS,
            {
                "rows": centroids.rows,
                "history": np.array(centroids.history),
                "converged": np.array(centroids.converged),
            },
        )
