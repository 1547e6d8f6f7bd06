"""The finding: what the report comes to, as a sentence with its interval, and the figure of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipgap.intervals import Interval, wilson
from clipgap.report.parts import Figure, Findings, Section, draw_bar, side_by_side
from clipgap.report.sections.accuracy import top1
from clipgap.report.sections.how_near import NEAR_DUPLICATE
from clipgap.report.sources import Sources, TrainingSet
from clipgap.report.svg import Drawing, colour_of, linear
from clipgap.report.tables import minus

MOST_BARS = 8


def findings(sources: Sources) -> Findings:
    return {"finding": _of_accuracy(sources) or _of_similarity(sources)}


@dataclass(frozen=True)
class _Pruning:
    """A model trained on what pruning leaves, beside models of the whole set and of a control."""

    training: TrainingSet
    split: str
    removed: int
    offset: float
    sets: tuple[str, ...]  # that the split was pruned by
    test: str
    control: str | None  # a random split of the same size
    difference: Mapping[str, Any] | None  # control, or whole, less pruned; on the same samples

    @property
    def rank(self) -> tuple[bool, bool, float]:
        """What says most comes first: with a control, with an interval, the largest difference."""
        size = 0.0 if self.difference is None else abs(self.difference["difference"])
        return self.control is not None, self.difference is not None, size


def _of_accuracy(sources: Sources) -> dict[str, Any] | None:
    """What removing rows near a test set did to accuracy on it."""
    found = top1(sources)
    candidates = list(_prunings(sources, found))
    if not candidates:
        return None
    chosen = max(candidates, key=lambda each: each.rank)
    whole, test = chosen.training.name, chosen.test
    names = {whole: f"all of {whole}", chosen.split: chosen.split}
    if chosen.control is not None:
        names = {whole: names[whole], chosen.control: "as many at random", **names}
    bars = [
        {
            "name": name,
            "label": label,
            "share": found[name, test]["accuracy"],
            "low": found[name, test]["low"],
            "high": found[name, test]["high"],
        }
        for name, label in names.items()
    ]
    return {
        "kind": "accuracy",
        "test": test,
        "training": whole,
        "split": chosen.split,
        "control": chosen.control,
        "removed": chosen.removed,
        "difference": chosen.difference,
        "bars": bars,
        "says": _say_accuracy(chosen, {bar["name"]: bar["share"] for bar in bars}),
    }


def _prunings(
    sources: Sources, found: Mapping[tuple[str, str], Mapping[str, Any]]
) -> Iterator[_Pruning]:
    pairs = {
        (row["set"], row["first"], row["second"]): row
        for one in sources.evaluations
        for row in one.paired
        if row["group"] is None
    }
    for training in sources.scans:
        splits = sources.splits_of(training)
        for name, keep in splits.items():
            rule = keep.manifest["rule"]
            if rule["name"] != "prune":
                continue
            for test in rule["sets"]:
                if not {(training.name, test), (name, test)} <= found.keys():
                    continue
                control = next(
                    (
                        other
                        for other, drawn in splits.items()
                        if drawn.manifest["rule"]["name"] == "rand"
                        and drawn.kept == keep.kept
                        and (other, test) in found
                    ),
                    None,
                )
                yield _Pruning(
                    training,
                    name,
                    keep.rows - keep.kept,
                    rule.get("offset") or 0.0,
                    tuple(rule["sets"]),
                    test,
                    control,
                    _difference(pairs, test, control or training.name, name),
                )


def _difference(
    pairs: Mapping[tuple[str, str, str], Mapping[str, Any]], test: str, first: str, second: str
) -> dict[str, float] | None:
    """Accuracy of the first less that of the second; the pair may stand the other way round."""
    if row := pairs.get((test, first, second)):
        return {name: row[name] for name in ("difference", "low", "high")}
    if row := pairs.get((test, second, first)):
        return {
            "difference": -row["difference"],
            "low": -row["high"],
            "high": -row["low"],
        }
    return None


def _say_accuracy(found: _Pruning, accuracy: Mapping[str, float]) -> str:
    whole, left = accuracy[found.training.name], accuracy[found.split]
    by = f" by more than {minus(f'{found.offset:g}')}" if found.offset else ""
    text = (
        f"Accuracy on {found.test} {_moves(whole, left)} when the {found.removed:,} rows of "
        f"{found.training.name} go that are nearer to {' or '.join(found.sets)} than the "
        f"reference is{by}"
    )
    if found.control is not None:
        text += f", and to {accuracy[found.control]:.1%} when as many go at random"
    if (between := found.difference) is not None:
        size, low, high = (
            minus(f"{100 * between[key]:.1f}") for key in ("difference", "low", "high")
        )
        text += f": a difference of {size} points (95\u00a0% {low} to {high})"
    return text + "."


def _moves(before: float, after: float) -> str:
    if after == before:
        return f"stays at {after:.1%}"
    return f"{'falls' if after < before else 'rises'} from {before:.1%} to {after:.1%}"


def _of_similarity(sources: Sources) -> dict[str, Any] | None:
    """The test set of which the largest share lies near the training set."""
    bars = list(_shares(sources))
    if not bars:
        return None
    most = max(bars, key=lambda bar: bar["share"])
    test, training, reference = most["name"], most["training"], most["reference"]
    one = "test point" if most["points"] == 1 else "test points"
    text = f"{most['near']:,} of {most['points']:,} {one} of {test} "
    if reference is None and most["split"] is None:
        text += f"have a near duplicate in {training} (similarity above {most['limit']:g})"
    elif reference is None:
        text += f"have a row of {training} more similar than {most['limit']:g}"
    else:
        text += f"are nearer to {training} than to {reference}"
    low, high = (f"{100 * most[end]:.1f}" for end in ("low", "high"))
    text += f": {most['share']:.1%} (95\u00a0% {low} to {high})."
    return {
        "kind": "similarity",
        "test": test,
        "training": training,
        "split": most["split"],
        "reference": reference,
        "bars": bars,
        "says": text,
    }


def _shares(sources: Sources) -> Iterator[dict[str, Any]]:
    """Of each test set, how much of it is nearer to the training set than to the reference.

    Without a reference: how much of it has a row more similar than a split's limit, or else a near
    duplicate.
    """
    for test in sources.tests:
        if (large := sources.large(test)) is None:
            continue
        ours, named = large.similarity(test), sources.thresholds(test)
        if large.scan.manifest["kind"] == "gap":
            named = None  # its thresholds are its own scores
        usable = ~np.isnan(ours)
        split, limit = _limit(sources, large, test)
        if named is None:
            near = ours > limit
        else:
            usable &= ~np.isnan(named[1])
            near = ours > named[1]
        points, right = int(np.count_nonzero(usable)), int(np.count_nonzero(near & usable))
        interval = wilson(right, points)
        yield {
            "name": test,
            "label": test,
            "training": large.name,
            "reference": None if named is None else named[0],
            "split": split if named is None else None,
            "limit": limit if named is None else None,
            "points": points,
            "near": right,
            "share": interval.value,
            "low": interval.low,
            "high": interval.high,
        }


def _limit(sources: Sources, training: TrainingSet, test: str) -> tuple[str | None, float]:
    """The similarity that a split of the store leaves no row above, if only one does so."""
    rules = {name: keep.manifest["rule"] for name, keep in sources.splits_of(training).items()}
    cuts = [
        (name, float(rule["sim"]))
        for name, rule in rules.items()
        if rule["name"] == "below" and test in rule["by"]
    ]
    return cuts[0] if len(cuts) == 1 else (None, NEAR_DUPLICATE)


def _figure(findings: Findings) -> Iterator[Figure]:
    found = findings["finding"]
    if found is None:
        return
    of_accuracy = found["kind"] == "accuracy"
    bars = found["bars"][:MOST_BARS]
    drawing = Drawing(
        found["test"] if of_accuracy else found["training"],
        side_by_side([bar["label"] for bar in bars]),
        linear(0, 1.08 * max(bar["high"] for bar in bars), _y_label(found), percent=True, count=4),
    )
    for n, bar in enumerate(bars):
        share = Interval(bar["share"], bar["low"], bar["high"])
        tip = f"{bar['label']}: {share.value:.2%}, 95\u00a0% {share.low:.2%} to {share.high:.2%}"
        draw_bar(drawing, n, 0.56, share, colour_of(n), tip)
        drawing.note(n, share.high, f"{share.value:.1%}")
    yield Figure("finding", _title(found), "Whiskers are 95\u00a0% Wilson intervals.", [drawing])


def _y_label(found: Mapping[str, Any]) -> str:
    return "top-1 accuracy (%)" if found["kind"] == "accuracy" else "test points (%)"


def _title(found: Mapping[str, Any]) -> str:
    if found["kind"] == "accuracy":
        return f"Accuracy on {found['test']}"
    if found["reference"] is None and found["split"] is None:
        return f"Test points with a near duplicate in {found['training']}"
    if found["reference"] is None:
        return f"Test points with a row of {found['training']} above the limit"
    return f"Test points nearer to {found['training']} than to {found['reference']}"


FINDING = Section("finding", "", findings, (_figure,))
