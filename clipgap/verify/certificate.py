"""The certificate of a split: what was claimed, what was found, and of which data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from clipgap import __version__
from clipgap.files.documents import checksum
from clipgap.keep.lists import KeepList
from clipgap.scan.result import ScanResult
from clipgap.verify.checks import Check
from clipgap.verify.claims import Claim


def certificate(
    keep: KeepList, scans: Sequence[ScanResult], checks: Sequence[Check], claims: Sequence[Claim]
) -> dict[str, Any]:
    """Plain data; the fingerprints tell which stores, scans and files it is about."""
    store = keep.manifest["store"]
    return {
        "holds": all(check.ok for check in checks),
        "keep": {
            "path": str(keep.path),
            "manifest_sha256": checksum(keep.manifest),
            "rule": keep.manifest["rule"],
            "rows": keep.rows,
            "kept": keep.kept,
        },
        "store": {
            "path": store["path"],
            "shards": {shard["name"]: shard["fingerprint"] for shard in store["shards"]},
        },
        "scans": [_scan(scan) for scan in scans],
        "claims": {claim.name: _claim(claim) for claim in claims},
        "checks": {check.name: {"ok": check.ok, "detail": check.detail} for check in checks},
        "versions": {"clipgap": __version__, "numpy": np.__version__},
    }


def _scan(scan: ScanResult) -> dict[str, Any]:
    inputs = scan.manifest["inputs"]
    return {
        "path": scan.label,
        "manifest_sha256": checksum(scan.manifest),
        "tests": {test["name"]: test["sha256"] for test in inputs["tests"]},
        "gap": inputs["gap"],
    }


def _claim(claim: Claim) -> dict[str, Any]:
    return {
        "says": claim.says,
        "holds": not claim.problems.count,
        "checked": claim.rows,
        "contradicted": claim.problems.count,
        "contradictions": list(claim.problems.shown),
    }
