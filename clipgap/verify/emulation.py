"""`emulate`: what usual shortcuts would have pruned on the data of a scan.

The shortcuts: only the best so many candidates of each test point and shard are looked at, whether
or not the last of them lies below the threshold; and thresholds and scores are computed with
rounded numbers. A score is emulated as the exact dot product of the rounded inputs, rounded once
more. That leaves out the rounding inside of a sum, which differs from machine to machine and would
come on top.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.errors import InputError, UsageError
from clipgap.options import takes_options
from clipgap.runs.how import OnProgress, Progress, ignore
from clipgap.scan.result import ScanResult
from clipgap.scan.tables import SetColumns
from clipgap.select.columns import ScanTables, open_tables
from clipgap.verify.api import load_evidence
from clipgap.verify.arithmetic import Arithmetic
from clipgap.verify.emulated_tau import EmulatedTest, load_emulated
from clipgap.verify.options import Shortcuts
from clipgap.verify.problems import Problems
from clipgap.verify.scan_inputs import Evidence, check_inputs

_ROWS, _COLUMNS = 2_048, 4_096
_PAIRS = 1 << 22
"""Pairs that may wait before those beyond the lists are dropped."""

Mask = NDArray[np.bool_]


@dataclass
class Shortfall:
    """What the shortcuts do for one test set, or for all together."""

    name: str
    exact: int = 0  # rows pruned by the definition
    emulated: int = 0  # rows that the shortcuts prune
    missed_by_list: int = 0  # above a rounded threshold, but no candidate of such a test point
    missed_by_rounding: int = 0  # above an exact threshold, but above no rounded one
    wrong: int = 0  # pruned by the shortcuts alone
    full_lists: int = 0  # lists of a test point and a shard that end above the threshold
    tau_lower: int = 0  # test points whose rounded threshold is too low
    tau_higher: int = 0
    tau_unsure: int = 0  # whose lists in the gap are too short to tell their rounded threshold

    def count(
        self, exact: NDArray[np.bool_], above: NDArray[np.bool_], found: NDArray[np.bool_]
    ) -> None:
        """Add a shard's rows: pruned exactly, above a rounded threshold, found by the shortcuts."""
        self.exact += int(np.count_nonzero(exact))
        self.emulated += int(np.count_nonzero(found))
        self.missed_by_list += int(np.count_nonzero(exact & above & ~found))
        self.missed_by_rounding += int(np.count_nonzero(exact & ~above))
        self.wrong += int(np.count_nonzero(found & ~exact))


@dataclass(frozen=True)
class Emulation:
    """What the shortcuts come to; `any` is for rows pruned by any test set."""

    arithmetic: str
    candidates: int
    sets: tuple[Shortfall, ...]
    any: Shortfall


@takes_options
def emulate(
    scan: str | Path | ScanResult,
    *,
    train: Any = None,
    tests: Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
    options: Shortcuts,
) -> Emulation:
    """Prune as with shortcuts, and compare row by row with the exact result of a scan with a gap.

    `train` and `tests` say where the stores lie now, if
    not where the scan says.
    """
    numbers = Arithmetic.named(options.arithmetic)
    tables = open_tables([scan])
    result = tables.scans[0]
    sets = [names for names in result.set_columns if names.has_gap]
    if not sets:
        raise UsageError(f"{result.label} was made without a gap: it has no thresholds to emulate")
    evidence = load_evidence(result, train, tests)
    problems = Problems()
    check_inputs(result, evidence, problems)
    if problems.count:
        raise InputError(f"the stores are no longer those of {result.label}: {problems}")
    emulated = load_emulated(result, evidence, [names.name for names in sets], numbers)
    run = _Run(tables, evidence, sets, emulated, numbers, options.candidates)
    return run.all(on_progress or ignore)


@dataclass
class _Pairs:
    """Training rows above the threshold of a test point, with their scores."""

    point: NDArray[np.int64]
    row: NDArray[np.int64]
    score: NDArray[np.float64]

    @classmethod
    def none(cls) -> _Pairs:
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))

    @classmethod
    def joined(cls, parts: Sequence[_Pairs]) -> _Pairs:
        return cls(
            np.concatenate([part.point for part in parts]),
            np.concatenate([part.row for part in parts]),
            np.concatenate([part.score for part in parts]),
        )

    def best(self, n: int, full: Mask) -> _Pairs:
        """The n best of each test point, ties to the lower row; marks points that have more."""
        counts = np.bincount(self.point, minlength=len(full))
        if not (counts > n).any():
            return self
        full |= counts > n
        order = np.lexsort((self.row, -self.score, self.point))
        first = np.cumsum(counts) - counts
        kept = order[np.arange(len(order)) - first[self.point[order]] < n]
        return _Pairs(self.point[kept], self.row[kept], self.score[kept])


@dataclass
class _Run:
    tables: ScanTables
    evidence: Evidence
    sets: Sequence[SetColumns]
    emulated: Mapping[str, EmulatedTest]
    numbers: Arithmetic
    candidates: int

    def all(self, report: OnProgress) -> Emulation:
        found = [
            Shortfall(
                names.name,
                tau_lower=self.emulated[names.name].lower,
                tau_higher=self.emulated[names.name].higher,
                tau_unsure=self.emulated[names.name].unsure,
            )
            for names in self.sets
        ]
        together = Shortfall(
            "any",
            tau_lower=sum(one.tau_lower for one in found),
            tau_higher=sum(one.tau_higher for one in found),
            tau_unsure=sum(one.tau_unsure for one in found),
        )
        done, shards = 0, len(self.tables.shard_rows)
        for shard, rows in enumerate(self.tables.shard_rows):
            report(
                Progress(
                    stage="emulating", done=done, total=self.tables.rows, part=shard, parts=shards
                )
            )
            masks = [
                self._shard(shard, names, one) for names, one in zip(self.sets, found, strict=True)
            ]
            for one, mask in zip(found, masks, strict=True):
                one.count(*mask)
            together.count(*(np.logical_or.reduce(part) for part in zip(*masks, strict=True)))
            done += rows
        together.full_lists = sum(one.full_lists for one in found)
        return Emulation(self.numbers.name, self.candidates, tuple(found), together)

    def _shard(
        self, shard: int, names: SetColumns, shortfall: Shortfall
    ) -> tuple[Mask, Mask, Mask]:
        """Rows of a shard that are pruned exactly, above a rounded threshold, and found."""
        rows = self.tables.shard_rows[shard]
        exact, above, found = (np.zeros(rows, np.bool_) for _ in range(3))
        # Rounding moves a margin by less than this, so all others are below either way.
        reach = np.float32(-2.1 * self.numbers.error)
        waiting, full = [_Pairs.none()], np.zeros(len(self.emulated[names.name].tau), np.bool_)
        for block in self.tables.blocks(shard, [names.margin, names.pruned]):
            at = slice(block.start, block.start + block.rows)
            close = block.values[names.margin] > reach
            pruned = block.values[names.pruned]
            if block.ok is not None:
                close, pruned = close & block.ok, pruned & block.ok
            exact[at] = pruned
            for pairs in self._pairs(shard, block.start + np.flatnonzero(close), names.name):
                above[pairs.row] = True
                waiting.append(pairs)
                if sum(len(pairs.row) for pairs in waiting) > _PAIRS:
                    waiting = [_Pairs.joined(waiting).best(self.candidates, full)]
        found[_Pairs.joined(waiting).best(self.candidates, full).row] = True
        shortfall.full_lists += int(np.count_nonzero(full))
        return exact, above, found

    def _pairs(self, shard: int, rows: NDArray[np.int64], name: str) -> Iterator[_Pairs]:
        """All pairs of these rows with test points whose rounded threshold they exceed."""
        test = self.emulated[name]
        for part, read in self.evidence.rows_at(shard, rows):
            for first in range(0, len(read), _ROWS):
                some = self.numbers.rounded(read[first : first + _ROWS])
                for column in range(0, len(test.points), _COLUMNS):
                    points = slice(column, column + _COLUMNS)
                    scores = self.numbers.scores(some, test.points[points])
                    row, point = np.nonzero(scores > test.tau[points])
                    yield _Pairs(point + column, rows[part.start + first + row], scores[row, point])
