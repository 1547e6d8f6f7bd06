"""What the splits say: sizes, rules, and what was proved of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clipgap.files.documents import checksum
from clipgap.keep.lists import KeepList
from clipgap.report.sources import Sources


def split_findings(sources: Sources) -> Iterator[dict[str, Any]]:
    """Each split with its sizes, and its certificate where there is one that fits."""
    for training in sources.scans:
        for name, keep in sources.splits_of(training).items():
            rule = keep.manifest["rule"]
            yield {
                "name": name,
                "training": training.name,
                "rule": rule,
                "says": describe_rule(rule),
                "family": family(rule),
                "rows": keep.rows,
                "kept": keep.kept,
                "removed": keep.rows - keep.kept,
                "sizes": keep.manifest.get("sizes"),
                "manifest_sha256": checksum(keep.manifest),
                "files": len(keep.manifest["files"]),
                "certificate": _certificate(keep),
            }


def family(rule: Mapping[str, Any]) -> str:
    """Splits whose rules differ in nothing but their size lie on one curve."""
    sets = rule.get("by") or rule.get("sets") or rule.get("tests") or ()
    names = ", ".join(sets)
    return f"{rule['name']} by {names}" if names else str(rule["name"])


def describe_rule(rule: Mapping[str, Any]) -> str:
    """The rule in one line, as options of the command that made it."""
    parts = []
    for key, value in rule.items():
        if key == "name" or value in (None, [], {}) or (key == "offset" and not value):
            continue
        if isinstance(value, Mapping):
            value = value.get("path", "…")
        if isinstance(value, list | tuple):
            value = ", ".join(
                str(each.get("path", "…") if isinstance(each, Mapping) else each) for each in value
            )
        parts.append(f"{key} {value:,}" if isinstance(value, int) else f"{key} {value}")
    return " · ".join([str(rule["name"]), *parts])


def _certificate(keep: KeepList) -> dict[str, Any] | None:
    """What `clipgap verify` wrote beside the keep-list, if it is about this very list."""
    path = Path(f"{keep.path}.certificate.json")
    try:
        found = json.loads(path.read_bytes())
        if found["keep"]["manifest_sha256"] != checksum(keep.manifest):
            return None
        return {
            "holds": bool(found["holds"]),
            "claims": {
                name: {key: claim[key] for key in ("says", "holds", "checked", "contradicted")}
                for name, claim in found["claims"].items()
            },
            "checks": {
                name: {"ok": bool(check["ok"]), "detail": str(check["detail"])}
                for name, check in found["checks"].items()
            },
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
