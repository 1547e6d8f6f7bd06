"""Which figures a report has, from its findings."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from clipgap.report.contents import series_name
from clipgap.report.findings import Findings
from clipgap.report.svg import Drawing, Entry, colour_of, linear, logit

LEAST_POINTS = 10
MOST_CURVES = 6
MOST_WHISKERS = 2  # curves that have their intervals drawn; more would hide each other


@dataclass(frozen=True)
class Figure:
    """Drawings that are looked at together, under one caption."""

    name: str
    title: str
    caption: str
    drawings: list[Drawing] = field(repr=False)

    def file(self, drawing: Drawing) -> str:
        """The name of a drawing's own file."""
        place = self.drawings.index(drawing) + 1
        slug = re.sub(r"[^a-z0-9]+", "-", drawing.title.lower()).strip("-")[:40]
        return f"{self.name}-{place}-{slug}.svg" if slug else f"{self.name}-{place}.svg"


def figures(findings: Findings) -> dict[str, Figure]:
    """All figures that have something to show, by name."""
    made = [
        _similarity(findings),
        _embeddings(findings),
        _by_similarity(findings),
        _by_removed(findings),
        _robustness(findings),
        _density(findings),
    ]
    return {figure.name: figure for figure in made if figure.drawings}


def _colours(findings: Findings) -> dict[str, int]:
    """Each training set keeps its colour through all figures."""
    names = [name for test in findings["tests"] for name in test["training"]]
    return {name: colour_of(n) for n, name in enumerate(dict.fromkeys(names))}


def _similarity(findings: Findings) -> Figure:
    colours = _colours(findings)
    drawings = []
    for test in findings["tests"]:
        series = {name: found for name, found in test["training"].items() if found["histogram"]}
        if series:
            drawings.append(_histogram(test["name"], series, colours))
    return Figure(
        "similarity",
        "How near each training set comes",
        "Similarity of each test point to its nearest training row, as share of the test points "
        "in bins of 0.02. Dashed lines: medians.",
        drawings,
    )


def _embeddings(findings: Findings) -> Figure:
    rows = findings["embeddings"]
    seconds = list(dict.fromkeys(row["second"] for row in rows))
    drawings = []
    for test in findings["tests"]:
        of_test = [row for row in rows if row["test"] == test["name"] and row["histogram"]]
        if not of_test:
            continue
        first = of_test[0]["first"]
        series = {first: test["training"][first], **{row["second"]: row for row in of_test}}
        colours = {name: colour_of(n) for n, name in enumerate([first, *seconds])}
        drawings.append(_histogram(test["name"], series, colours))
    return Figure(
        "similarity-by-embedding",
        "Similarity by other embeddings",
        "Similarity of each test point to its nearest training row, by each embedding, in bins of "
        "0.02. Dashed lines: medians.",
        drawings,
    )


def _histogram(title: str, series: dict[str, Any], colours: dict[str, int]) -> Drawing:
    shares = {
        name: [(b["low"], b["high"], b["count"] / found["scored"]) for b in found["histogram"]]
        for name, found in series.items()
    }
    drawing = _steps(
        title,
        shares,
        [Entry(name, colours[name]) for name in series],
        "similarity of the nearest neighbour",
        "test points (%)",
        "of the test points",
    )
    for name, found in series.items():
        middle = found["median"]
        drawing.path([(middle, 0), (middle, drawing.y.high)], f"median s{colours[name]}")
    return drawing


def _steps(
    title: str,
    shares: dict[str, list[tuple[float, float, float]]],
    legend: Sequence[Entry],
    x_label: str,
    y_label: str,
    of_what: str,
) -> Drawing:
    """Histograms as outlines that may lie over one another."""
    lows = [bins[0][0] for bins in shares.values()]
    highs = [bins[-1][1] for bins in shares.values()]
    peak = max(share for bins in shares.values() for _, _, share in bins)
    drawing = Drawing(
        title,
        linear(min(lows) - 0.02, max(highs) + 0.02, x_label),
        linear(0, peak * 1.08, y_label, percent=True, count=4),
        legend,
    )
    for entry in legend:
        bins = shares[entry.name]
        outline = [(bins[0][0], 0.0)]
        for low, high, share in bins:
            outline += [(low, share), (high, share)]
        outline.append((bins[-1][1], 0.0))
        drawing.path(outline, f"area s{entry.colour}")
    for entry in legend:
        for low, high, share in shares[entry.name]:
            tip = f"{entry.name}: {low:.2f} to {high:.2f}, {share:.2%} {of_what}"
            drawing.bar(low, high, share, entry.colour, tip)
    return drawing


def _by_similarity(findings: Findings) -> Figure:
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
    return Figure(
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


def _by_removed(findings: Findings) -> Figure:
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
    return Figure(
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


def _robustness(findings: Findings) -> Figure:
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
    return Figure(
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


def _expit(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def _density(findings: Findings) -> Figure:
    drawings = []
    colours = _colours(findings)
    for test in dict.fromkeys(series["test"] for series in findings["normalised"]):
        # Where a set was pruned, what is left is what the figure is about.
        of_test = [series for series in findings["normalised"] if series["test"] == test]
        pruned = {series["training"] for series in of_test if series["of"] == "pruned"}
        shown = [
            series
            for series in of_test
            if series["histogram"]
            and (series["of"] == "pruned" or series["training"] not in pruned)
        ]
        if not shown:
            continue
        shares = {
            series_name(series): [
                (b["low"], b["high"], b["count"] / series["rows"]) for b in series["histogram"]
            ]
            for series in shown
        }
        legend = [Entry(series_name(series), colours[series["training"]]) for series in shown]
        drawings.append(
            _steps(
                test,
                shares,
                legend,
                "similarity / threshold τ of the nearest test point",
                "training rows (%)",
                "of the training rows",
            )
        )
    return Figure(
        "normalised-similarity",
        "How close training rows are to the gap",
        "Similarity of each training row to its nearest test point, divided by the threshold τ "
        "there, in bins of 0.02. Above 1 lies what pruning removes.",
        drawings,
    )
