"""The inputs of a scan, opened again to check it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.errors import InputError, UsageError
from clipgap.files.documents import MANIFEST, checksum
from clipgap.kernels.admit import admit
from clipgap.scan.inputs import LOAD_ROWS, LoadedTest, load_tests
from clipgap.scan.manifest import describe_inputs, differences
from clipgap.scan.options import ScanOptions
from clipgap.scan.plan import ScanPlan, make_plan
from clipgap.scan.result import ScanResult, open_scan
from clipgap.scan.sinks import test_name
from clipgap.verify.problems import Problems
from clipgap.verify.scan_files import damaged_files

_SPAN = 64
"""Rows closer together than this are read in one go."""


@dataclass(frozen=True)
class Evidence:
    """The stores of a scan, and its thresholds as its own test tables state them."""

    plan: ScanPlan
    tests: list[LoadedTest]

    @classmethod
    def load(cls, result: ScanResult, train: Any, tests: Mapping[str, Any]) -> Evidence:
        inputs, settings = result.manifest["inputs"], dict(result.manifest["settings"])
        strangers = sorted(set(tests) - set(result.test_names))
        if strangers:
            raise UsageError(
                f"{result.label} has no test set {strangers[0]!r}; "
                f"it has {', '.join(result.test_names)}"
            )
        settings["above"] = tuple(settings["above"])
        plan = make_plan(
            result.manifest["kind"],
            inputs["train"]["path"] if train is None else train,
            {test["name"]: tests.get(test["name"], test["path"]) for test in inputs["tests"]},
            None,
            ScanOptions(**settings),
        )
        loaded = [
            replace(test, gap=_stated_gap(result, test)) if columns.has_gap else test
            for test, columns in zip(load_tests(plan), result.set_columns, strict=True)
        ]
        return cls(plan, loaded)

    def rows_at(
        self, shard: int, rows: NDArray[np.int64]
    ) -> Iterator[tuple[slice, NDArray[np.float16]]]:
        """Admitted rows of a shard, for row numbers in ascending order; repetitions allowed.

        Yields which of the numbers these are, and their rows.
        """
        for part in runs_of_rows(rows):
            first = int(rows[part.start])
            admitted = admit(self.plan.train.read(shard, first, int(rows[part.stop - 1]) + 1))
            yield part, admitted.rows[rows[part] - first]


def runs_of_rows(rows: NDArray[np.int64]) -> Iterator[slice]:
    """Cuts ascending row numbers into runs that are each worth reading in one go."""
    start = 0
    while start < len(rows):
        gaps = np.diff(rows[start:]) > _SPAN
        stop = start + 1 + (int(gaps.argmax()) if gaps.any() else len(gaps))
        stop = min(stop, int(np.searchsorted(rows, rows[start] + LOAD_ROWS)), start + LOAD_ROWS)
        yield slice(start, stop)
        start = stop


def check_inputs(result: ScanResult, evidence: Evidence, problems: Problems) -> str:
    """The stores are those that were scanned."""
    manifest = result.manifest
    described = describe_inputs(evidence.plan, evidence.tests)
    was, now = manifest["inputs"], described["inputs"]
    for part in ("train", "tests"):
        found = differences(was[part], now[part], f"inputs {part}")
        problems.add_all(text for *_, text in found)
    shards, tests = len(was["train"]["shards"]), len(was["tests"])
    return f"{shards:,} training shards and {tests:,} test sets are unchanged"


def check_gap(result: ScanResult, problems: Problems) -> str:
    """The thresholds in the test tables are those of the gap, which is whole, if it is there."""
    gap = result.manifest["inputs"]["gap"]
    if gap is None:
        return "scanned without a gap"
    path = Path(gap["path"])
    if not (path / MANIFEST).exists():
        return f"the gap {path} is not there; thresholds as stated in test/"
    try:
        reference = open_scan(path)
    except InputError as error:
        problems.add(str(error))
        return ""
    if checksum(reference.manifest) != gap["manifest_sha256"]:
        problems.add(f"{path} is no longer the gap that was used: its manifest differs")
        return ""
    damaged = [f"{path}: {text}" for text in damaged_files(reference)]
    if damaged:
        problems.add_all(damaged)
        return ""
    for name in gap["sets"]:
        stated = result.test(name, ["gap"])["gap"].to_numpy()
        known = ~np.isnan(stated)
        wrong = np.flatnonzero(known)[stated[known] != reference.tau(name)[known]]
        problems.at(wrong, f"{test_name(name)}, row {{:,}}: gap differs from its source".format)
    return f"equal to those of {gap['path']}"


def _stated_gap(result: ScanResult, test: LoadedTest) -> NDArray[np.float64]:
    stated = result.test(test.name, ["gap"])["gap"].to_numpy()
    if len(stated) != len(test.status):
        return np.full(len(test.rows), np.inf)  # the check of inputs reports the other length
    gap: NDArray[np.float64] = stated[test.row_of]
    return gap
