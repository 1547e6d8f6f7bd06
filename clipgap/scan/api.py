"""`scan` and `gap`: from stores to tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipgap.kernels.options import Compute
from clipgap.options import takes_options
from clipgap.runs.how import Progress
from clipgap.runs.old_how import How
from clipgap.scan.options import ScanOptions
from clipgap.scan.plan import ScanPlan, make_plan
from clipgap.scan.result import ScanResult, open_scan
from clipgap.scan.run import run_plan


@takes_options
def scan(
    train: Any,
    tests: Mapping[str, Any],
    *,
    gap: str | Path | ScanResult | None = None,
    out: str | Path | None = None,
    options: ScanOptions,
    compute: Compute,
    how: How[Progress],
) -> ScanResult:
    """Score every row of `train` against every test set, exactly, in one pass.

    `train` and the values of `tests` are whatever `open_store` takes: paths, arrays, tensors,
    stores. `gap` is a scan of a reference set; its scores become the thresholds of the columns
    margin, witness and pruned. Without `out` the tables stay in memory. Results depend on the
    inputs, `k`, `bad_rows`, `train_table` and `above`, and on nothing else. When `stop` is set the
    scan ends with `Interrupted` after the current block; `resume=True` goes on from there.
    """
    how.report(Progress(stage="reading headers"))
    return run_plan(plan_scan(train, tests, gap=gap, options=options), out, compute, how)


@takes_options
def gap(
    reference: Any,
    tests: Mapping[str, Any],
    *,
    out: str | Path | None = None,
    options: ScanOptions,
    compute: Compute,
    how: How[Progress],
) -> ScanResult:
    """Scan a reference set: the highest score of each test point becomes its threshold.

    The result is what `scan` takes as `gap`. Arguments are those of `scan`.
    """
    how.report(Progress(stage="reading headers"))
    return run_plan(plan_scan(reference, tests, kind="gap", options=options), out, compute, how)


@takes_options
def plan_scan(
    train: Any,
    tests: Mapping[str, Any],
    *,
    kind: str = "scan",
    gap: str | Path | ScanResult | None = None,
    options: ScanOptions,
) -> ScanPlan:
    """What `scan` (or, with kind="gap", `gap`) would do; reads headers, computes nothing."""
    if gap is not None and not isinstance(gap, ScanResult):
        gap = open_scan(gap)
    return make_plan(kind, train, tests, gap, options)
