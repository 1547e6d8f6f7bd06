"""Scans: their folders checked, then a sample of scores, or all, derived anew by the oracle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipgap.files.documents import MANIFEST
from clipgap.files.parquet import ROW_GROUP, FileSum, Put, read_row_groups, row_groups
from clipgap.files.remote import source_of
from clipgap.kernels.admit import admit
from clipgap.kernels.options import MAX_BLOCK_ROWS, Compute
from clipgap.kernels.oracle import exact_scores
from clipgap.runs.how import How, OnProgress
from clipgap.scan.api import scan_into
from clipgap.scan.inputs import LoadedTest
from clipgap.scan.lists import runs, take_strings
from clipgap.scan.manifest import differences
from clipgap.scan.outputs.base import RowOutput, SetOutput, Values
from clipgap.scan.result import ScanResult, open_scan
from clipgap.scan.sinks import MemorySink, Sums, part_name, test_name
from clipgap.scan.tables import Part
from clipgap.scan.work import ScanWork
from clipgap.verify.checks import Asked, Checks, Count, Problems
from clipgap.verify.evidence import (
    Evidence,
    Lists,
    check_counts,
    check_gap,
    check_inputs,
    check_lists,
    check_scan_files,
    check_schemas,
    report_entries,
)

_SCORES = 1 << 23
"""Scores held at once."""


def prove_scan(asked: Asked, checks: Checks) -> None:
    """What can be checked without the inputs, then a sample of rows and points, or everything."""
    result, options = open_scan(asked.path), asked.options
    checks.make("checksums", check_scan_files, result, checks.count)
    checks.make("schemas and row counts", check_schemas, result)
    # Tables that cannot be trusted to be tables are not read any further.
    if not checks.all_good:
        return
    checks.make("histograms and counts", check_counts, result, checks.count)
    checks.make("order of neighbours", check_lists, result)
    evidence = Evidence.load(result, asked.train, asked.tests)
    checks.make("inputs", check_inputs, result, evidence)
    checks.make("thresholds", check_gap, result)
    if not checks.all_good:
        return
    sample = options.sample, options.seed, checks.count
    checks.make("training rows", check_rows, result, evidence, *sample)
    checks.make("neighbours and ties", check_neighbours, result, evidence, *sample)
    if options.full:
        checks.make("everything", check_everything, result, evidence, asked.on_progress)


def check_neighbours(
    result: ScanResult,
    evidence: Evidence,
    sample: int,
    seed: int,
    count: Count,
    problems: Problems,
) -> str:
    """The oracle scores anew: the lists of sampled points, and every entry of a tie."""
    random = np.random.default_rng([seed, 1])
    scored = 0
    for g, test in enumerate(evidence.tests):
        lists = Lists.read(result, test.name)
        chosen = lists.tied
        points = random.choice(len(lists.row), min(sample, len(lists.row)), replace=False)
        chosen[points] = True
        point, place = np.nonzero(chosen)
        order = np.lexsort((lists.shard_row[point, place], lists.shard[point, place]))
        point, place = point[order], place[order]
        scored += len(point)
        entries = count(len(point), f"entries of {test.name}")
        for start, stop in runs(lists.shard[point, place]):
            at = point[start:stop], place[start:stop]
            _score_shard(evidence, g, lists, at, problems)
            entries.add(stop - start)
    return f"{scored:,} entries scored anew"


def _score_shard(
    evidence: Evidence,
    g: int,
    lists: Lists,
    at: tuple[NDArray[np.int64], NDArray[np.int64]],
    problems: Problems,
) -> None:
    test, store = evidence.tests[g], evidence.plan.train
    point, place = at
    shard, rows = int(lists.shard[at][0]), lists.shard_row[at]
    columns = np.searchsorted(test.row_of, lists.row[point])
    wrong = np.zeros(lists.sim.shape, np.bool_)
    for part, found in evidence.rows_at(shard, rows):
        columns_here = test.rows[columns[part]].astype(np.float64)
        scores = (found.astype(np.float64) * columns_here).sum(axis=1)
        wrong[point[part], place[part]] = scores != lists.sim[point[part], place[part]]
    report_entries(lists, wrong, "has another score than stated", problems)
    if store.has_keys:
        unique, back = np.unique(rows, return_inverse=True)
        true_keys = np.asarray(store.take_keys(shard, unique), object)[back]
        stated = np.asarray(take_strings(lists.keys, point * lists.sim.shape[1] + place), object)
        wrong = np.zeros(lists.sim.shape, np.bool_)
        wrong[at] = true_keys != stated
        report_entries(lists, wrong, "has another key than stated", problems)


@dataclass(frozen=True)
class _Last:
    """The last entry of each test point's list: what a row must beat to be listed."""

    sim: NDArray[np.float64]
    id: NDArray[np.int64]
    ids: NDArray[np.int64]  # (points, length)


def check_rows(
    result: ScanResult,
    evidence: Evidence,
    sample: int,
    seed: int,
    count: Count,
    problems: Problems,
) -> str:
    """The oracle scores sampled training rows against all test points."""
    plan, offsets = evidence.plan, evidence.plan.offsets
    random = np.random.default_rng([seed, 0])
    ids = np.sort(random.choice(plan.train.rows, min(sample, plan.train.rows), replace=False))
    lasts = [_last(Lists.read(result, test.name), test, offsets) for test in evidence.tests]
    step = max(1, _SCORES // max(len(test.rows) for test in evidence.tests))
    shards = np.searchsorted(offsets, ids, side="right") - 1
    scored = count(len(ids), "rows")
    for shard in np.unique(shards):
        rows = ids[shards == shard] - offsets[shard]
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            _check_some(result, evidence, lasts, int(shard), some, problems)
            scored.add(len(some))
    return f"{len(ids):,} rows scored anew against {plan.test_rows:,} test points"


def _check_some(
    result: ScanResult,
    evidence: Evidence,
    lasts: list[_Last],
    shard: int,
    rows: NDArray[np.int64],
    problems: Problems,
) -> None:
    store = evidence.plan.train
    raw = np.concatenate([store.read(shard, int(row), int(row) + 1) for row in rows])
    admitted = admit(raw)
    ok = admitted.ok
    expected: dict[str, list[Any]] = {}
    if store.has_keys:
        keys = store.take_keys(shard, rows)
        assert keys is not None
        expected["key"] = keys.to_pylist()
    parts = replace(result.columns, added=evidence.plan.added()).parts
    ids = evidence.plan.offsets[shard] + rows
    for test, last in zip(evidence.tests, lasts, strict=True):
        scores = exact_scores(admitted.rows, test.rows)
        _check_listed(scores[ok], ids[ok], test, last, problems)
        for part in parts:
            if isinstance(part.output, SetOutput) and part.test == test.name:
                defined = part.output.define(scores, test.gap)
                expected |= _as_stored(part, defined, ok, test.row_of)
    for part in parts:
        if isinstance(part.output, RowOutput):
            expected |= _as_stored(part, part.output.define(admitted.rows), ok)
    if result.manifest["settings"]["train_table"]:
        _compare(result, shard, rows, expected, problems)


def _as_stored(
    part: Part, defined: Values, ok: NDArray[np.bool_], row_of: NDArray[np.int32] | None = None
) -> dict[str, list[Any]]:
    """Defined values of all rows as the table should hold them: rounded once, or null."""
    columns = {}
    for field, values in zip(part.fields, defined, strict=True):
        if field.column.is_point and row_of is not None:
            values = row_of[values]
        stored = field.column.as_arrow(values.astype(field.column.dtype), ~ok)
        columns[field.name] = stored.to_pylist()
    return columns


def _compare(
    result: ScanResult,
    shard: int,
    rows: NDArray[np.int64],
    expected: dict[str, list[Any]],
    problems: Problems,
) -> None:
    assert result.path is not None
    file = pq.ParquetFile(source_of(result.path / part_name(shard)))
    for group in np.unique(rows // ROW_GROUP):
        inside = np.flatnonzero(rows // ROW_GROUP == group)
        table = file.read_row_group(int(group), columns=list(expected))
        stored = table.take(rows[inside] - group * ROW_GROUP).to_pydict()
        for column, values in expected.items():
            for at, was in zip(inside, stored[column], strict=True):
                if was != values[at]:
                    problems.add(
                        f"{part_name(shard)}, row {rows[at]:,}: {column} is {was}, "
                        f"should be {values[at]}"
                    )


def _last(lists: Lists, test: LoadedTest, offsets: NDArray[np.int64]) -> _Last:
    ids = lists.ids(offsets)
    if not ids.size:  # no training row is usable
        points = len(test.rows)
        none = np.zeros((points, 0), np.int64)
        return _Last(np.full(points, -np.inf), np.full(points, -1), none)
    return _Last(lists.sim[:, -1], ids[:, -1], ids)


def _check_listed(
    scores: NDArray[np.float64],
    ids: NDArray[np.int64],
    test: LoadedTest,
    last: _Last,
    problems: Problems,
) -> None:
    """A row that is at least as good as the last of a list, ties by id, must be in that list."""
    at = ids[:, None]
    due = (scores > last.sim) | ((scores == last.sim) & (at <= last.id))
    row, point = np.nonzero(due)
    listed = (last.ids[point] == ids[row, None]).any(axis=1)
    problems.at(
        np.argwhere(~listed)[:, 0],
        lambda i: (
            f"{test_name(test.name)}, row {test.row_of[point[i]]:,}: "
            f"training id {ids[row[i]]:,} is missing"
        ),
    )


def check_everything(
    result: ScanResult, evidence: Evidence, on_progress: OnProgress, problems: Problems
) -> str:
    """Every value of every table."""
    # The oracle holds all scores of a block at once.
    fitting = _SCORES // max(len(test.rows) for test in evidence.tests)
    block_rows = min(max(1, fitting), MAX_BLOCK_ROWS)
    compute = Compute(kernel="numpy", block_rows=block_rows)
    sink = _Comparing(result, problems)
    work = ScanWork(evidence.plan, compute, sink, given=list(evidence.tests))
    found = scan_into(work, How(on_progress=on_progress))
    problems.add_all(
        f"{MANIFEST}: {text}"
        for *_, text in differences(result.manifest["counts"], found["counts"])
    )
    return f"{sink.rows:,} rows of all tables derived anew"


class _Comparing(MemorySink):
    """A sink that holds each table against the file that should be equal to it."""

    def __init__(self, result: ScanResult, problems: Problems) -> None:
        super().__init__()
        self._result, self._problems = result, problems
        self.rows = 0

    @contextmanager
    def part(self, shard: int, schema: Any, sums: Sums) -> Iterator[Put]:
        with self._against(part_name(shard), schema) as compare:
            yield compare

    def table(self, name: str, schema: Any, tables: Iterable[Any]) -> FileSum | None:
        with self._against(name, schema) as compare:
            for group in row_groups(schema, tables):
                compare(group)
        return None

    @contextmanager
    def _against(self, name: str, schema: Any) -> Iterator[Put]:
        """Takes the row groups that a file should have, one after the other."""
        assert self._result.path is not None
        stored = read_row_groups(self._result.path / name, self._result.sum_of(name))
        start = 0

        def compare(group: Any) -> None:
            nonlocal start
            self._compare(name, start, group, next(stored, schema.empty_table()))
            start += group.num_rows

        yield compare

    def _compare(self, name: str, start: int, right: Any, stored: Any) -> None:
        self.rows += right.num_rows
        if right.num_rows != stored.num_rows:
            self._problems.add(f"{name}: {stored.num_rows:,} rows, should be {right.num_rows:,}")
            return
        for column in right.column_names:
            if not right[column].equals(stored[column]):
                self._problems.add(_unequal(name, column, start, right[column], stored[column]))


def _unequal(name: str, column: str, start: int, right: Any, stored: Any) -> str:
    """The first row in which two columns differ."""
    low, high = 0, len(right)
    while high - low > 1:
        middle = (low + high) // 2
        if right.slice(low, middle - low).equals(stored.slice(low, middle - low)):
            low = middle
        else:
            high = middle
    was, should = stored[low].as_py(), right[low].as_py()
    if isinstance(was, list) and isinstance(should, list) and len(was) == len(should):
        place = next(
            i for i, pair in enumerate(zip(was, should, strict=True)) if pair[0] != pair[1]
        )
        column, was, should = f"{column} entry {place + 1}", was[place], should[place]
    return f"{name}, row {start + low:,}: {column} is {was}, should be {should}"
