"""`manifest.json`: what a scan was made from, and the sums that prove it whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from clipgap import __version__
from clipgap.errors import InputError
from clipgap.kernels.admit import Status
from clipgap.scan.inputs import LoadedTest
from clipgap.scan.plan import ScanPlan
from clipgap.tables.atomic import write_atomic
from clipgap.tables.files import FileSum
from clipgap.tables.histogram import Totals
from clipgap.tables.schema import TABLES_VERSION

FORMAT = "clipgap-scan"
MANIFEST = "manifest.json"
_FINGERPRINT_THREADS = 16
"""A fingerprint reads little; many at once hide the latency of a remote store."""


def describe_inputs(plan: ScanPlan, tests: Sequence[LoadedTest]) -> dict[str, Any]:
    """Everything the results follow from: rows by fingerprint, thresholds, settings."""
    with ThreadPoolExecutor(_FINGERPRINT_THREADS) as pool:
        shards = plan.train.shards
        fingerprints = list(pool.map(plan.train.fingerprint, range(len(shards))))
    return {
        "kind": plan.kind,
        "inputs": {
            "train": {
                "path": plan.train.path,
                "format": plan.train.format,
                "dim": plan.train.dim,
                "rows": plan.train.rows,
                "shards": [
                    {
                        "name": shard.name,
                        "rows": shard.rows,
                        "dtype": shard.dtype,
                        "fingerprint": fingerprint,
                    }
                    for shard, fingerprint in zip(shards, fingerprints, strict=True)
                ],
            },
            "tests": [_describe_test(test) for test in tests],
            "gap": _describe_gap(plan),
        },
        "settings": {**asdict(plan.settings), "above": list(plan.settings.above)},
    }


def complete(
    described: Mapping[str, Any], totals: Totals, names: Sequence[str], files: Mapping[str, FileSum]
) -> dict[str, Any]:
    """The manifest of a finished scan. No time, host, thread or kernel: those change no result."""
    rows, normalised, quarantined = (int(count) for count in totals.rows)
    return {
        "format": FORMAT,
        "version": 1,
        **described,
        "counts": {
            "rows": rows,
            "normalised": normalised,
            "quarantined": quarantined,
            "pruned": dict(zip(names, totals.pruned[:-1].tolist(), strict=True)),
            "pruned_by_any": int(totals.pruned[-1]),
        },
        "versions": {
            "clipgap": __version__,
            "tables": TABLES_VERSION,
            "pyarrow": pa.__version__,
        },
        "files": {name: asdict(entry) for name, entry in sorted(files.items())},
    }


def encode(document: Mapping[str, Any]) -> bytes:
    """One way to write JSON, so that equal documents are equal files."""
    text = json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def checksum(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(encode(document)).hexdigest()


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    with write_atomic(path) as temporary:
        temporary.write_bytes(encode(document))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished scan, or an error that says what the folder is instead."""
    path = folder / MANIFEST
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(
            f"{folder} is not a finished scan: it has no {MANIFEST}. If the scan was interrupted, "
            "run the same command again with --resume."
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError(f"{path} is not the manifest of a clipgap scan")
    if document.get("version") != 1:
        raise InputError(
            f"{path} has version {document.get('version')}; this clipgap reads version 1. "
            "Use the clipgap that wrote it, or a newer one."
        )
    return document


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
