"""`emulate`: what usual shortcuts would have pruned on the data of a scan.

The shortcuts: only the best so many candidates of each test point and shard are looked at, whether
or not the last of them lies below the threshold; and thresholds and scores are computed with
rounded numbers.

The released code takes the threshold of a test point as the highest number in a buffer for six
lists, one of each file of the reference. A full buffer makes room for one that begins with its
best, so the last is never full, and holds behind its lists what the memory held before. If that is
higher than all scores, or no number, the point prunes nothing: strictly speaking, thresholds are
undefined, and with them each row that they prune.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.errors import InputError, UsageError
from clipgap.keep.writing import KeepWriter, Piece
from clipgap.options import takes_options
from clipgap.runs.how import How, Progress, Tally
from clipgap.runs.output import spare
from clipgap.scan.result import ScanResult, open_scan
from clipgap.scan.tables import SetColumns
from clipgap.select.columns import ScanTables, open_tables
from clipgap.verify.checks import Problems
from clipgap.verify.evidence import Evidence, check_inputs
from clipgap.verify.options import Shortcuts
from clipgap.verify.rounding import Arithmetic, EmulatedTest, load_emulated

_ROWS, _COLUMNS = 2_048, 4_096
_PAIRS = 1 << 22
"""Pairs that may wait before those beyond the lists are dropped."""

Mask = NDArray[np.bool_]

_JOINED = 6
"""Lists that fit into the buffer which a threshold is the highest number of."""

RULE = "emulate"
"""What the manifest of a keep-list calls it."""


@dataclass(frozen=True)
class FullLists:
    """A test point that prunes less than its threshold says, since lists of its were full."""

    row: int  # of the test store
    key: str | None
    lists: int


@dataclass
class Shortfall:
    """What the shortcuts do for one test set, or for all together."""

    name: str
    exact: int = 0  # rows pruned by the definition
    emulated: int = 0  # rows that the shortcuts prune
    missed_by_list: int = 0  # above a rounded threshold, but no candidate of such a test point
    missed_by_rounding: int = 0  # above an exact threshold, but above no rounded one
    wrong: int = 0  # pruned by the shortcuts alone
    undefined: int = 0  # pruned by the shortcuts unless memory that nothing filled holds too much
    full_lists: int = 0  # lists of a test point and a shard that end above the threshold
    tau_lower: int = 0  # test points whose rounded threshold is too low
    tau_higher: int = 0
    tau_unsure: int = 0  # whose lists in the gap are too short to tell their rounded threshold
    full: list[FullLists] = field(default_factory=list)  # by test point

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
    unfilled: int = 0  # numbers that a threshold is the highest of and that nothing filled
    already_complete: bool = False  # True: a resumed run found its keep-list whole


@takes_options
def emulate(
    scan: str | Path | ScanResult,
    *,
    out: str | Path | None = None,
    train: Any = None,
    tests: Mapping[str, Any] | None = None,
    options: Shortcuts,
    how: How,
) -> Emulation:
    """Prune as with shortcuts, and compare row by row with the exact result of a scan with a gap.

    What the shortcuts keep becomes the keep-list `out`, if that is named. `train` and `tests` say
    where the stores lie now, if not where the scan says.
    """
    numbers = Arithmetic.named(options.arithmetic)
    tables = open_tables([scan])
    result = tables.scans[0]
    sets = [names for names in result.set_columns if names.has_gap]
    if not sets:
        raise UsageError(f"{result.label} was made without a gap: it has no thresholds to emulate")
    evidence = Evidence.load(result, train, tests or {})
    problems = Problems()
    check_inputs(result, evidence, problems)
    if problems.count:
        raise InputError(f"the stores are no longer those of {result.label}: {problems}")
    emulated = load_emulated(result, evidence, [names.name for names in sets], numbers)
    unfilled = 0
    if options.undefined:
        gap = open_scan(result.manifest["inputs"]["gap"]["path"])
        files = len(gap.manifest["inputs"]["train"]["shards"])
        unfilled = options.candidates * unfilled_lists(files)
    run = _Run(tables, evidence, sets, emulated, numbers, options.candidates, unfilled)
    if out is None:
        how.without_folder()
        return run.all(how)
    spare(Path(out), [result.path], how)
    rule = {
        "name": RULE,
        "sets": [names.name for names in sets],
        "candidates": options.candidates,
        "arithmetic": options.arithmetic,
    }
    with KeepWriter(out, tables.store, rule, tables.sources(), how) as writer:
        if writer.finished is not None:  # what is counted stands in no keep-list
            return replace(run.all(how), already_complete=True)
        return run.all(how, lambda shard, pruned: writer.write(shard, run.kept(shard, pruned)))


def unfilled_lists(files: int) -> int:
    """Lists of the last buffer that stay unfilled when so many files have one each."""
    filled = 0
    for _ in range(files):
        filled = 1 if filled + 1 == _JOINED else filled + 1
    return _JOINED - filled


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
    unfilled: int

    def kept(self, shard: int, pruned: Mask) -> Iterator[Piece]:
        """What is left of a shard, as a keep-list takes it."""
        for block in self.tables.blocks(shard, (), keys=True):
            left = ~pruned[block.start : block.start + block.rows]
            mask = left if block.ok is None else left & block.ok
            yield mask, block.keys.filter(pa.array(mask))  # type: ignore[union-attr]

    def all(self, how: How, on_shard: Callable[[int, Mask], None] | None = None) -> Emulation:
        """Count all shards; `on_shard` gets the rows of each that the shortcuts prune."""
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
        full = {name: np.zeros(len(test.tau), np.int64) for name, test in self.emulated.items()}
        begin = Progress(
            stage="emulating", total=self.tables.rows, parts=len(self.tables.shard_rows)
        )
        tally = Tally(how, begin, works=on_shard is not None)
        for shard, rows in enumerate(self.tables.shard_rows):
            how.check()
            masks = [self._shard(shard, names, full[names.name]) for names in self.sets]
            for one, mask in zip(found, masks, strict=True):
                one.count(*mask)
            joint = [np.logical_or.reduce(part) for part in zip(*masks, strict=True)]
            together.count(*joint)
            if on_shard is not None:
                on_shard(shard, joint[-1])
            tally.add(rows, 1)
        for one in found:
            one.full_lists = int(full[one.name].sum())
            one.full = self._named(one.name, full[one.name])
        together.full_lists = sum(one.full_lists for one in found)
        if self.unfilled:
            for one in (*found, together):
                one.undefined = one.emulated
        return Emulation(self.numbers.name, self.candidates, tuple(found), together, self.unfilled)

    def _named(self, name: str, full: NDArray[np.int64]) -> list[FullLists]:
        """The test points that have full lists."""
        test = next(test for test in self.evidence.tests if test.name == name)
        columns = np.flatnonzero(full)
        rows, lists = test.row_of[columns].tolist(), full[columns].tolist()
        keys = test.keys()
        return [
            FullLists(row, None if keys is None else keys[row].as_py(), count)
            for row, count in zip(rows, lists, strict=True)
        ]

    def _shard(
        self, shard: int, names: SetColumns, full_lists: NDArray[np.int64]
    ) -> tuple[Mask, Mask, Mask]:
        """Rows of a shard that are pruned exactly, above a rounded threshold, and found.

        Adds to the full lists of each test point.
        """
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
        full_lists += full
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
