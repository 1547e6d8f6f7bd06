"""The steps of a deduplication, each noted when done: centroids, labels, audit, comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.dedup.audit import audit
from clipgap.dedup.decisions import Decision
from clipgap.dedup.flips import count_flips
from clipgap.dedup.kmeans import Assignment, Centroids, Lowest, choose_seeds, step
from clipgap.dedup.labels import LABELS, NONE, SIMS, Labels
from clipgap.dedup.notes import Notes
from clipgap.dedup.plan import DedupPlan
from clipgap.dedup.rows import Ids, RowSource
from clipgap.dedup.work import Clusters, CompareWork, load_dropped
from clipgap.errors import InputError
from clipgap.keep.writing import KeepWriter, Piece
from clipgap.kernels.options import Compute
from clipgap.machine import thread_count
from clipgap.runs.executors import Here
from clipgap.runs.how import How, Progress, Tally
from clipgap.runs.lock import PROGRESS
from clipgap.runs.run import run_units
from clipgap.runs.units import Made
from clipgap.select.order import at_random

_CENTROIDS, _LABELLED, _AUDIT, _FLIPS = "centroids", "labelled", "audit", "flips"
_GROUP = "cluster group"
_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class Run:
    """A store on its way to keep-lists."""

    plan: DedupPlan
    source: RowSource
    compute: Compute
    memory: int  # bytes, for the rows of a unit
    notes: Notes
    how: How

    def decide(self) -> None:
        """Do all that is not done yet. Afterwards every row is kept or dropped."""
        self.label()
        if self.plan.settings.options.audit and self.notes.of(_AUDIT) is None:
            found = audit(self.plan.settings, self.labels, self.source, self.compute)
            self.notes.add(_AUDIT, {"found": {str(one.epsilon): one.to_json() for one in found}})
        self.compare()
        if self.plan.settings.options.flips and self.notes.of(_FLIPS) is None:
            self.notes.add(_FLIPS, {"found": self.count_flips(self.dropped)})

    def count_flips(self, exact: NDArray[np.bool_]) -> dict[str, Any]:
        """What rounded scores decide otherwise, by epsilon and arithmetic."""
        return count_flips(self._work(), exact, self.how.report)

    def label(self) -> None:
        """Give every row its cluster."""
        if self.notes.of(_LABELLED) is None:
            self.notes.add(_LABELLED, {"clustering": self._label()}, [LABELS, SIMS])

    def compare(self, decide: Callable[[Ids], Decision] | None = None) -> None:
        """Do all clusters that are not done; `decide` may judge in the place of the settings."""
        how = self.how
        work = self._work(decide)
        # What earlier runs have done stays done, however much memory they had for a unit.
        done = [range(*record["clusters"]) for record in self._compared()]
        counts = self.labels.counts()
        left = list(self.labels.groups(work.room, done))
        units = [
            Clusters(some.start, some.stop, int(counts[some.start : some.stop].sum()))
            for some in sorted([*done, *left], key=lambda some: some.start)
        ]
        begin = Progress(
            stage="comparing",
            done=sum(int(counts[some.start : some.stop].sum()) for some in done),
            total=self.plan.store.rows,
            part=len(done),
            parts=len(units),
            parts_are=_GROUP,
        )
        tally = Tally(how, begin)
        executor = how.executor or Here(thread_count(self.compute.threads))
        for event in run_units(work, units, self.notes.ledger, executor, how, _GROUP):
            if isinstance(event, Made):
                tally.add(parts=len(event.records))
            elif event.more:
                how.report(Progress(works=True, total=begin.total, **event.more))
            else:
                tally.add(event.done)

    def _work(self, decide: Callable[[Ids], Decision] | None = None) -> CompareWork:
        settings, folder = self.plan.settings, self.notes.folder
        return CompareWork(
            settings, self.source, self.labels, self.compute, self.memory, folder, decide
        )

    @cached_property
    def labels(self) -> Labels:
        label, sim = self.notes.array(LABELS), self.notes.array(SIMS)
        return Labels(label, sim, self.plan.clusters or 1, self.notes.folder)

    @cached_property
    def dropped(self) -> NDArray[np.bool_]:
        """(epsilons, rows): which rows each epsilon drops."""
        shape = (len(self.plan.settings.epsilons), self.plan.store.rows)
        dropped = self.notes.new_array(f"{PROGRESS}/dropped.npy", shape, np.bool_)
        for record in self._compared():
            number, ids = load_dropped(self.notes.folder, record)
            dropped[number, ids] = True
        if (tainted := self.plan.settings.tainted) is not None:  # some are alone in their cluster
            dropped |= tainted & (self.labels.label != NONE)
        return dropped

    @property
    def clustering(self) -> Mapping[str, Any] | None:
        """What came of the clustering; None without any."""
        labelled = self.notes.of(_LABELLED)
        return None if labelled is None else labelled["clustering"]

    @property
    def found(self) -> Mapping[str, Mapping[str, Any]]:
        """What was asked for besides the lists, by its name and by epsilon."""
        noted = {name: self.notes.of(name) for name in (_AUDIT, _FLIPS)}
        return {name: each["found"] for name, each in noted.items() if each is not None}

    @property
    def centroids(self) -> Centroids | None:
        """Those that were found last."""
        found = self.notes.of(_CENTROIDS)
        if found is None:
            return None
        rows = self.notes.array(_centroids_file(len(found["history"])))
        return Centroids(rows, tuple(found["history"]), found["converged"])

    def write(self, number: int, writer: KeepWriter) -> dict[str, Any]:
        """The keep-list of one epsilon."""
        store, offset = self.plan.store, 0
        for shard in store.shards:
            writer.write(shard.index, self._pieces(number, shard.index, offset))
            offset += shard.rows
            done = Progress(
                stage="writing",
                works=True,
                done=offset,
                total=store.rows,
                part=shard.index + 1,
                parts=len(store.shards),
            )
            self.how.report(done)
        return self.sizes(number)

    def sizes(self, number: int) -> dict[str, Any]:
        rows, usable = self.plan.store.rows, int(self.labels.counts().sum())
        dropped = int(np.count_nonzero(self.dropped[number]))
        return {
            "rows": rows,
            "quarantined": rows - usable,
            "candidates": usable,
            "kept": usable - dropped,
            "removed": dropped,
        }

    def mask(self, number: int) -> Callable[[int], NDArray[np.bool_]]:
        """A function that tells which rows of a shard one epsilon keeps."""
        ends = np.cumsum([0, *(shard.rows for shard in self.plan.store.shards)])
        return lambda shard: self._kept(number, int(ends[shard]), int(ends[shard + 1]))

    def _kept(self, number: int, start: int, stop: int) -> NDArray[np.bool_]:
        usable = self.labels.label[start:stop] != NONE
        kept: NDArray[np.bool_] = usable & ~self.dropped[number, start:stop]
        return kept

    def _pieces(self, number: int, shard: int, offset: int) -> Iterator[Piece]:
        store = self.plan.store
        rows = store.shards[shard].rows
        for start in range(0, rows, _ROWS_AT_ONCE):
            self.source.watch.check()
            stop = min(start + _ROWS_AT_ONCE, rows)
            mask = self._kept(number, offset + start, offset + stop)
            keys = store.keys(shard, start, stop)
            yield mask, None if keys is None else keys.filter(pa.array(mask))

    def _compared(self) -> list[Mapping[str, Any]]:
        """The records of all units."""
        return [record for record in self.notes.ledger.records.values() if "clusters" in record]

    # --- steps

    def _label(self) -> dict[str, Any] | None:
        """Fill the arrays of labels; what came of the clustering."""
        rows, exact, given = self.plan.store.rows, self.plan.settings.options.exact, self.plan.given
        has_centroids = not exact and (given is None or given.centroids is not None)
        # First of all, since a disk without room for them should not be found out after hours.
        label = self.notes.new_array(LABELS, (rows,), np.int32)
        sim = self.notes.new_array(SIMS, (rows if has_centroids else 0,), np.float64)
        label[:] = NONE
        if exact:
            for _, ids in self.source.blocks("reading"):
                label[ids] = 0
            self.plan.require_usable(int(self.labels.counts()[0]))
            return None
        assignment = Assignment(self.source, self.compute, label)
        centroids = self._cluster(assignment) if has_centroids else None
        if given is not None and given.labels is not None:
            self._take(given.labels, centroids, label, sim)
        else:
            assert centroids is not None
            for some in assignment.to(centroids.rows, "assigning"):
                sim[some.ids] = some.sim
        counts = self.labels.counts()
        self.plan.require_usable(int(counts.sum()))
        history = centroids.history if centroids is not None else ()
        return {
            "clusters": len(counts),
            "iterations": len(history),
            "converged": centroids is not None and centroids.converged,
            "similarity": history[-1] if history else None,
            "empty": int(np.count_nonzero(counts == 0)),
            "largest": int(counts.max()),
        }

    def _take(
        self,
        given: NDArray[np.int32],
        centroids: Centroids | None,
        label: NDArray[np.int32],
        sim: NDArray[np.float64],
    ) -> None:
        """Labels that others gave; scores with the centroids are exact in whatever order."""
        for rows, ids in self.source.blocks("reading"):
            of = given[ids]
            if (of == NONE).any():
                row = int(ids[np.flatnonzero(of == NONE)[0]])
                raise InputError(
                    f"{self.plan.settings.options.labels}: gives row {row:,}, counted through all "
                    "shards, no cluster"
                )
            label[ids] = of
            if centroids is not None:
                middle = centroids.rows[of].astype(np.float64)
                sim[ids] = np.einsum("rd,rd->r", rows.astype(np.float64), middle)

    def _cluster(self, assignment: Assignment) -> Centroids:
        centroids, given = self.centroids, self.plan.given
        if centroids is None:
            if given is not None and given.centroids is not None:
                centroids = Centroids(given.centroids)
            else:
                centroids = Centroids(self._seeds())
            self._note(centroids)
        while (
            given is None
            and not centroids.converged
            and (centroids.iterations < self.plan.settings.options.iterations)
        ):
            stage = f"clustering, iteration {centroids.iterations + 1}"
            centroids = step(centroids, assignment, stage)
            self._note(centroids)
            self.notes.remove(_centroids_file(centroids.iterations - 1))
        return centroids

    def _seeds(self) -> NDArray[np.float16]:
        """The sample is what random ranks put first, whatever the order of reading."""
        said = self.plan.settings.options
        sample, usable = Lowest(said.sampled, self.plan.store.dim, np.uint32), 0
        for rows, ids in self.source.blocks("choosing seeds"):
            sample.add(at_random(ids, said.seed), ids, rows)
            usable += len(ids)
        self.plan.require_usable(usable)
        assert said.clusters is not None
        return choose_seeds(sample.rows, said.clusters, said.seeding, said.seed, self.source.watch)

    def _note(self, centroids: Centroids) -> None:
        """Note an iteration; the one before it counts until then."""
        name = _centroids_file(centroids.iterations)
        self.notes.new_array(name, centroids.rows.shape, np.float16)[:] = centroids.rows
        record = {"history": list(centroids.history), "converged": centroids.converged}
        self.notes.add(_CENTROIDS, record, [name])


def _centroids_file(iterations: int) -> str:
    return f"{PROGRESS}/centroids-{iterations}.npy"
