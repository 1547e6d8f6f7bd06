"""What a report holds: its sections, in the order of the page, and the numbers of all of them."""

from __future__ import annotations

import math
from typing import Any

from clipgap.files.addresses import public
from clipgap.files.documents import checksum
from clipgap.report.parts import Findings, Part, Section
from clipgap.report.sections.accuracy import ACCURACY
from clipgap.report.sections.domains import DOMAINS
from clipgap.report.sections.finding import FINDING
from clipgap.report.sections.groups import GROUPS
from clipgap.report.sections.how_near import HOW_NEAR
from clipgap.report.sections.inside import INSIDE
from clipgap.report.sections.provenance import PROVENANCE
from clipgap.report.sections.pruning import PRUNING
from clipgap.report.sections.robustness import ROBUSTNESS
from clipgap.report.sources import Sources, TrainingSet
from clipgap.version import __version__

FORMAT = "clipgap-report-data"
SECTIONS = (
    *(FINDING, HOW_NEAR, DOMAINS, ACCURACY, GROUPS, ROBUSTNESS, PRUNING, INSIDE),
    PROVENANCE,
)


def gather(sources: Sources, title: str) -> Findings:
    """Compute everything; what has no input is an empty list or null."""
    found: dict[str, Any] = {
        "format": FORMAT,
        "version": 1,
        "title": title,
        "training": [_training(one) for one in sources.training_sets],
        "paper": None if sources.paper is None else sources.paper.to_json(),
        "models": list(sources.met.notes),
        "versions": {"clipgap": __version__},
    }
    for section in SECTIONS:
        found |= section.findings(sources)
    return _shown(found)  # type: ignore[no-any-return]


def shown_sections(findings: Findings) -> list[tuple[Section, list[Part]]]:
    """The sections that have something to show, with what they show."""
    made = [(section, section.shown(findings)) for section in SECTIONS]
    return [(section, parts) for section, parts in made if parts]


def _training(training: TrainingSet) -> dict[str, Any]:
    manifest = training.scan.manifest
    counts = manifest["counts"].get("pruned", {})
    return {
        "name": training.name,
        "is_reference": training.is_reference,
        "store": manifest["inputs"]["train"]["path"],
        "rows": training.scan.rows,
        "quarantined": manifest["counts"]["quarantined"],
        "pruned": {one.name: counts[one.name] for one in training.scan.set_columns if one.has_gap},
        "pruned_by_any": manifest["counts"].get("pruned_by_any", 0),
        "k": manifest["settings"].get("k"),
        "manifest_sha256": checksum(manifest),
    }


def _shown(value: Any) -> Any:
    """As it may be shown: JSON has no NaN, and an address may hold a password."""
    if isinstance(value, dict):
        return {key: _shown(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_shown(each) for each in value]
    if isinstance(value, str):
        return public(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
