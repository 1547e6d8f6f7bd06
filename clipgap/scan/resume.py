"""Whether an output on disk belongs to the scan that is asked for now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clipgap.runs.changes import Change, changes, refuse_changes
from clipgap.scan.plan import ScanPlan

_LABELS = {
    "settings": "setting",
    "inputs train": "training store",
    "inputs train shards": "training shard",
    "inputs train marks": "last change of training shard",
    "inputs tests": "test set",
    "inputs gap": "gap",
}
# A store may have moved; what counts is its content.
_FREE = ("path", "format")


def with_marks(described: Mapping[str, Any], plan: ScanPlan) -> dict[str, Any]:
    """Add what tells that a shard was edited in place, for as long as a scan is unfinished."""
    marks = [
        {"name": shard.name, "time": plan.train.modified(shard.index)}
        for shard in plan.train.shards
    ]
    inputs = described["inputs"]
    return {**described, "inputs": {**inputs, "train": {**inputs["train"], "marks": marks}}}


def require_same(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise unless what was begun in the folder is what is wanted now, and name each difference."""
    # No row that is not finite has been met so far, or the run would have ended there.
    kinder = ("setting bad_rows", "error", "quarantine")
    refuse_changes(folder, [found for found in differences(old, new) if found[:3] != kinder])


def differences(old: Any, new: Any, path: str = "") -> Iterator[Change]:
    """Each value that differs between two descriptions of a scan."""
    return changes(old, new, _LABELS, _FREE, path)
