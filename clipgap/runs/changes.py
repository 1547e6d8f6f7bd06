"""What differs between two descriptions of a run, in words."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from clipgap.errors import ResumeError

Change = tuple[str, Any, Any, str]
"""Label, old value, new value and a sentence."""


def changes(
    old: Any, new: Any, labels: Mapping[str, str], free: Collection[str] = (), path: str = ""
) -> Iterator[Change]:
    """Each value that differs.

    `labels` says what people call the values below a path of keys, written with spaces. Values of
    the keys in `free` may differ. The entries of a list are told apart by their `name`, or by
    their place.
    """
    label = _label(path, labels)
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted(old.keys() | new.keys()):
            if key not in free:
                below = f"{path} {key}".strip()
                yield from changes(old.get(key), new.get(key), labels, free, below)
    elif _are_entries(old) and _are_entries(new):
        if len(old) != len(new):
            yield label, len(old), len(new), f"{label}s: were {len(old):,}, are {len(new):,}"
        for place, (was, now) in enumerate(zip(old, new, strict=False)):
            below = f"{path} {now.get('name', place)}"
            yield from changes(was, now, labels, free, below)
    elif old != new:
        yield label, old, new, f"{label}: was {_short(old)}, is {_short(new)}"


def refuse_changes(folder: Path, found: Sequence[Change]) -> None:
    """Raise if there are any: what was begun in the folder is not what is wanted now."""
    if found:
        raise ResumeError.listing(
            f"{folder} was made from other inputs or settings, so it cannot be resumed. Go back to "
            "those, name another output folder, or start again with --overwrite. The differences:",
            [sentence for _, _, _, sentence in found],
        )


def _are_entries(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, Mapping) for item in value)


def _label(path: str, labels: Mapping[str, str]) -> str:
    for prefix in sorted(labels, key=len, reverse=True):
        if path == prefix or path.startswith(prefix + " "):
            return labels[prefix] + path[len(prefix) :]
    return path


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 40 else text[:16] + "…"
