"""Whether an output on disk belongs to the scan that is asked for now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clipgap.errors import InputError, ResumeError
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
    found = list(differences(old, new))
    # No row that is not finite has been met so far, or the run would have ended there.
    kinder = ("setting bad_rows", "error", "quarantine")
    problems = [text for label, was, now, text in found if (label, was, now) != kinder]
    if problems:
        raise ResumeError.listing(
            f"{folder} was made from other inputs or settings, so it cannot be resumed. Go back to "
            "those, name another output folder, or start again with --overwrite. The differences:",
            problems,
        )


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any, str]]:
    """Label, old value, new value and a sentence, for each value that differs."""
    label = _label(path)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(old.keys() | new.keys()):
            if key not in _FREE:
                yield from differences(old.get(key), new.get(key), f"{path} {key}".strip())
    elif _are_named(old) and _are_named(new):
        if len(old) != len(new):
            yield label, len(old), len(new), f"{label}s: were {len(old):,}, are {len(new):,}"
        for was, now in zip(old, new, strict=False):
            yield from differences(was, now, f"{path} {now['name']}")
    elif old != new:
        yield label, old, new, f"{label}: was {_short(old)}, is {_short(new)}"


def _are_named(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, Mapping) for item in value)


def _label(path: str) -> str:
    for prefix in sorted(_LABELS, key=len, reverse=True):
        if path == prefix or path.startswith(prefix + " "):
            return _LABELS[prefix] + path[len(prefix) :]
    return path


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 40 else text[:16] + "…"


def require_flag(folder: Path, state: str) -> InputError:
    """The error for an output that exists when neither --resume nor --overwrite was given."""
    if state == "finished":
        return InputError(
            f"{folder} already holds a finished scan. Give --resume to check and keep it, "
            "--overwrite to replace it, or another output folder."
        )
    return InputError(
        f"{folder} holds an unfinished scan. Give --resume to go on with it, --overwrite to start "
        "again, or another output folder."
    )
