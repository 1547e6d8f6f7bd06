"""What a scan was made from, in its plan and in its manifest, and what may differ of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from clipgap.files import documents
from clipgap.files.documents import FILES, Each, Form, is_count, is_number
from clipgap.heads.heads import CITED, COUNTS
from clipgap.runs.changes import Change, changes
from clipgap.runs.output import Kind
from clipgap.scan.sinks import HIST, QUARANTINE
from clipgap.scan.tables import TABLES_VERSION
from clipgap.store.provenance import MODELS
from clipgap.version import __version__

FORMAT = "clipgap-scan"

STORE = {
    "shards": [{"name": str, "rows": is_count}],
    "dim": is_count,
    "models": MODELS,
}
"""What a document says of the store that its rows are of."""

_LABELS = {
    "settings": "setting",
    "inputs train": "training store",
    "inputs train shards": "training shard",
    "inputs tests": "test set",
    "inputs gap": "gap",
    "inputs heads": "heads",
    "marks": "last change of training shard",
}

KIND = Kind(
    Form(
        FORMAT,
        "scan",
        {
            "kind": ("scan", "gap"),
            "inputs": {
                "train": STORE,
                "tests": [
                    {
                        "name": str,
                        "rows": is_count,
                        "quarantined": is_count,
                        "sha256": str,
                        "models": MODELS,
                    }
                ],
                "gap": (None, {"path": str, "manifest_sha256": str, "sets": [str]}),
                "heads": (None, CITED),
                "mixed_models": (None, True),
            },
            "settings": {
                "k": is_count,
                "bad_rows": str,
                "train_table": bool,
                "above": [is_number],
            },
            "counts": {
                "rows": is_count,
                "normalised": is_count,
                "quarantined": is_count,
                "pruned": Each(is_count),
                "pruned_by_any": is_count,
                # The domains of rows, where heads said them.
                **{name: (None, shape) for name, shape in COUNTS.items()},
            },
            "versions": Each((str, int)),
            "files": FILES,
        },
    ),
    owns=("train/part-*.parquet", "test/*.parquet", HIST, QUARANTINE),
    inner=("test", ".progress/quarantine"),
    labels=_LABELS,
    # A store may have moved; what counts is its content, whatever is known of its making.
    free=("path", "format", "models", "mixed_models"),
    record={"rows": is_count, "quarantined": is_count, "totals": str, "files": FILES},
)


def versions() -> dict[str, Any]:
    """No time, host, thread or kernel: those change no result."""
    return {"clipgap": __version__, "tables": TABLES_VERSION, "pyarrow": pa.__version__}


def may_change(change: Change) -> bool:
    """No row that is not finite has been met so far, or the run would have ended there."""
    return change[:3] == ("setting bad_rows", "error", "quarantine")


def differences(old: Any, new: Any, path: str = "") -> Iterator[Change]:
    """Each value that differs between two descriptions of a scan."""
    return changes(old, new, KIND.labels, KIND.free, path)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished scan, or an error that says what the folder is instead."""
    return documents.read_manifest(
        folder,
        KIND.form,
        "If the scan was interrupted, run the same command again with --resume.",
    )
