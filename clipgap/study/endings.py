"""What a demo ends with: its finding in a sentence or two, the accuracies, and where to look."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipgap.cli import words
from clipgap.sheets import Sheet
from clipgap.study.recipe import shipped_recipes

if TYPE_CHECKING:
    from rich.console import RenderableType

    from clipgap.study.run import StudyResult

Ending = Callable[["StudyResult"], Iterator["RenderableType"]]
Rows = Iterable[Mapping[str, Any]]


def ending_of(recipe: Path) -> Ending | None:
    """That of a recipe that we bring, if it has one."""
    endings = {"demo": demo, "demo-domains": domains, "demo-compositional": compositional}
    return endings.get(recipe.stem) if recipe in shipped_recipes().values() else None


def demo(result: StudyResult) -> Iterator[RenderableType]:
    """What pruning did to sketches."""
    from clipgap.clip.eval.api import open_evaluation

    found = open_evaluation(result.folder / "eval")
    accuracy: dict[tuple[str, str], float] = {
        (row["checkpoint"], row["set"]): row["accuracy"]
        for row in found.summary.to_pylist()
        if row["metric"] == "top1" and row["group"] is None
    }
    yield words.Sentence(" ".join(finding(accuracy, found.paired.to_pylist())))
    checkpoints, sets = (list(dict.fromkeys(each)) for each in zip(*accuracy, strict=True))
    table = Sheet(("trained on", *(f"{name}, top-1" for name in sets)))
    for name in checkpoints:
        table.add(name, *(f"{accuracy[name, test]:.1%}" for test in sets))
    yield table
    yield _page(result)


def finding(accuracy: Mapping[tuple[str, str], float], paired: Rows) -> Iterator[str]:
    """What the pruning did to sketches, beside as many random images; in two sentences."""
    whole, pruned, control = (
        f"{accuracy[name, 'sketch']:.1%}" for name in ("web", "sketch-pruned", "rand-pruned")
    )
    yield (
        f"Accuracy on sketches goes from {whole} to {pruned} when the training images go that are "
        f"nearer to a test sketch than the reference set is, and to {control} when as many go at "
        "random."
    )
    mine = [row for row in paired if row["set"] == "sketch"]
    for points, interval in _points(mine, "rand-pruned", "sketch-pruned"):
        yield f"That is {points:.1f} points more than any loss of as many images costs {interval}."


def domains(result: StudyResult) -> Iterator[RenderableType]:
    """What none and a few renditions do to photos and renditions."""
    accuracy, paired = _pools(result, None)
    mixes, sets = (list(dict.fromkeys(each)) for each in zip(*accuracy, strict=True))
    yield "Points that renditions add to a mix of as many images without any:"
    for test in sets:
        mine = [row for row in paired if row["set"] == test]
        for mix in ("few", "quarter", "random"):
            for points, interval in _points(mine, mix, "natural"):
                yield f"  {test}, {mix}: {points:+.1f} {interval}"
    yield _table(accuracy, mixes, {test: (test,) for test in sets})
    yield _page(result)


def compositional(result: StudyResult) -> Iterator[RenderableType]:
    """What diversity does to classes that were never seen in a domain."""
    accuracy, paired = _pools(result, "queried", "other")
    mixes = list(dict.fromkeys(mix for mix, *_ in accuracy))
    mine = [row for row in paired if (row["set"], row["subset"]) == ("sketch", "queried")]
    for points, interval in _points(mine, "high", "low"):
        yield words.Sentence(
            f"Sketches of classes that were never seen as sketches: {points:+.1f} points by high "
            f"diversity over low diversity {interval}."
        )
    places = [(test, group) for test in ("sketch", "photo") for group in ("queried", "other")]
    yield _table(accuracy, mixes, {f"{test}, {group}": (test, group) for test, group in places})
    yield _page(result)


def _pools(
    result: StudyResult, *subsets: str | None
) -> tuple[dict[tuple[str, ...], Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Of all seeds together: accuracies by mix, set and subset, and differences; over images."""
    from clipgap.clip.eval.api import open_evaluation

    found = open_evaluation(result.folder / "eval")
    pools = found.manifest["pools"]

    def plain(rows: Rows) -> Iterator[Mapping[str, Any]]:
        for row in rows:
            if (row["among"], row["over"]) == ("all", "images") and row["subset"] in subsets:
                yield row

    accuracy = {
        tuple(part for part in (row["checkpoint"], row["set"], row["subset"]) if part): row
        for row in plain(found.subsets.to_pylist())
        if row["checkpoint"] in pools
    }
    paired = [
        row
        for row in plain(found.subsets_paired.to_pylist())
        if {row["first"], row["second"]} <= set(pools)
    ]
    return accuracy, paired


def _points(paired: Rows, better: str, worse: str) -> Iterator[tuple[float, str]]:
    """By how many points one is better, and the interval; nothing if they were not compared."""
    for row in paired:
        pair = row["first"], row["second"]
        if set(pair) == {better, worse}:
            sign = 1 if pair[0] == better else -1
            points = [100 * sign * row[key] for key in ("difference", "low", "high")]
            middle, low, high = points[0], min(points[1:]), max(points[1:])
            chance = ", which may be chance" if low <= 0 <= high else ""
            yield middle, f"(95 %: {low:.1f} to {high:.1f}){chance}"


def _table(
    accuracy: Mapping[tuple[str, ...], Mapping[str, Any]],
    mixes: Sequence[str],
    columns: Mapping[str, tuple[str, ...]],
) -> Sheet:
    table = Sheet(("trained on", *columns))
    for mix in mixes:
        cells = (accuracy[key] for key in [(mix, *place) for place in columns.values()])
        table.add(mix, *("{accuracy:.1%} ({low:.0%}–{high:.0%})".format(**cell) for cell in cells))
    return table


def _page(result: StudyResult) -> str:
    return f"Open {result.folder / 'report' / 'index.html'}"
