"""`manifest.json`: what a scan was made from, and the sums that prove it whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from clipgap import __version__
from clipgap.files.documents import checksum
from clipgap.files.parquet import FileSum
from clipgap.kernels.admit import Status
from clipgap.runs.old_output import read_manifest as read_manifest_old
from clipgap.scan.counts import Totals
from clipgap.scan.inputs import LoadedTest
from clipgap.scan.plan import ScanPlan
from clipgap.scan.tables import TABLES_VERSION

FORMAT = "clipgap-scan"


def describe_inputs(plan: ScanPlan, tests: Sequence[LoadedTest]) -> dict[str, Any]:
    """Everything the results follow from: rows by fingerprint, thresholds, settings."""
    return {
        "kind": plan.kind,
        "inputs": {
            "train": plan.train.identity(),
            "tests": [_describe_test(test) for test in tests],
            "gap": _describe_gap(plan),
        },
        "settings": {**asdict(plan.settings), "above": list(plan.settings.above)},
    }


def complete(
    described: Mapping[str, Any], totals: Totals, files: Mapping[str, FileSum]
) -> dict[str, Any]:
    """The manifest of a finished scan. No time, host, thread or kernel: those change no result."""
    return {
        "format": FORMAT,
        "version": 1,
        **described,
        "counts": totals.described(),
        "versions": {
            "clipgap": __version__,
            "tables": TABLES_VERSION,
            "pyarrow": pa.__version__,
        },
        "files": {name: asdict(entry) for name, entry in sorted(files.items())},
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished scan, or an error that says what the folder is instead."""
    return read_manifest_old(
        folder,
        FORMAT,
        "scan",
        "If the scan was interrupted, run the same command again with --resume.",
    )


def _describe_test(test: LoadedTest) -> dict[str, Any]:
    return {
        "name": test.name,
        "path": test.store.path,
        "format": test.store.format,
        "rows": len(test.status),
        "normalised": int(np.count_nonzero(test.status == Status.NORMALISED)),
        "quarantined": len(test.status) - len(test.rows),
        "sha256": test.sha256,
    }


def _describe_gap(plan: ScanPlan) -> dict[str, Any] | None:
    if plan.gap is None:
        return None
    return {
        "path": plan.gap.label,
        "manifest_sha256": checksum(plan.gap.manifest),
        "sets": [name for name in plan.tests if plan.has_gap(name)],
    }
