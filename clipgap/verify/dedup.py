"""What must be true of a deduplicated store, checked on rows that were compared anew.

The clusters are made again, since they follow from the rule. Then each row is asked whether another
one of its cluster stands in its way. Greedy, the keep-list itself says who does: that answer agrees
with the list for one list only, so no order of deciding has to be trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.dedup.decisions import Decision, Places, make_decision
from clipgap.dedup.labels import NONE
from clipgap.dedup.notes import Notes
from clipgap.dedup.plan import DedupPlan, DedupSettings
from clipgap.dedup.rows import Ids, RowSource, Watch
from clipgap.dedup.run import Run
from clipgap.keep.lists import KeepList
from clipgap.kernels.pairs import Pairs
from clipgap.machine import memory_bytes
from clipgap.runs.how import How
from clipgap.store.base import Store
from clipgap.verify.checks import Problems
from clipgap.verify.claims import Claim, Means, row_at
from clipgap.verify.keeps import check_sizes


class Witnesses:
    """A `Decision` that has been made: looks for a row that stands in the way of each other row."""

    def __init__(self, blocks: NDArray[np.bool_], limit: float) -> None:
        self._blocks, self._limit = blocks, limit  # in the keep order: who stands in whose way
        self._witnessed = np.zeros(len(blocks), np.bool_)

    @property
    def kept(self) -> NDArray[np.bool_]:
        return ~self._witnessed[None]

    def settle(self, first: int, last: int, pairs: Pairs) -> None:
        self.spread(pairs)

    def spread(self, pairs: Pairs) -> None:
        near = (pairs.score > self._limit) & self._blocks[pairs.column]
        self._witnessed[pairs.row[near]] = True

    def open(self, first: int, last: int) -> Places:
        return np.arange(first, last)

    def matters(self, first: int, last: int) -> bool:
        return True


def dedup_claims(
    keep: KeepList, store: Store, means: Means
) -> tuple[list[Claim], dict[str, int], Mapping[str, Any]]:
    """Compare all rows of each cluster anew; also the sizes that follow, and what else is noted."""
    settings = DedupSettings.of_rule(keep.manifest["rule"])
    epsilon, mode = settings.epsilons[0], settings.options.mode
    bits = np.concatenate([keep.bits(shard.index) for shard in keep.shards])

    def decide(ids: Ids) -> Decision:
        if mode == "components":
            tainted = None if settings.tainted is None else settings.tainted[ids]
            return make_decision(mode, len(ids), settings.limits, tainted)
        blocks = bits[ids] if mode == "greedy" else np.ones(len(ids), np.bool_)
        return Witnesses(blocks, settings.limits[0])

    others = {
        "greedy": "kept row before it in its cluster",
        "chain": "row before it in its cluster",
        "components": "row before it that is connected to it in its cluster",
    }[mode]
    if settings.tainted is not None:
        others = "tainted row that is connected to it in its cluster, or is it,"
    clean = Claim("kept", f"no kept row has a {others} within ε = {epsilon:g}")
    maximal = Claim("removed", f"every removed row has a {others} within ε = {epsilon:g}")
    strangers = Claim("candidates", "every kept row is usable", rows=keep.kept)
    run = _run(DedupPlan(store, settings), means)
    run.label()
    run.compare(decide)
    usable, gone = run.labels.label != NONE, run.dropped[0]
    strangers.problems.at(
        np.flatnonzero(bits & ~usable),
        lambda id_: f"{row_at(keep, id_)} is kept, but is no candidate",
    )
    clean.rows = int(np.count_nonzero(bits & usable))
    clean.problems.at(
        np.flatnonzero(bits & gone), lambda id_: f"{row_at(keep, id_)} is kept, but has one"
    )
    maximal.rows = int(np.count_nonzero(~bits & usable))
    maximal.problems.at(
        np.flatnonzero(~bits & usable & ~gone),
        lambda id_: f"{row_at(keep, id_)} is removed, but has none",
    )
    candidates = int(np.count_nonzero(usable))
    sizes = {
        "rows": store.rows,
        "quarantined": store.rows - candidates,
        "candidates": candidates,
        "kept": keep.kept,
        "removed": candidates - keep.kept,
    }
    noted: dict[str, Any] = {"clustering": run.clustering}
    if settings.options.flips:
        (noted["flips"],) = run.count_flips((~bits & usable)[None]).values()
    return [clean, maximal, strangers], sizes, noted


def check_dedup(
    keep: KeepList,
    sizes: Mapping[str, Any],
    noted: Mapping[str, Any],
    problems: Problems,
) -> str:
    """What the manifest says of rule, sizes and whatever is noted is what follows from the rows."""
    rule = keep.manifest["rule"]
    settings = DedupSettings.of_rule(rule)
    for name, found in noted.items():
        if said := keep.manifest.get(name):
            problems.differ(name, said, found)
    # The audit is not made again: it is no part of what the rule keeps.
    again = {**settings.rule(rule["epsilon"]), "audit": rule["audit"]}
    return check_sizes(keep, again, sizes, problems)


def _run(plan: DedupPlan, means: Means) -> Run:
    room, how = memory_bytes() // 8, How(on_progress=means.on_progress)
    bad_rows, block_rows = plan.settings.options.bad_rows, means.compute.block_rows
    source = RowSource(plan.store, bad_rows, Watch(how.report), room, block_rows)
    return Run(plan, source, means.compute, room, Notes(), how)
