"""All numbers of a report, as plain data: `report.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from clipgap import __version__
from clipgap.files.documents import checksum
from clipgap.report.accuracy import accuracies, by_removed, by_similarity, paired, robustness
from clipgap.report.embeddings import embedding_findings
from clipgap.report.similarity import test_sets
from clipgap.report.sources import Sources, TrainingSet
from clipgap.report.splits import split_findings
from clipgap.report.training import split_overlap, training_findings

FORMAT = "clipgap-report-data"

Findings = Mapping[str, Any]


def gather(sources: Sources, title: str) -> Findings:
    """Compute everything; what has no input is an empty list or null."""
    splits = list(split_findings(sources))
    passes = [training_findings(sources, one) for one in sources.training_sets]
    overlaps = [found.overlap for found in passes if found.overlap is not None]
    split_overlaps = [split_overlap(sources, one) for one in sources.scans]
    found = {
        "format": FORMAT,
        "version": 1,
        "title": title,
        "training": [_training(one) for one in sources.training_sets],
        "tests": list(test_sets(sources)),
        "embeddings": list(embedding_findings(sources)),
        "normalised": [series for found in passes for series in found.normalised],
        "overlap": {
            "test_sets": overlaps,
            "splits": [each for each in split_overlaps if each is not None],
        },
        "splits": splits,
        "accuracy": accuracies(sources),
        "paired": paired(sources),
        "by_similarity": list(by_similarity(sources)),
        "by_removed": by_removed(sources, {split["name"]: split for split in splits}),
        "robustness": robustness(sources),
        "paper": _paper(sources),
        "versions": {"clipgap": __version__},
    }
    return _finite(found)  # type: ignore[no-any-return]


def _training(training: TrainingSet) -> dict[str, Any]:
    manifest = training.scan.manifest
    return {
        "name": training.name,
        "is_reference": training.is_reference,
        "store": manifest["inputs"]["train"]["path"],
        "rows": training.scan.rows,
        "quarantined": manifest["counts"]["quarantined"],
        "pruned": manifest["counts"].get("pruned", {}),
        "pruned_by_any": manifest["counts"].get("pruned_by_any", 0),
        "k": manifest["settings"].get("k"),
        "manifest_sha256": checksum(manifest),
    }


def _paper(sources: Sources) -> dict[str, Any] | None:
    paper = sources.paper
    if paper is None:
        return None
    return {
        "title": paper.title,
        "source": paper.source,
        "rows": list(paper.rows.values()),
        "tests": list(paper.tests.values()),
        "rho": dict(paper.rho),
    }


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
