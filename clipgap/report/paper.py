"""Published figures to stand beside one's own: a JSON or TOML file; `docs/report.md` shows one."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipgap.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

_PERCENT, _COUNTS, _TEXT, _COUNT = "percentages by name", "counts by name", "text", "a count"
_SHARES = "correlations by name"
_TOP = {"title": _TEXT, "source": _TEXT, "x": _TEXT, "rho": _SHARES}
_ENTRIES: dict[str, dict[str, str]] = {
    "rows": {"name": _TEXT, "size": _COUNT, "removed": _COUNT, "accuracy": _PERCENT},
    "tests": {
        "name": _TEXT,
        "points": _COUNT,
        "near_duplicates": _COUNTS,
        "nearer": _PERCENT,
        "close": _COUNTS,
    },
    "models": {"name": _TEXT, "accuracy": _PERCENT},
}


@dataclass(frozen=True)
class Paper:
    """The figures of a paper, as it prints them."""

    title: str
    source: str
    x: str
    rows: Mapping[str, Mapping[str, Any]]
    tests: Mapping[str, Mapping[str, Any]]
    models: Mapping[str, Mapping[str, float]]  # accuracies in per cent, by model and test set
    rho: Mapping[str, float]
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """As `report.json` has it."""
        return {
            "title": self.title,
            "source": self.source,
            "rows": list(self.rows.values()),
            "tests": list(self.tests.values()),
            "rho": dict(self.rho),
        }


def printed(findings: Mapping[str, Any], part: str, name: str) -> Mapping[str, Any]:
    """What the paper prints of a training set ("rows") or a test set ("tests"); perhaps nothing."""
    entries = (findings["paper"] or {part: []})[part]
    return next((entry for entry in entries if entry["name"] == name), {})


def share(percent: float | None) -> float | None:
    """44.78 as 0.4478, without the dust of a division in binary."""
    return None if percent is None else round(percent / 100, 12)


def read_paper(path: Path) -> Paper:
    """Read and check the file; every mistake in it is named."""
    try:
        content = path.read_bytes()
        load = tomllib.loads if path.suffix == ".toml" else json.loads
        document = load(content.decode())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{path} holds no table of figures")
    problems = [f"unknown entry {key!r}" for key in document if key not in {*_TOP, *_ENTRIES}]
    problems += [f"no {key}" for key in ("title",) if key not in document]
    problems += [
        f"{key} is not {kind}"
        for key, kind in _TOP.items()
        if key in document and not _fits(document[key], kind)
    ]
    for part, known in _ENTRIES.items():
        entries = document.get(part, [])
        if not isinstance(entries, list):
            problems.append(f"{part} is not a list")
            continue
        for number, entry in enumerate(entries, start=1):
            problems += [f"{part}, entry {number}: {text}" for text in _problems(entry, known)]
    if problems:
        raise InputError.listing(f"{path} is not a file of a paper's figures:", problems)
    return Paper(
        title=document["title"],
        source=document.get("source", ""),
        x=document.get("x", "val"),
        rows={entry["name"]: entry for entry in document.get("rows", [])},
        tests={entry["name"]: entry for entry in document.get("tests", [])},
        models={entry["name"]: entry["accuracy"] for entry in document.get("models", [])},
        rho=document.get("rho", {}),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def _problems(entry: Any, known: Mapping[str, str]) -> list[str]:
    if not isinstance(entry, dict):
        return ["not a table"]
    found = [f"unknown entry {key!r}" for key in entry if key not in known]
    if "name" not in entry:
        found.append("no name")
    if "points" not in known and "size" not in known and "accuracy" not in entry:
        found.append("no accuracy")
    return found + [
        f"{key} is not {kind}"
        for key, kind in known.items()
        if key in entry and not _fits(entry[key], kind)
    ]


def _fits(value: Any, kind: str) -> bool:
    if kind == _TEXT:
        return isinstance(value, str) and bool(value)
    if kind == _COUNT:
        return isinstance(value, int) and not isinstance(value, bool)
    if not isinstance(value, dict):
        return False
    if kind == _COUNTS:
        return all(_fits(each, _COUNT) for each in value.values())
    low, high = (-1, 1) if kind == _SHARES else (0, 100)
    return all(
        isinstance(each, int | float) and not isinstance(each, bool) and low <= each <= high
        for each in value.values()
    )
