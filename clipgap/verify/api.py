"""`verify`: proves a scan right from its inputs, or says which file and which row is wrong.

Checksums show that the files are those that were written. That what was written is true is shown by
the oracle, which shares no code with the kernels: for a random sample of rows and for every tie, or
for everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clipgap.errors import InputError
from clipgap.options import takes_options
from clipgap.runs.how import OnProgress, ignore
from clipgap.scan.result import ScanResult, open_scan
from clipgap.verify.checks import Checks, VerifyReport
from clipgap.verify.options import ScanChecks
from clipgap.verify.scan_scores import check_everything, check_lists, check_neighbours, check_rows
from clipgap.verify.scans import (
    Evidence,
    check_counts,
    check_files,
    check_gap,
    check_inputs,
    check_schemas,
)


@takes_options
def verify(
    path: str | Path,
    *,
    train: Any = None,
    tests: Mapping[str, Any] | None = None,
    on_progress: OnProgress | None = None,
    options: ScanChecks,
) -> VerifyReport:
    """Check a scan folder: checksums, schemas, counts, a sample of `sample` training rows and test
    points derived anew by the oracle, and every tie; with `full`, everything derived anew.

    `train` and `tests` say where the inputs lie now, if not where the manifest says.
    """
    result = open_scan(path)
    report = on_progress or ignore
    run = Checks(report)
    run.make("checksums", check_files, result)
    run.make("schemas and row counts", check_schemas, result)
    # Tables that cannot be trusted to be tables are not read any further.
    if run.all_good:
        run.make("histograms and counts", check_counts, result)
        run.make("order of neighbours", check_lists, result)
        evidence = load_evidence(result, train, tests)
        run.make("inputs", check_inputs, result, evidence)
        run.make("thresholds", check_gap, result)
    if run.all_good:
        run.make("training rows", check_rows, result, evidence, options.sample, options.seed)
        run.make(
            "neighbours and ties", check_neighbours, result, evidence, options.sample, options.seed
        )
        if options.full:
            run.make("everything", check_everything, result, evidence, report)
    return VerifyReport(str(path), tuple(run.done))


def load_evidence(result: ScanResult, train: Any, tests: Mapping[str, Any] | None) -> Evidence:
    try:
        return Evidence.load(result, train, tests or {})
    except InputError as error:
        raise InputError(
            f"cannot read what {result.label} was made from: {error}\n"
            "If the data has moved, say where it is now (train=… and tests=…; on the command line "
            "--train and --test NAME=STORE)."
        ) from error
