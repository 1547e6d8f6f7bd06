"""Tables, figures and galleries from scans, splits and evaluations: a page opened from disk."""

from __future__ import annotations

import sys
from types import ModuleType

from clipgap.report.api import ReportResult, plan_report, report

__all__ = ["ReportResult", "plan_report", "report"]


class _CallableModule(ModuleType):
    # `clipgap.report` is this package and, as in `clipgap.report("scan", out="r")`, its function.
    __call__ = staticmethod(report)


sys.modules[__name__].__class__ = _CallableModule
