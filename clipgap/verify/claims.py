"""What must be true of a split by its rule, checked on rows that are scored anew."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.errors import InputError
from clipgap.keep.lists import KeepList
from clipgap.kernels.choose import make_scanner
from clipgap.kernels.interface import BlockResult
from clipgap.kernels.options import Compute
from clipgap.runs.how import How, OnProgress, Progress, Tally, ignore
from clipgap.scan.inputs import Block, BlockReader, LoadedTest
from clipgap.scan.options import ScanOptions
from clipgap.scan.plan import ScanPlan
from clipgap.scan.result import ScanResult, open_scan
from clipgap.select.columns import ScanTables
from clipgap.select.order import by_similarity, similarity_of
from clipgap.select.rules import exceeds
from clipgap.store.base import Store
from clipgap.store.opening import open_store
from clipgap.verify.checks import Problems
from clipgap.verify.evidence import Evidence, named

Ids = NDArray[np.int64]
Look = Callable[[Ids, BlockResult], None]
"""Takes the training ids of some rows, ascending, and their results."""

_BLOCK = 16_384


@dataclass(frozen=True)
class Means:
    """How rows are scored; no result depends on it."""

    compute: Compute
    on_progress: OnProgress = ignore

    def count(self, stage: str, rows: int) -> Tally:
        """Counts rows as they are looked at."""
        begin = Progress(stage=stage, total=rows)
        return Tally(How(on_progress=self.on_progress), begin, works=False)


class Feed:
    """Gathers rows to blocks of a size that suits a kernel, and hands their results on."""

    def __init__(self, tests: Sequence[LoadedTest], means: Means, look: Look) -> None:
        columns = [test.columns() for test in tests]
        self._scanner = make_scanner(columns, 1, compute=means.compute)
        self._block_rows = means.compute.block_rows or _BLOCK
        self._look = look
        self._rows: list[NDArray[np.float16]] = []
        self._ids: list[Ids] = []

    def add(self, rows: NDArray[np.float16], ids: Ids) -> None:
        if len(ids):
            self._rows.append(rows)
            self._ids.append(ids)
        if sum(map(len, self._ids)) >= self._block_rows:
            self.flush()

    def flush(self) -> None:
        if self._ids:
            rows, ids = np.concatenate(self._rows), np.concatenate(self._ids)
            self._rows, self._ids = [], []
            self._look(ids, self._scanner.scan(rows, ids))

    def best(self) -> list[NDArray[np.float64]]:
        """The highest score that each test point has with any row; -inf if there was none."""
        self.flush()
        return [lists.sim[:, 0] for lists in self._scanner.topk()]


def read_blocks(store: Store, bad_rows: str, means: Means, stage: str) -> Iterator[Block]:
    """All rows of a store in order, admitted as a scan admits them."""
    plan = ScanPlan("scan", store, {}, ScanOptions(1, bad_rows, False, ()))
    tally = means.count(stage, store.rows)
    with BlockReader(plan, means.compute.block_rows or _BLOCK, workers=1) as reader:
        for block, _ in reader.blocks(range(len(store.shards))):
            yield block
            tally.add(len(block.status))


def best_scores(
    store: Store, tests: Sequence[LoadedTest], bad_rows: str, means: Means
) -> list[NDArray[np.float64]]:
    """The highest score that each test point has with any row of a store."""
    feed = Feed(tests, means, lambda ids, result: None)
    for block in read_blocks(store, bad_rows, means, "verifying the reference"):
        feed.add(block.rows, block.ids)
    return feed.best()


@dataclass
class Claim:
    """A sentence about a split, and the rows that contradict it."""

    name: str
    says: str
    rows: int = 0
    problems: Problems = field(default_factory=Problems)


class Claims(ABC):
    """Looks at each row that a split could have kept, once, and then knows."""

    def __init__(self, keep: KeepList) -> None:
        self._keep = keep
        self.strangers = Claim("candidates", "every kept row has scores and lies within the list")
        self.strangers.rows = keep.kept

    @abstractmethod
    def kept(self, ids: Ids, result: BlockResult) -> None: ...

    @abstractmethod
    def removed(self, ids: Ids, result: BlockResult) -> None: ...

    @abstractmethod
    def finish(self) -> list[Claim]: ...

    def note_strangers(self, shard: int, rows: NDArray[np.int64]) -> None:
        """Take kept rows that could not be kept by any rule."""
        self.strangers.problems.at(
            rows, lambda row: f"{place(self._keep, shard, row)} is kept, but is no candidate"
        )

    def at(self, id_: int) -> str:
        return row_at(self._keep, id_)


class LimitClaims(Claims):
    """(a) nothing kept exceeds a limit of any test point; (c) everything removed exceeds one."""

    def __init__(
        self,
        keep: KeepList,
        tests: Sequence[LoadedTest],
        limit: str,
        exceeding: Callable[[BlockResult], NDArray[np.bool_]],
    ) -> None:
        super().__init__(keep)
        self._names = [test.name for test in tests]
        self._exceeding = exceeding  # rows × test sets
        self._clean = Claim("a", f"no kept row exceeds the {limit} of any test point")
        self._maximal = Claim("c", f"every removed row exceeds the {limit} of some test point")

    @classmethod
    def pruned(cls, keep: KeepList, tests: Sequence[LoadedTest]) -> LimitClaims:
        """Of a split by thresholds."""
        offset = float(keep.manifest["rule"]["offset"])
        limit = f"threshold plus {offset}" if offset else "threshold"
        return cls(keep, tests, limit, lambda result: over(result.margin, offset))

    @classmethod
    def below(cls, keep: KeepList, tests: Sequence[LoadedTest]) -> LimitClaims:
        """Of a split by one similarity for all."""
        sim = float(keep.manifest["rule"]["sim"])
        limit = f"similarity {sim}"
        return cls(keep, tests, limit, lambda result: exceeds(result.sim.astype(np.float32), sim))

    def kept(self, ids: Ids, result: BlockResult) -> None:
        self._clean.rows += len(ids)
        self._clean.problems.at(
            np.argwhere(self._exceeding(result)),
            lambda at: f"{self.at(ids[at[0]])} is kept, but {self._names[at[1]]} prunes it",
        )

    def removed(self, ids: Ids, result: BlockResult) -> None:
        self._maximal.rows += len(ids)
        above = self._exceeding(result).any(axis=1)
        self._maximal.problems.at(
            ids[~above], lambda id_: f"{self.at(id_)} is removed, but no test set prunes it"
        )

    def finish(self) -> list[Claim]:
        return [self._clean, self._maximal]


class OrderClaims(Claims):
    """The kept rows are n, and all of them come before (far) or after (near) the removed ones."""

    def __init__(self, keep: KeepList) -> None:
        super().__init__(keep)
        rule = keep.manifest["rule"]
        self._n, self._near = int(rule["n"]), rule["name"] == "near"
        side = "after" if self._near else "before"
        self._size = Claim("size", f"exactly {self._n:,} rows are kept")
        self._order = Claim(
            "order", f"every kept row comes {side} every removed one: similarity falling, id rising"
        )
        self._ends: dict[str, tuple[int, int]] = {}

    def kept(self, ids: Ids, result: BlockResult) -> None:
        self._size.rows += len(ids)
        self._note("kept", ids, result, last=not self._near)

    def removed(self, ids: Ids, result: BlockResult) -> None:
        self._note("removed", ids, result, last=self._near)

    def finish(self) -> list[Claim]:
        if self._size.rows != self._n:
            self._size.problems.add(f"{self._size.rows:,} rows with scores are kept")
        if len(self._ends) == 2:
            kept, removed = self._ends["kept"], self._ends["removed"]
            if (kept < removed) == self._near:
                self._order.problems.add(
                    f"{self._at(kept)} is kept, but {self._at(removed)} is removed"
                )
        return [self._size, self._order]

    def _note(self, which: str, ids: Ids, result: BlockResult, *, last: bool) -> None:
        """Remember the kept and the removed row that come closest to each other."""
        self._order.rows += len(ids)
        # Rounded first, as the tables are: equal numbers there are equals.
        ranks = by_similarity(result.sim.astype(np.float32).max(axis=1) + np.float32(0))
        rank = int(ranks.max() if last else ranks.min())
        equal = ids[ranks == rank]
        end = (rank, int(equal[-1] if last else equal[0]))
        if which in self._ends:
            end = (max if last else min)(end, self._ends[which])
        self._ends[which] = end

    def _at(self, end: tuple[int, int]) -> str:
        rank, id_ = end
        return f"{self.at(id_)} with similarity {similarity_of(rank):.9g}"


def row_at(keep: KeepList, id_: int) -> str:
    """A row in words."""
    shard = bisect_right(keep.offsets, id_) - 1
    return place(keep, shard, id_ - keep.offsets[shard])


def place(keep: KeepList, shard: int, row: int) -> str:
    return f"shard {shard:,} ({keep.shards[shard].name}), row {row:,}"


def over(margin: NDArray[np.float64], offset: float) -> NDArray[np.bool_]:
    """Which exact margins exceed an offset: as they are at 0, else as the tables store them."""
    return exceeds(margin.astype(np.float32), offset) if offset else margin > 0


_ROWS = 2_048
"""Rows multiplied at once."""


def check_witnesses(
    keep: KeepList,
    tables: ScanTables,
    evidence: Evidence,
    tests: Mapping[str, LoadedTest],
    means: Means,
) -> Claim:
    """For each removed row the scan names a test point; its exact margin must be high enough."""
    rule = keep.manifest["rule"]
    sets = tables.set_columns(rule["sets"], with_gap=True)
    columns = [name for names in sets for name in (names.margin, names.witness)]
    claim = Claim("b", "every removed row has a witness: the test point that the scan names")
    tally = means.count("verifying witnesses", keep.rows)
    for shard in range(len(keep.shards)):
        for block in tables.blocks(shard, columns):
            tally.add(block.rows)
            bits = keep.bits(shard, block.start, block.start + block.rows)
            rows = np.flatnonzero(~bits if block.ok is None else ~bits & block.ok)
            claim.rows += len(rows)
            # The set whose stored margin is highest: if any prunes the row, this one does.
            margins = [block.values[names.margin][rows] for names in sets]
            best = np.argmax(margins, axis=0) if len(rows) else rows
            for g, names in enumerate(sets):
                mine = rows[best == g]
                witness = block.values[names.witness][mine]
                margin = _margins(evidence, shard, block.start + mine, tests[names.name], witness)
                claim.problems.at(
                    block.start + mine[~over(margin, float(rule["offset"]))],
                    lambda row, shard=shard, name=names.name: (  # type: ignore[misc]
                        f"{place(keep, shard, row)}: its witness in {name} does not prune it"
                    ),
                )
    return claim


def _margins(
    evidence: Evidence,
    shard: int,
    rows: NDArray[np.int64],
    test: LoadedTest,
    witness: NDArray[np.int32],
) -> NDArray[np.float64]:
    """Score minus threshold of each row and its test point; -inf where that is none."""
    assert test.gap is not None
    column = np.minimum(np.searchsorted(test.row_of, witness), len(test.row_of) - 1)
    margins = np.full(len(rows), -np.inf)
    for part, found in evidence.rows_at(shard, rows):
        for start in range(0, len(found), _ROWS):
            some = column[part][start : start + _ROWS]
            left = found[start : start + _ROWS].astype(np.float64)
            # Each product and each sum is exact, whatever the order; see docs/exactness.md.
            scores = (left * test.rows[some].astype(np.float64)).sum(axis=1)
            first = part.start + start
            margins[first : first + len(some)] = scores - test.gap[some]
    margins[test.row_of[column] != witness] = -np.inf
    return margins


Best = Mapping[str, NDArray[np.float64]]
"""By test set: the highest score of each usable test point."""


def check_joint_gap(
    keep: KeepList,
    scans: Sequence[ScanResult],
    tests: Sequence[LoadedTest],
    kept: Best,
    means: Means,
) -> Claim:
    """The gap of kept rows and reference rows, both scored anew, must equal the thresholds."""
    claim = Claim("d", "kept rows and reference rows together have the reference's gap everywhere")
    for scan in scans:
        mine = [test for test in tests if test.name in scan.test_names]
        reference = _reference(keep, scan, mine, means) if mine else {}
        for test in mine:
            assert test.gap is not None
            if test.name not in reference:
                claim.says += f" (reference of {test.name} not found: its thresholds as stated)"
            joint = np.maximum(kept[test.name], reference.get(test.name, test.gap))
            claim.rows += len(joint)
            claim.problems.at(
                np.flatnonzero(joint != test.gap),
                lambda at, test=test, joint=joint: (  # type: ignore[misc]
                    f"test set {test.name}, row {test.row_of[at]:,}: the gap is {joint[at]}, "
                    f"that of the reference {test.gap[at]}"
                ),
            )
    return claim


def _reference(
    keep: KeepList, scan: ScanResult, tests: Sequence[LoadedTest], means: Means
) -> dict[str, NDArray[np.float64]]:
    """The scores of the reference set that joins the split, or else of the one of the gap."""
    bad_rows = "quarantine"
    try:
        joined: Any = keep.manifest["rule"].get("reference")
        if joined is None:
            gap = open_scan(scan.manifest["inputs"]["gap"]["path"])
            joined = {"store": gap.manifest["inputs"]["train"]}
        store: Store = open_store(named(joined["store"]["path"]))
    except InputError:
        return {}
    found = best_scores(store, tests, bad_rows, means)
    return {test.name: best for test, best in zip(tests, found, strict=True)}
