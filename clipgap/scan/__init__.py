"""Exact scans of training stores against test sets, from files to tables."""

from __future__ import annotations

import sys
from types import ModuleType

from clipgap.scan.api import gap, plan_scan, scan
from clipgap.scan.checks import VerifyReport
from clipgap.scan.estimate import Estimate, estimate
from clipgap.scan.plan import ScanPlan
from clipgap.scan.progress import Progress
from clipgap.scan.result import ScanResult, open_scan
from clipgap.scan.verification import verify

__all__ = [
    "Estimate",
    "Progress",
    "ScanPlan",
    "ScanResult",
    "VerifyReport",
    "estimate",
    "gap",
    "open_scan",
    "plan_scan",
    "scan",
    "verify",
]


class _CallableModule(ModuleType):
    # `clipgap.scan` is this package and, as in `clipgap.scan(train, tests)`, also its function.
    __call__ = staticmethod(scan)


sys.modules[__name__].__class__ = _CallableModule
