"""The whole scan anew by the oracle, compared as it comes; nothing of it is kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from clipgap.files.parquet import FileSum, Put, read_row_groups, row_groups
from clipgap.kernels.options import Compute
from clipgap.runs.how import How, OnProgress
from clipgap.scan.api import scan_into
from clipgap.scan.result import ScanResult
from clipgap.scan.sinks import MemorySink, part_name
from clipgap.scan.work import ScanWork
from clipgap.verify.problems import Problems
from clipgap.verify.scan_inputs import Evidence

_SCORES = 1 << 23
"""Scores held at once."""


def check_everything(
    result: ScanResult, evidence: Evidence, on_progress: OnProgress, problems: Problems
) -> str:
    """Every value of every table."""
    # The oracle holds all scores of a block at once.
    block_rows = max(1, _SCORES // max(len(test.rows) for test in evidence.tests))
    compute = Compute(kernel="numpy", block_rows=block_rows)
    sink = _Comparing(result, problems)
    work = ScanWork(evidence.plan, compute, sink, given=list(evidence.tests))
    scan_into(work, How(on_progress=on_progress))
    return f"{sink.rows:,} rows of all tables derived anew"


class _Comparing(MemorySink):
    """A sink that holds each table against the file that should be equal to it."""

    def __init__(self, result: ScanResult, problems: Problems) -> None:
        super().__init__()
        self._result, self._problems = result, problems
        self.rows = 0

    @contextmanager
    def part(self, shard: int, schema: Any) -> Iterator[Put]:
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
