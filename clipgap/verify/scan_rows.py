"""Checks of sampled training rows: all their scores anew, against the table and the lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clipgap.files.parquet import ROW_GROUP
from clipgap.kernels.admit import admit
from clipgap.kernels.oracle import exact_scores
from clipgap.scan.inputs import LoadedTest
from clipgap.scan.outputs.base import RowOutput, SetOutput, Values
from clipgap.scan.result import ScanResult
from clipgap.scan.sinks import part_name, test_name
from clipgap.scan.tables import Part
from clipgap.verify.problems import Problems
from clipgap.verify.scan_inputs import Evidence
from clipgap.verify.scan_lists import Lists

_SCORES = 1 << 23
"""Scores held at once."""


@dataclass(frozen=True)
class _Last:
    """The last entry of each test point's list: what a row must beat to be listed."""

    sim: NDArray[np.float64]
    id: NDArray[np.int64]
    ids: NDArray[np.int64]  # (points, length)


def check_rows(
    result: ScanResult, evidence: Evidence, sample: int, seed: int, problems: Problems
) -> str:
    """The oracle scores sampled training rows against all test points."""
    plan, offsets = evidence.plan, evidence.plan.offsets
    random = np.random.default_rng([seed, 0])
    ids = np.sort(random.choice(plan.train.rows, min(sample, plan.train.rows), replace=False))
    lasts = [_last(Lists.read(result, test.name), test, offsets) for test in evidence.tests]
    step = max(1, _SCORES // max(len(test.rows) for test in evidence.tests))
    shards = np.searchsorted(offsets, ids, side="right") - 1
    for shard in np.unique(shards):
        rows = ids[shards == shard] - offsets[shard]
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            _check_some(result, evidence, lasts, int(shard), some, problems)
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
    parts = result.columns.parts
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
        stored = values.astype(field.column.dtype).tolist()
        columns[field.name] = [v if good else None for v, good in zip(stored, ok, strict=True)]
    return columns


def _compare(
    result: ScanResult,
    shard: int,
    rows: NDArray[np.int64],
    expected: dict[str, list[Any]],
    problems: Problems,
) -> None:
    assert result.path is not None
    file = pq.ParquetFile(result.path / part_name(shard))
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
