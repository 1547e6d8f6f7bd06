"""Accuracy: by training set, by similarity, by rows removed, and from one checkpoint to another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.errors import InputError
from clipgap.intervals import wilson
from clipgap.report.paper import printed, share
from clipgap.report.parts import Figure, Findings, Note, Section
from clipgap.report.sections.how_near import bin_of
from clipgap.report.sections.pruning import family_of
from clipgap.report.sources import MIX, Sources, TrainingSet
from clipgap.report.svg import Drawing, Entry, colour_of, linear
from clipgap.report.tables import Cell, Column, Table

SIMILARITY_STEPS = 20  # bins of 0.05
METRIC = "top1"
LEAST_POINTS = 10
MOST_CURVES = 6
MOST_WHISKERS = 2  # curves that have their intervals drawn; more would hide each other


def findings(sources: Sources) -> Findings:
    return {
        "accuracy": _accuracies(sources),
        "missing": {name: n for one in sources.evaluations for name, n in one.missing.items()},
        # Those of a pool's own checkpoints would be many; its section tells those of the pools.
        "paired": [
            row
            for one in sources.evaluations
            for row in one.paired
            if not {row["first"], row["second"]} & one.pooled
        ],
        "by_similarity": list(_by_similarity(sources)),
        "by_removed": _by_removed(sources),
    }


def _accuracies(sources: Sources) -> list[dict[str, Any]]:
    """All rows of all summaries."""
    return [row for one in sources.evaluations for row in one.summary]


def top1(sources: Sources) -> dict[tuple[str, str], dict[str, Any]]:
    """Top-1 accuracy on whole sets, by checkpoint and set."""
    return {
        (row["checkpoint"], row["set"]): row
        for row in _accuracies(sources)
        if row["metric"] == METRIC and row["group"] is None
    }


@dataclass(frozen=True)
class Answers:
    """What a checkpoint made of each test point, in the order of the scan's test table."""

    known: NDArray[np.bool_]  # points that the evaluation has; it may have set some aside
    correct: NDArray[np.bool_]
    label: NDArray[np.int64]


def answers(sources: Sources, test: str) -> dict[str, Answers]:
    """By checkpoint, for those whose samples were kept."""
    found = {}
    for evaluation in sources.evaluations:
        for checkpoint, name in evaluation.pairs:
            if name == test and (large := sources.large(test)) is not None:
                samples = evaluation.samples(checkpoint, test)
                if samples is not None:
                    where = f"{evaluation.path}: checkpoint {checkpoint!r} on {test!r}"
                    found[checkpoint] = _joined(samples, large, test, where)
    return found


def _joined(samples: Any, large: TrainingSet, test: str, where: str) -> Answers:
    """Row r of an evaluation is test point r of a scan; where both have keys these must agree.

    The scan's may be the paths that an evaluation goes by, behind that of one folder.
    """
    points, label = large.points(test).keys, large.scan.label
    rows = samples["row"].to_numpy()
    if len(rows) and (rows[-1] >= len(points) or rows[0] < 0 or (np.diff(rows) <= 0).any()):
        raise InputError(
            f"{where} has samples up to row {rows.max():,}, the scan {label} has "
            f"{len(points):,} test points; they must be the same set in the same order"
        )
    ours = points.take(samples["row"].combine_chunks()).to_pylist()
    pairs = list(zip(rows.tolist(), samples["key"].to_pylist(), ours, strict=True))
    named = ((own, theirs) for _, theirs, own in pairs if None not in (theirs, own))
    own, theirs = next(named, ("", ""))
    root = own.removesuffix(theirs) if own.endswith(f"/{theirs}") else ""
    for row, theirs, own in pairs:
        if None not in (theirs, own) and root + theirs != own:
            raise InputError(
                f"{where}: sample {row:,} is {theirs!r}, but the scan {label} has {own!r} "
                "there; they must be the same set in the same order"
            )
    known, correct = np.zeros((2, len(points)), np.bool_)
    labels = np.full(len(points), -1, np.int64)
    known[rows] = True
    correct[rows] = samples["correct"].to_numpy(zero_copy_only=False)
    labels[rows] = samples["label"].to_numpy()
    return Answers(known, correct, labels)


def _by_similarity(sources: Sources) -> Iterator[dict[str, Any]]:
    """Accuracy in bins of the similarity of the nearest neighbour in the large set."""
    for test in sources.tests:
        if (large := sources.large(test)) is None:
            continue
        similarity = large.similarity(test)
        for checkpoint, each in answers(sources, test).items():
            usable = each.known & ~np.isnan(similarity)
            yield {
                "test": test,
                "checkpoint": checkpoint,
                "training": large.name,
                "bins": _bins(similarity[usable], each.correct[usable]),
            }


def _bins(similarity: NDArray[np.float64], correct: NDArray[np.bool_]) -> list[dict[str, Any]]:
    bins = bin_of(similarity, SIMILARITY_STEPS)
    found = []
    for b in np.unique(bins).tolist():
        here = correct[bins == b]
        right = int(np.count_nonzero(here))
        interval = wilson(right, len(here))
        found.append(
            {
                "low": b / SIMILARITY_STEPS,
                "high": (b + 1) / SIMILARITY_STEPS,
                "points": len(here),
                "correct": right,
                "accuracy": interval.value,
                "accuracy_low": interval.low,
                "accuracy_high": interval.high,
            }
        )
    return found


def _by_removed(sources: Sources) -> list[dict[str, Any]]:
    """Accuracy by the number of rows removed: checkpoints that are called like splits.

    A checkpoint that is called like a scan was trained on all of it, and belongs to every curve.
    """
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    whole: dict[tuple[str, str], dict[str, Any]] = {}
    trainings = {one.name: one for one in sources.scans}
    splits = {
        name: (training.name, keep)
        for training in sources.scans
        for name, keep in sources.splits_of(training).items()
        if keep.manifest["rule"]["name"] != MIX  # which is about what is in it, not how much
    }
    for (checkpoint, test), row in top1(sources).items():
        point = {
            "name": checkpoint,
            **{key: row[key] for key in ("samples", "accuracy", "low", "high")},
        }
        if checkpoint in splits:
            training, keep = splits[checkpoint]
            key = (training, test, family_of(keep.manifest["rule"]))
            found.setdefault(key, []).append({**point, "removed": keep.rows - keep.kept})
        elif checkpoint in trainings:
            whole[checkpoint, test] = {**point, "removed": 0}
    curves = []
    for (training, test, family), points in found.items():
        if (training, test) in whole:
            points = [whole[training, test], *points]
        points.sort(key=lambda point: (point["removed"], point["name"]))
        curves.append({"training": training, "test": test, "family": family, "points": points})
    # A curve needs two points somewhere, or there is nothing to see.
    return curves if any(len(curve["points"]) > 1 for curve in curves) else []


def _by_training_set(findings: Findings) -> Iterator[Table | Note]:
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
    missing = findings["missing"]
    known = [row["name"] for row in (findings["paper"] or {"rows": []})["rows"]]
    rows = []
    joined = [one for one in findings["training"] if one["is_reference"]]
    for name in [*checkpoints, *(name for name in known if name not in checkpoints)]:
        paper = printed(findings, "rows", name)
        cells = [
            Cell(name),
            Cell(sizes.get(name), paper=paper.get("size")),
            Cell(removed.get(name), paper=paper.get("removed")),
        ]
        if missing:
            cells.append(Cell(missing.get(name)))
        for test in tests:
            row = found.get((name, test))
            theirs = share(paper.get("accuracy", {}).get(test))
            cells.append(
                Cell(None, paper=theirs)
                if row is None
                else Cell(row["accuracy"], row["low"], row["high"], theirs)
            )
        rows.append(tuple(cells))
    if not checkpoints:
        return
    yield Table(
        "accuracies",
        "Accuracy by training set",
        "Top-1 accuracy in per cent with 95\u00a0% Wilson intervals"
        + (". Rows are those of the scanned set" if sizes else "")
        + "".join(
            f"; where a model trained on {one['name']} too, its {one['rows']:,} come on top"
            for one in joined
        )
        + (
            "; missing are rows that a model was trained without, since no shard held them"
            if missing
            else ""
        )
        + ".",
        (
            Column("training set"),
            Column("rows of the scanned set", "count"),
            Column("removed", "count"),
            *([Column("missing", "count")] if missing else []),
            *(Column(test, "percent") for test in tests),
        ),
        tuple(rows),
        of_splits=True,
    ).without_empty_columns()
    if paper := findings["paper"]:
        source = f", {paper['source']}" if paper["source"] else ""
        yield Note(f"Beside ours: {paper['title']}{source}.")


def _differences(findings: Findings) -> Iterator[Table]:
    yield from difference_tables("differences", findings["paired"])


def difference_tables(name: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    """A matrix a test set, or group of one: every pair of models in one place."""
    of_sets: dict[tuple[str, str | None], dict[tuple[str, str], Cell]] = {}
    for row in rows:
        cells = of_sets.setdefault((row["set"], row["group"]), {})
        cells[row["first"], row["second"]] = Cell(row["difference"], row["low"], row["high"])
    for number, ((test, group), cells) in enumerate(of_sets.items(), start=1):
        firsts, seconds = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
        where = test if group is None else f"{test}, {group}"
        yield Table(
            f"{name}-{number}",
            f"Differences on {where}",
            "Accuracy of the row's model less that of the column's on the same samples, with "
            "95\u00a0% intervals of a paired bootstrap over test points. Shaded where the interval "
            "leaves out 0.",
            (Column("model"), *(Column(second, "points") for second in seconds)),
            tuple(
                (Cell(first), *(cells.get((first, second), Cell(None)) for second in seconds))
                for first in firsts
            ),
            is_matrix=True,
        )


def _similarity_curves(findings: Findings) -> Iterator[Figure]:
    drawings = []
    checkpoints = list(dict.fromkeys(one["checkpoint"] for one in findings["by_similarity"]))
    for test in dict.fromkeys(one["test"] for one in findings["by_similarity"]):
        of_test = [one for one in findings["by_similarity"] if one["test"] == test]
        curves = [one for one in of_test if _full(one)][:MOST_CURVES]
        if not curves:
            continue
        training = curves[0]["training"]
        bins = [b for one in curves for b in _full(one)]
        drawing = Drawing(
            test,
            linear(
                min(b["low"] for b in bins) - 0.02,
                max(b["high"] for b in bins) + 0.02,
                f"similarity of the nearest neighbour in {training}",
            ),
            linear(0, 1, "top-1 accuracy (%)", percent=True),
            [
                Entry(one["checkpoint"], colour_of(checkpoints.index(one["checkpoint"])), "dot")
                for one in curves
            ],
        )
        for one in curves:
            colour = colour_of(checkpoints.index(one["checkpoint"]))
            middles = [((b["low"] + b["high"]) / 2, b) for b in _full(one)]
            drawing.path([(x, b["accuracy"]) for x, b in middles], f"curve s{colour}")
            for x, b in middles:
                if len(curves) <= MOST_WHISKERS:
                    drawing.whisker(x, b["accuracy_low"], b["accuracy_high"], colour)
                drawing.dot(x, b["accuracy"], colour, _bin_tip(one["checkpoint"], b))
        drawings.append(drawing)
    yield Figure(
        "accuracy-by-similarity",
        "Accuracy by similarity",
        "Accuracy on test points whose nearest training row is so similar, in bins of 0.05 that "
        f"hold {LEAST_POINTS} points or more, for the first {MOST_CURVES} checkpoints. Where "
        "there are one or two, bars are 95\u00a0% Wilson intervals.",
        drawings,
    )


def _full(curve: dict[str, Any]) -> list[dict[str, Any]]:
    """Bins with enough points to be drawn."""
    return [b for b in curve["bins"] if b["points"] >= LEAST_POINTS]


def _bin_tip(checkpoint: str, b: dict[str, Any]) -> str:
    return (
        f"{checkpoint}: similarity {b['low']:.2f} to {b['high']:.2f}, {b['accuracy']:.1%} of "
        f"{b['points']:,} points"
    )


def _removal_curves(findings: Findings) -> Iterator[Figure]:
    drawings = []
    families = list(dict.fromkeys(curve["family"] for curve in findings["by_removed"]))
    for test in dict.fromkeys(curve["test"] for curve in findings["by_removed"]):
        curves = [curve for curve in findings["by_removed"] if curve["test"] == test]
        points = [point for curve in curves for point in curve["points"]]
        most = max(point["removed"] for point in points) or 1
        lows = [point["low"] for point in points]
        highs = [point["high"] for point in points]
        margin = 0.08 * (max(highs) - min(lows)) or 0.01
        scale, unit = _scale(most)
        drawing = Drawing(
            test,
            linear(-0.03 * most / scale, 1.05 * most / scale, f"rows removed{unit}"),
            linear(
                max(0.0, min(lows) - margin),
                min(1.0, max(highs) + margin),
                "top-1 accuracy (%)",
                percent=True,
            ),
            [
                Entry(curve["family"], colour_of(families.index(curve["family"])), "dot")
                for curve in curves
            ],
        )
        for curve in curves:
            colour = colour_of(families.index(curve["family"]))
            places = [(point["removed"] / scale, point) for point in curve["points"]]
            if len(places) > 2:  # fewer are no curve, but the whole set and one split
                drawing.path([(x, point["accuracy"]) for x, point in places], f"curve s{colour}")
            for x, point in places:
                tip = f"{point['name']}: {point['removed']:,} removed, {point['accuracy']:.2%}"
                drawing.whisker(x, point["low"], point["high"], colour)
                drawing.dot(x, point["accuracy"], colour, tip)
        drawings.append(drawing)
    yield Figure(
        "accuracy-by-removed",
        "Accuracy by rows removed",
        "Accuracy of models trained on what each kind of split leaves, with 95\u00a0% Wilson "
        "intervals.",
        drawings,
    )


def _scale(most: int) -> tuple[int, str]:
    if most >= 2_000_000:
        return 1_000_000, " (millions)"
    return (1_000, " (thousands)") if most >= 20_000 else (1, "")


ACCURACY = Section(
    "accuracy",
    "Accuracy",
    findings,
    (_by_training_set, _similarity_curves, _removal_curves, _differences),
)
