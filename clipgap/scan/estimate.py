"""How long a scan would take here: a second of the real kernel on made-up rows, scaled up."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from clipgap.kernels.choose import make_scanner, resolve
from clipgap.kernels.gpu.order import ON_GPU
from clipgap.kernels.interface import TestSet
from clipgap.kernels.options import Compute
from clipgap.scan.plan import ScanPlan
from clipgap.synthetic import rows as synthetic

_SIDE = 4096  # rows and columns
_SIDE_ON_GPU = 32_768
_SECONDS = 1.0


@dataclass(frozen=True)
class Estimate:
    """The expected time of a plan, if reading keeps up with computing."""

    kernel: str
    flops_per_second: float
    seconds: float


def estimate(plan: ScanPlan, compute: Compute) -> Estimate:
    """Run the kernel that would run, for about a second; its rate does not depend on N or M."""
    dim, columns, k = plan.train.dim, plan.test_rows, plan.settings.k
    return estimate_scores(plan.operations, dim, columns, k, compute)


def estimate_scores(operations: int, dim: int, columns: int, k: int, compute: Compute) -> Estimate:
    """The same for so many operations on scores against so many columns."""
    side = _SIDE_ON_GPU if resolve(compute.kernel, compute.device) in ON_GPU else _SIDE
    columns = min(columns, side)
    test = TestSet("estimate", synthetic.clip_like(columns, dim, seed=1))
    scanner = make_scanner([test], k, compute=compute)
    rows, ids = synthetic.clip_like(side, dim), np.arange(side)
    scanner.scan(rows, ids)  # the first block fills the lists, which a long scan forgets
    began, done = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < _SECONDS:
        scanner.scan(rows, ids)
        done += side
    rate = 2.0 * done * columns * dim / spent
    return Estimate(scanner.name, rate, operations / rate)
