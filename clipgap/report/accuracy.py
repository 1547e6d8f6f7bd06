"""What the evaluations say: accuracies, and what they depend on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.errors import InputError
from clipgap.intervals import wilson
from clipgap.report.similarity import bin_of
from clipgap.report.sources import Sources, TrainingSet

SIMILARITY_STEPS = 20  # bins of 0.05
METRIC = "top1"


def accuracies(sources: Sources) -> list[dict[str, Any]]:
    """All rows of all summaries."""
    return [row for one in sources.evaluations for row in one.summary]


def top1(sources: Sources) -> dict[tuple[str, str], dict[str, Any]]:
    """Top-1 accuracy on whole sets, by checkpoint and set."""
    return {
        (row["checkpoint"], row["set"]): row
        for row in accuracies(sources)
        if row["metric"] == METRIC and row["group"] is None
    }


def paired(sources: Sources) -> list[dict[str, Any]]:
    """Differences between checkpoints on the same samples."""
    return [row for one in sources.evaluations for row in one.paired]


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
    """Row r of an evaluation is test point r of a scan; where both have keys these must agree."""
    points, label = large.points(test).keys, large.scan.label
    rows = samples["row"].to_numpy()
    if len(rows) and (rows[-1] >= len(points) or rows[0] < 0 or (np.diff(rows) <= 0).any()):
        raise InputError(
            f"{where} has samples up to row {rows.max():,}, the scan {label} has "
            f"{len(points):,} test points; they must be the same set in the same order"
        )
    ours = points.take(samples["row"].combine_chunks()).to_pylist()
    for row, theirs, own in zip(rows.tolist(), samples["key"].to_pylist(), ours, strict=True):
        if None not in (theirs, own) and theirs != own:
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


def by_similarity(sources: Sources) -> Iterator[dict[str, Any]]:
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


def by_removed(sources: Sources, splits: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Accuracy by the number of rows removed: checkpoints that are called like splits.

    A checkpoint that is called like a scan was trained on all of it, and belongs to every curve.
    """
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    whole: dict[tuple[str, str], dict[str, Any]] = {}
    trainings = {one.name: one for one in sources.scans}
    for (checkpoint, test), row in top1(sources).items():
        point = {
            "name": checkpoint,
            **{key: row[key] for key in ("samples", "accuracy", "low", "high")},
        }
        if checkpoint in splits:
            split = splits[checkpoint]
            key = (split["training"], test, split["family"])
            found.setdefault(key, []).append({**point, "removed": split["removed"]})
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


def robustness(sources: Sources) -> dict[str, Any] | None:
    """Expected accuracies from a line through the reference models, on logit axes."""
    paper = sources.paper
    if paper is None or not paper.models:
        return None
    ours = top1(sources)
    tests = []
    for test in dict.fromkeys(name for each in paper.models.values() for name in each):
        models = [
            {"name": name, "x": each[paper.x] / 100, "y": each[test] / 100}
            for name, each in paper.models.items()
            if _inside(each.get(paper.x)) and _inside(each.get(test))
        ]
        if test == paper.x or len({model["x"] for model in models}) < 2:
            continue
        slope, intercept = _line(models)
        checkpoints = []
        for checkpoint in dict.fromkeys(name for name, _ in ours):
            x, y = ours.get((checkpoint, paper.x)), ours.get((checkpoint, test))
            if x is None or y is None or not _inside(100 * x["accuracy"]):
                continue
            expected = _expit(slope * _logit(x["accuracy"]) + intercept)
            checkpoints.append(
                {
                    "name": checkpoint,
                    "x": x["accuracy"],
                    "measured": y["accuracy"],
                    "low": y["low"],
                    "high": y["high"],
                    "expected": expected,
                    "effective_robustness": y["accuracy"] - expected,
                }
            )
        tests.append(
            {
                "test": test,
                "slope": slope,
                "intercept": intercept,
                "models": models,
                "checkpoints": checkpoints,
            }
        )
    return {"x": paper.x, "tests": tests} if tests else None


def _inside(percent: float | None) -> bool:
    """Whether a percentage has a finite logit."""
    return percent is not None and 0 < percent < 100


def _line(models: list[dict[str, Any]]) -> tuple[float, float]:
    """Least squares of logit y on logit x."""
    xs = [_logit(model["x"]) for model in models]
    ys = [_logit(model["y"]) for model in models]
    x_mean, y_mean = math.fsum(xs) / len(xs), math.fsum(ys) / len(ys)
    products = math.fsum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    slope = products / math.fsum((x - x_mean) ** 2 for x in xs)
    return slope, y_mean - slope * x_mean


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


def _expit(value: float) -> float:
    return 1 / (1 + math.exp(-value))
