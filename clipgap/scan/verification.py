"""`verify`: proves a scan right from its inputs, or says which file and which row is wrong.

Checksums show that the files are those that were written. That what was written is true is shown by
the oracle, which shares no code with the kernels: for a random sample of rows and for every tie, or
for everything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipgap.errors import InputError, UsageError
from clipgap.scan.problems import Problems
from clipgap.scan.progress import OnProgress, Progress, ignore
from clipgap.scan.result import ScanResult, open_scan
from clipgap.scan.verify_files import check_counts, check_files, check_schemas
from clipgap.scan.verify_full import check_everything
from clipgap.scan.verify_inputs import Evidence, check_gap, check_inputs
from clipgap.scan.verify_lists import check_lists, check_neighbours
from clipgap.scan.verify_rows import check_rows


@dataclass(frozen=True)
class Check:
    """One thing that was checked; `detail` names what is wrong, or how much was right."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found."""

    path: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)


def verify(
    path: str | Path,
    *,
    sample: int = 256,
    seed: int = 0,
    full: bool = False,
    train: Any = None,
    tests: Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
) -> VerifyReport:
    """Check a scan folder: checksums, schemas, counts, a sample of `sample` training rows and test
    points derived anew by the oracle, and every tie; with `full`, everything derived anew.

    `train` and `tests` say where the inputs lie now, if not where the manifest says.
    """
    if sample < 0:
        raise UsageError(f"sample is {sample:,}; it cannot be negative")
    result = open_scan(path)
    report = on_progress or ignore
    run = _Run(report)
    run.check("checksums", check_files, result)
    run.check("schemas and row counts", check_schemas, result)
    # Tables that cannot be trusted to be tables are not read any further.
    if run.all_good:
        run.check("histograms and counts", check_counts, result)
        run.check("order of neighbours", check_lists, result)
        evidence = _evidence(result, train, tests)
        run.check("inputs", check_inputs, result, evidence)
        run.check("thresholds", check_gap, result)
    if run.all_good:
        run.check("training rows", check_rows, result, evidence, sample, seed)
        run.check("neighbours and ties", check_neighbours, result, evidence, sample, seed)
        if full:
            run.check("everything", check_everything, result, evidence, report)
    return VerifyReport(str(path), tuple(run.checks))


class _Run:
    def __init__(self, report: OnProgress) -> None:
        self.checks: list[Check] = []
        self._report = report

    @property
    def all_good(self) -> bool:
        return all(check.ok for check in self.checks)

    def check(self, name: str, look: Callable[..., str], *arguments: Any) -> None:
        """`look` adds to the problems that it is given, and says what it looked at."""
        self._report(Progress("verifying", note=name))
        problems = Problems()
        seen = look(*arguments, problems)
        self.checks.append(Check(name, not problems.count, str(problems) or seen))


def _evidence(result: ScanResult, train: Any, tests: Mapping[str, Any] | None) -> Evidence:
    try:
        return Evidence.load(result, train, tests or {})
    except InputError as error:
        raise InputError(
            f"cannot read what {result.label} was made from: {error}\n"
            "If the data has moved, say where it is now (train=… and tests=…; on the command line "
            "--train and --test NAME=STORE)."
        ) from error
