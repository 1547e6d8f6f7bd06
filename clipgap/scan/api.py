"""`scan` and `gap`: from stores to tables."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipgap.runs.how import OnProgress, Progress
from clipgap.scan.job import ScanHow
from clipgap.scan.plan import ABOVE, ScanPlan, Settings, make_plan
from clipgap.scan.result import ScanResult, open_scan
from clipgap.scan.run import run_plan


def scan(
    train: Any,
    tests: Mapping[str, Any],
    *,
    gap: str | Path | ScanResult | None = None,
    k: int = 32,
    out: str | Path | None = None,
    kernel: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    block_rows: int | None = None,
    bad_rows: str = "error",
    train_table: bool = True,
    above: Sequence[float] = ABOVE,
    resume: bool = False,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
    stop: threading.Event | None = None,
) -> ScanResult:
    """Score every row of `train` against every test set, exactly, in one pass.

    `train` and the values of `tests` are whatever `open_store` takes: paths, arrays, tensors,
    stores. `gap` is a scan of a reference set; its scores become the thresholds of the columns
    margin, witness and pruned. Without `out` the tables stay in memory. Results depend on the
    inputs, `k`, `bad_rows`, `train_table` and `above`, and on nothing else. When `stop` is set the
    scan ends with `Interrupted` after the current block; `resume=True` goes on from there.
    """
    how = ScanHow(
        kernel=kernel,
        device=device,
        threads=threads,
        block_rows=block_rows,
        resume=resume,
        overwrite=overwrite,
        on_progress=on_progress,
        stop=stop,
    )
    how.report(Progress(stage="reading headers"))
    plan = plan_scan(
        train, tests, gap=gap, k=k, bad_rows=bad_rows, train_table=train_table, above=above
    )
    return run_plan(plan, out, how)


def gap(
    reference: Any,
    tests: Mapping[str, Any],
    *,
    k: int = 32,
    out: str | Path | None = None,
    kernel: str = "auto",
    device: str = "auto",
    threads: int | None = None,
    block_rows: int | None = None,
    bad_rows: str = "error",
    train_table: bool = True,
    above: Sequence[float] = ABOVE,
    resume: bool = False,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
    stop: threading.Event | None = None,
) -> ScanResult:
    """Scan a reference set: the highest score of each test point becomes its threshold.

    The result is what `scan` takes as `gap`. Arguments are those of `scan`.
    """
    how = ScanHow(
        kernel=kernel,
        device=device,
        threads=threads,
        block_rows=block_rows,
        resume=resume,
        overwrite=overwrite,
        on_progress=on_progress,
        stop=stop,
    )
    how.report(Progress(stage="reading headers"))
    plan = plan_scan(
        reference, tests, kind="gap", k=k, bad_rows=bad_rows, train_table=train_table, above=above
    )
    return run_plan(plan, out, how)


def plan_scan(
    train: Any,
    tests: Mapping[str, Any],
    *,
    kind: str = "scan",
    gap: str | Path | ScanResult | None = None,
    k: int = 32,
    bad_rows: str = "error",
    train_table: bool = True,
    above: Sequence[float] = ABOVE,
) -> ScanPlan:
    """What `scan` (or, with kind="gap", `gap`) would do; reads headers, computes nothing."""
    if gap is not None and not isinstance(gap, ScanResult):
        gap = open_scan(gap)
    return make_plan(kind, train, tests, gap, Settings(k, bad_rows, train_table, tuple(above)))
