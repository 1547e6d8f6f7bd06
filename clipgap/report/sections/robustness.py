"""Effective robustness: accuracy beside what a line through reference models expects."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from clipgap.report.parts import Figure, Findings, Section
from clipgap.report.sections.accuracy import top1
from clipgap.report.sources import Sources
from clipgap.report.svg import Drawing, Entry, colour_of, logit
from clipgap.report.tables import Cell, Column, Table


def findings(sources: Sources) -> Findings:
    return {"robustness": _expected(sources)}


def _expected(sources: Sources) -> dict[str, Any] | None:
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


def _table(findings: Findings) -> Iterator[Table]:
    found = findings["robustness"]
    if found is None:
        return
    yield Table(
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


def _figure(findings: Findings) -> Iterator[Figure]:
    found = findings["robustness"] or {"x": "", "tests": []}
    names = list(
        dict.fromkeys(row["name"] for test in found["tests"] for row in test["checkpoints"])
    )
    drawings = []
    for test in found["tests"]:
        xs = [model["x"] for model in test["models"]] + [row["x"] for row in test["checkpoints"]]
        ys = [model["y"] for model in test["models"]]
        ys += [row["measured"] for row in test["checkpoints"] if 0 < row["measured"] < 1]
        drawing = Drawing(
            test["test"],
            logit(*_logit_range(xs), f"top-1 accuracy on {found['x']} (%)"),
            logit(*_logit_range(ys), f"top-1 accuracy on {test['test']} (%)"),
            [
                Entry("reference models", 0, "line"),
                *(
                    Entry(row["name"], colour_of(names.index(row["name"])), "dot")
                    for row in test["checkpoints"]
                ),
            ],
        )
        drawing.path(list(_fitted(drawing, test["slope"], test["intercept"])), "rule")
        for model in test["models"]:
            drawing.dot(model["x"], model["y"], 0, f"{model['name']}: {model['y']:.1%}")
        for row in test["checkpoints"]:
            if 0 < row["measured"] < 1:
                colour = colour_of(names.index(row["name"]))
                tip = f"{row['name']}: {row['measured']:.1%}, expected {row['expected']:.1%}"
                drawing.dot(row["x"], row["measured"], colour, tip)
        drawings.append(drawing)
    yield Figure(
        "effective-robustness",
        "Effective robustness",
        "Line: fit through the reference models. The height above it is accuracy that "
        f"accuracy on {found['x']} does not explain. Both axes are logits.",
        drawings,
    )


def _logit_range(shares: Sequence[float]) -> tuple[float, float]:
    low, high = min(shares), max(shares)
    return low / (low + 1.5 * (1 - low)), 1.5 * high / (1.5 * high + 1 - high)


def _fitted(drawing: Drawing, slope: float, intercept: float) -> Iterator[tuple[float, float]]:
    """The line from where it enters the axes to where it leaves them."""
    x, y = drawing.x, drawing.y
    x_low, x_high = x.transform(x.low), x.transform(x.high)
    y_low, y_high = y.transform(y.low), y.transform(y.high)
    if slope:
        ends = sorted([(y_low - intercept) / slope, (y_high - intercept) / slope])
        x_low, x_high = max(x_low, ends[0]), min(x_high, ends[1])
    for at in (x_low, x_high):
        height = min(max(slope * at + intercept, y_low), y_high)
        yield _expit(at), _expit(height)


ROBUSTNESS = Section("robustness", "Effective robustness", findings, (_figure, _table))
