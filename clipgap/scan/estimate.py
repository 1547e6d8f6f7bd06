"""How long a scan would take here: a second of the real kernel on made-up rows, scaled up."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from clipgap import synthetic
from clipgap.kernels.choose import make_scanner
from clipgap.kernels.interface import TestSet
from clipgap.scan.plan import ScanPlan

_ROWS = 4096
_COLUMNS = 4096
_SECONDS = 1.0


@dataclass(frozen=True)
class Estimate:
    """The expected time of a plan, if reading keeps up with computing."""

    kernel: str
    flops_per_second: float
    seconds: float


def estimate(plan: ScanPlan, *, kernel: str = "auto", threads: int | None = None) -> Estimate:
    """Run the kernel that would run, for about a second; its rate does not depend on N or M."""
    dim, columns = plan.train.dim, min(plan.test_rows, _COLUMNS)
    test = TestSet("estimate", synthetic.clip_like(columns, dim, seed=1))
    scanner = make_scanner([test], plan.settings.k, kernel=kernel, threads=threads)
    rows, ids = synthetic.clip_like(_ROWS, dim), np.arange(_ROWS)
    scanner.scan(rows, ids)  # the first block fills the lists, which a long scan forgets
    began, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < _SECONDS:
        scanner.scan(rows, ids)
        done += _ROWS
    rate = 2.0 * done * columns * dim / spent
    return Estimate(scanner.name, rate, plan.operations / rate)
