"""`emulate`: what usual shortcuts would have pruned on the data of a scan.

The shortcuts: only the best so many candidates of each test point and shard are looked at, whether
or not the last of them lies below the threshold; and thresholds and scores are computed with
rounded numbers. A score is emulated as the exact dot product of the rounded inputs, rounded once
more. That leaves out the rounding inside of a sum, which differs from machine to machine and would
come on top."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.errors import InputError, UsageError
from clipgap.files.documents import checksum
from clipgap.keep.writing import KeepWriter, Piece
from clipgap.kernels.admit import Status, admit
from clipgap.options import takes_options
from clipgap.runs.how import How, Progress
from clipgap.runs.output import spare
from clipgap.scan.inputs import LOAD_ROWS, LoadedTest
from clipgap.scan.result import ScanResult, open_scan
from clipgap.scan.tables import SetColumns
from clipgap.select.columns import ScanTables, open_tables
from clipgap.store.base import Store
from clipgap.store.opening import open_store
from clipgap.verify.checks import Problems
from clipgap.verify.evidence import Evidence, Lists, check_inputs, runs_of_rows
from clipgap.verify.options import Shortcuts

_ROWS, _COLUMNS = 2_048, 4_096
_PAIRS = 1 << 22
"""Pairs that may wait before those beyond the lists are dropped."""

Mask = NDArray[np.bool_]

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
    run = _Run(tables, evidence, sets, emulated, numbers, options.candidates)
    if out is None:
        how.without_folder()
        return run.all(how, lambda shard, pruned: None)
    spare(Path(out), [result.path])
    rule = {"name": RULE, "sets": [names.name for names in sets], **asdict(options)}
    with KeepWriter(out, tables.store, rule, tables.sources(), how) as writer:
        if writer.finished is not None:  # what is counted stands in no keep-list
            return run.all(how, lambda shard, pruned: None)
        return run.all(how, lambda shard, pruned: writer.write(shard, run.kept(shard, pruned)))


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

    def kept(self, shard: int, pruned: Mask) -> Iterator[Piece]:
        """What is left of a shard, as a keep-list takes it."""
        for block in self.tables.blocks(shard, (), keys=True):
            left = ~pruned[block.start : block.start + block.rows]
            mask = left if block.ok is None else left & block.ok
            yield mask, block.keys.filter(pa.array(mask))  # type: ignore[union-attr]

    def all(self, how: How, on_shard: Callable[[int, Mask], None]) -> Emulation:
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
        done, shards = 0, len(self.tables.shard_rows)
        for shard, rows in enumerate(self.tables.shard_rows):
            how.check()
            how.report(
                Progress(
                    stage="emulating", done=done, total=self.tables.rows, part=shard, parts=shards
                )
            )
            masks = [self._shard(shard, names, full[names.name]) for names in self.sets]
            for one, mask in zip(found, masks, strict=True):
                one.count(*mask)
            joint = [np.logical_or.reduce(part) for part in zip(*masks, strict=True)]
            together.count(*joint)
            on_shard(shard, joint[-1])
            done += rows
        for one in found:
            one.full_lists = int(full[one.name].sum())
            one.full = self._named(one.name, full[one.name])
        together.full_lists = sum(one.full_lists for one in found)
        return Emulation(self.numbers.name, self.candidates, tuple(found), together)

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


@dataclass(frozen=True)
class EmulatedTest:
    """The usable points of a test set in rounded arithmetic."""

    points: NDArray[np.float32]  # (m, d), rounded inputs
    tau: NDArray[np.float64]  # (m,), rounded thresholds
    exact: NDArray[np.float64]  # (m,)
    unsure: int  # points whose list in the gap ends before rounding could no longer matter

    @property
    def lower(self) -> int:
        """Thresholds that are lower than the exact ones."""
        return int(np.count_nonzero(self.tau < self.exact))

    @property
    def higher(self) -> int:
        return int(np.count_nonzero(self.tau > self.exact))


def load_emulated(
    scan: ScanResult, evidence: Evidence, names: Sequence[str], numbers: Arithmetic
) -> dict[str, EmulatedTest]:
    """Read test points and reference rows as they are stored, and find the rounded thresholds."""
    made_with = scan.manifest["inputs"]["gap"]
    gap = open_scan(Path(made_with["path"]))
    if checksum(gap.manifest) != made_with["manifest_sha256"]:
        raise InputError(f"{gap.label} is no longer the gap that {scan.label} was made with")
    reference = open_store(gap.manifest["inputs"]["train"]["path"])
    if reference.fingerprints() != [
        shard["fingerprint"] for shard in gap.manifest["inputs"]["train"]["shards"]
    ]:
        raise InputError(f"{reference.path} is no longer the reference store of {gap.label}")
    tests = {test.name: test for test in evidence.tests}
    return {name: _emulated(gap, reference, tests[name], numbers) for name in names}


def _emulated(
    gap: ScanResult, reference: Store, test: LoadedTest, numbers: Arithmetic
) -> EmulatedTest:
    assert test.gap is not None
    points = numbers.rounded(_stored_points(test))
    lists = Lists.read(gap, test.name)
    reach = lists.sim[:, :1] - 2 * numbers.error
    near = lists.sim >= reach
    usable = gap.rows - int(gap.manifest["counts"]["quarantined"])
    complete = lists.sim.shape[1] == usable
    unsure = 0 if complete else int(np.count_nonzero(near[:, -1:].all(axis=1)))
    point, place = np.nonzero(near)
    column = np.searchsorted(test.row_of, lists.row)[point]
    order = np.lexsort((lists.shard_row[point, place], lists.shard[point, place]))
    point, place, column = point[order], place[order], column[order]
    tau = np.full(len(points), -np.inf)
    shards = lists.shard[point, place]
    for shard in np.unique(shards):
        mine = np.flatnonzero(shards == shard)
        rows = lists.shard_row[point[mine], place[mine]]
        for part, found in _stored_rows(reference, int(shard), rows):
            at = column[mine[part]]
            np.maximum.at(tau, at, numbers.pairwise(numbers.rounded(found), points[at]))
    return EmulatedTest(points, tau, test.gap, unsure)


def _stored_rows(
    store: Store, shard: int, rows: NDArray[np.int64]
) -> Iterator[tuple[slice, NDArray[Any]]]:
    for part in runs_of_rows(rows):
        first = int(rows[part.start])
        raw = _as_scanned(store.read(shard, first, int(rows[part.stop - 1]) + 1))
        yield part, raw[rows[part] - first]


def _stored_points(test: LoadedTest) -> NDArray[Any]:
    blocks = []
    for shard in test.store.shards:
        for start in range(0, shard.rows, LOAD_ROWS):
            stop = min(start + LOAD_ROWS, shard.rows)
            blocks.append(_as_scanned(test.store.read(shard.index, start, stop)))
    return np.concatenate(blocks)[test.row_of]


def _as_scanned(raw: NDArray[Any]) -> NDArray[Any]:
    """Rows as stored, which may be finer than float16; those that a scan normalises as it does."""
    admitted = admit(raw)
    rows = raw.astype(np.float32)
    changed = admitted.status != Status.OK
    rows[changed] = admitted.rows[changed]
    return rows


_FLOAT16_ULP = 2.0**-11  # relative error of rounding to 11 significant bits, which tf32 has too
_FLOAT32_ULP = 2.0**-24
_ROOM = 1.2  # for norms above 1 and for products of errors


@dataclass(frozen=True)
class Arithmetic:
    """What numbers are rounded to on their way in and out."""

    name: str
    inputs: str
    result: type[np.floating[Any]]

    @classmethod
    def named(cls, name: str) -> Arithmetic:
        return _KNOWN[name]

    @property
    def error(self) -> float:
        """How far a rounded score can be from the exact one.

        The exact one is of float16 rows, while the rows of a store may be finer.
        """
        inputs = _FLOAT32_ULP if self.inputs == "float32" else _FLOAT16_ULP
        result = _FLOAT16_ULP if self.result is np.float16 else _FLOAT32_ULP
        return _ROOM * (2 * (_FLOAT16_ULP + inputs) + result)

    def rounded(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Inputs as this arithmetic sees them."""
        single: NDArray[np.float32] = rows.astype(np.float32)
        if self.inputs == "float16":
            return single.astype(np.float16).astype(np.float32)
        if self.inputs == "tf32":
            # To nearest, ties to even, at 10 of the 23 bits after the point.
            bits = single.view(np.uint32)
            half = np.uint32(0x0FFF) + (bits >> np.uint32(13) & np.uint32(1))
            single = ((bits + half) & np.uint32(0xFFFFE000)).view(np.float32)
        return single

    def scores(self, rows: NDArray[np.float32], points: NDArray[np.float32]) -> NDArray[np.float64]:
        """All scores between rows (n, d) and points (m, d), both already rounded."""
        return self._rounded_result(rows.astype(np.float64) @ points.astype(np.float64).T)

    def pairwise(
        self, rows: NDArray[np.float32], points: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """The score of each row with the point at the same place."""
        products = rows.astype(np.float64) * points.astype(np.float64)
        return self._rounded_result(products.sum(axis=1))

    def _rounded_result(self, exact: NDArray[np.float64]) -> NDArray[np.float64]:
        rounded: NDArray[np.float64] = exact.astype(self.result).astype(np.float64)
        return rounded


_KNOWN = {
    "float32": Arithmetic("float32", "float32", np.float32),
    "tf32": Arithmetic("tf32", "tf32", np.float32),
    "float16": Arithmetic("float16", "float16", np.float16),
}
