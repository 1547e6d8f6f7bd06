"""Which tables a report has, from its findings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from clipgap.report.accuracy import METRIC
from clipgap.report.findings import Findings
from clipgap.report.tables import Cell, Column, Table


def tables(findings: Findings) -> list[Table]:
    """All tables that have rows, in the order of the page."""
    made = [
        _test_sets(findings),
        _embeddings(findings),
        _accuracies(findings),
        _differences(findings),
        _robustness(findings),
        _splits(findings),
        _close(findings),
    ]
    return [table for table in [*made, *_overlaps(findings)] if table is not None and table.rows]


def _paper_test(findings: Findings, test: str) -> dict[str, Any]:
    paper = findings["paper"] or {"tests": []}
    return next((entry for entry in paper["tests"] if entry["name"] == test), {})


def _paper_row(findings: Findings, name: str) -> dict[str, Any]:
    paper = findings["paper"] or {"rows": []}
    return next((entry for entry in paper["rows"] if entry["name"] == name), {})


def _share(percent: float | None) -> float | None:
    """44.78 as 0.4478, without the dust of a division in binary."""
    return None if percent is None else round(percent / 100, 12)


def _test_sets(findings: Findings) -> Table:
    rows = []
    for test in findings["tests"]:
        known = _paper_test(findings, test["name"])
        for name, found in test["training"].items():
            near = known.get("near_duplicates", {}).get(name)
            nearer = found.get("nearer_share") if name != test["reference"] else None
            rows.append(
                (
                    Cell(test["name"]),
                    Cell(name),
                    Cell(test["points"], paper=known.get("points")),
                    Cell(found["median"]),
                    Cell(found["near_duplicates"], paper=near),
                    Cell(found["near_duplicates_l2"]),
                    Cell(nearer, paper=_share(known.get("nearer", {}).get(name))),
                )
            )
    return Table(
        "test-sets",
        "Test sets and what lies near them",
        "Median similarity of a test point to its nearest training row; test points with a near "
        "duplicate by cosine distance (s > 0.95) and by Euclidean distance (s > 0.99875); share "
        "of test points that are nearer to the training set than to the reference.",
        (
            Column("test set"),
            Column("training set"),
            Column("points", "count"),
            Column("median s", "score"),
            Column("near duplicates", "count"),
            Column("by L2", "count"),
            Column("nearer than reference", "percent"),
        ),
        tuple(rows),
    )


def _embeddings(findings: Findings) -> Table:
    theirs = (findings["paper"] or {"rho": {}})["rho"]
    return Table(
        "embeddings",
        "Choice of embedding",
        "Spearman's rank correlation between the similarities of test points to their nearest "
        "training rows, by two embeddings.",
        (
            Column("test set"),
            Column("first"),
            Column("second"),
            Column("points", "count"),
            Column("ρ", "score"),
        ),
        tuple(
            (
                Cell(row["test"]),
                Cell(row["first"]),
                Cell(row["second"]),
                Cell(row["points"]),
                Cell(row["rho"], paper=theirs.get(row["test"])),
            )
            for row in findings["embeddings"]
        ),
    )


def _accuracies(findings: Findings) -> Table | None:
    found = {
        (row["checkpoint"], row["set"]): row
        for row in findings["accuracy"]
        if row["metric"] == METRIC and row["group"] is None
    }
    checkpoints = list(dict.fromkeys(checkpoint for checkpoint, _ in found))
    tests = list(dict.fromkeys(test for _, test in found))
    sizes = {split["name"]: split["kept"] for split in findings["splits"]}
    sizes |= {one["name"]: one["rows"] for one in findings["training"]}
    removed = {split["name"]: split["removed"] for split in findings["splits"]}
    known = [row["name"] for row in (findings["paper"] or {"rows": []})["rows"]]
    rows = []
    for name in [*checkpoints, *(name for name in known if name not in checkpoints)]:
        paper = _paper_row(findings, name)
        cells = [
            Cell(name),
            Cell(sizes.get(name), paper=paper.get("size")),
            Cell(removed.get(name), paper=paper.get("removed")),
        ]
        for test in tests:
            row = found.get((name, test))
            theirs = _share(paper.get("accuracy", {}).get(test))
            cells.append(
                Cell(None, paper=theirs)
                if row is None
                else Cell(row["accuracy"], row["low"], row["high"], theirs)
            )
        rows.append(tuple(cells))
    if not checkpoints:
        return None
    return Table(
        "accuracies",
        "Accuracy by training set",
        "Top-1 accuracy in per cent with 95\u00a0% Wilson intervals.",
        (
            Column("training set"),
            Column("rows", "count"),
            Column("removed", "count"),
            *(Column(test, "percent") for test in tests),
        ),
        tuple(rows),
    )


def _differences(findings: Findings) -> Table:
    return Table(
        "differences",
        "Differences on the same samples",
        "Accuracy of the first checkpoint less that of the second, with 95\u00a0% intervals of a "
        "paired bootstrap over test points.",
        (Column("test set"), Column("first"), Column("second"), Column("difference", "points")),
        tuple(
            (
                Cell(row["set"] if row["group"] is None else f"{row['set']}, {row['group']}"),
                Cell(row["first"]),
                Cell(row["second"]),
                Cell(row["difference"], row["low"], row["high"]),
            )
            for row in findings["paired"]
        ),
    )


def _robustness(findings: Findings) -> Table | None:
    found = findings["robustness"]
    if found is None:
        return None
    return Table(
        "effective-robustness",
        "Expected and measured accuracy",
        f"Expected from accuracy on {found['x']} by a line through the reference models on logit "
        "axes.",
        (
            Column("test set"),
            Column("training set"),
            Column(found["x"], "percent"),
            Column("expected", "percent"),
            Column("measured", "percent"),
            Column("effective robustness", "points"),
        ),
        tuple(
            (
                Cell(test["test"]),
                Cell(row["name"]),
                Cell(row["x"]),
                Cell(row["expected"]),
                Cell(row["measured"], row["low"], row["high"]),
                Cell(row["effective_robustness"]),
            )
            for test in found["tests"]
            for row in test["checkpoints"]
        ),
    )


def _splits(findings: Findings) -> Table:
    return Table(
        "splits",
        "Splits",
        "Rows of the store that each split keeps and removes.",
        (
            Column("split"),
            Column("of"),
            Column("rule"),
            Column("rows", "count"),
            Column("removed", "count"),
            Column("removed share", "percent"),
            Column("proof"),
        ),
        tuple(
            (
                Cell(split["name"]),
                Cell(split["training"]),
                Cell(split["says"]),
                Cell(split["rows"]),
                Cell(split["removed"], paper=_paper_row(findings, split["name"]).get("removed")),
                Cell(split["removed"] / split["rows"] if split["rows"] else None),
                Cell(proof(split)),
            )
            for split in findings["splits"]
        ),
    )


def proof(split: dict[str, Any]) -> str:
    if split["certificate"] is None:
        return "not verified"
    return "holds" if split["certificate"]["holds"] else "contradicted"


def _close(findings: Findings) -> Table:
    rows = []
    pruned = {(s["test"], s["training"]) for s in findings["normalised"] if s["of"] == "pruned"}
    for series in findings["normalised"]:
        theirs = _paper_test(findings, series["test"]).get("close", {}).get(series["training"])
        if series["of"] == "all" and (series["test"], series["training"]) in pruned:
            theirs = None  # the paper counts what pruning leaves
        rows.append(
            (
                Cell(series["test"]),
                Cell(series_name(series)),
                Cell(series["rows"]),
                Cell(series["close"], paper=theirs),
            )
        )
    return Table(
        "close-to-the-gap",
        "Training rows close to the gap",
        "Rows whose similarity to their nearest test point exceeds 0.9 of the threshold τ there.",
        (
            Column("test set"),
            Column("training rows"),
            Column("rows", "count"),
            Column("above 0.9", "count"),
        ),
        tuple(rows),
    )


def series_name(series: dict[str, Any]) -> str:
    """How a series of training rows is called."""
    pruned = series["of"] == "pruned"
    return f"{series['training']}, pruned" if pruned else str(series["training"])


def _overlaps(findings: Findings) -> Iterator[Table]:
    captions = {
        "test_sets": ("Overlap of what test sets prune", "pruned by both test sets"),
        "splits": ("Overlap of splits", "removed by both splits"),
    }
    for kind, matrices in findings["overlap"].items():
        title, says = captions[kind]
        for matrix in matrices:
            names = matrix["names"]
            yield Table(
                f"overlap-{kind.replace('_', '-')}-{matrices.index(matrix) + 1}",
                title,
                f"Rows of {matrix['training']} that are {says}; on the diagonal by one.",
                (Column(""), *(Column(name, "count") for name in names)),
                tuple(
                    (Cell(name), *map(Cell, counts))
                    for name, counts in zip(names, matrix["counts"], strict=True)
                ),
            )
