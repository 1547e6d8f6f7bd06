"""`clipgap eval`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clipgap.cli import words
from clipgap.cli.frame import Dealt, Tolerance, command, output, required
from clipgap.cli.shell import Shell
from clipgap.clip.eval.options import EvalOptions
from clipgap.errors import QUARANTINED
from clipgap.options import REQUIRED, argument, option
from clipgap.sheets import Sheet

if TYPE_CHECKING:
    from rich.console import RenderableType

    from clipgap.clip.eval.api import EvalResult
    from clipgap.clip.eval.plan import EvalPlan

_STOPPING = "Stopping after the batch at hand; finished sets are kept."


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(
        app,
        "eval",
        "pruned=pruned.pt --model ViT-B-32 --data imagenet-val=/data/val -o eval",
    )(evaluate)


def evaluate(
    shell: Shell,
    options: EvalOptions,
    tolerance: Tolerance,
    running: Dealt,
    checkpoints: tuple[str, ...] = argument(
        "Checkpoint files, NAME=FILE, or pretrained tags of the model; NAME= is random weights.",
        metavar="CHECKPOINT...",
    ),
    data: tuple[str, ...] = option(
        REQUIRED,
        "A set, again for each: a name of `clipgap data list`, or any with --classnames. PATH is a "
        "folder of class folders, or shards with .cls members.",
        metavar="NAME=PATH",
    ),
    out: Path | None = output("EVAL"),
) -> int:
    """Evaluate checkpoints on sets: accuracy with intervals, and each sample's result.

    CLIP models are evaluated zero-shot, with the classifier that open_clip makes of class names
    and prompts; classifiers by their own outputs. Rows are in the order of `clipgap embed`.
    """
    from clipgap.clip.eval.api import evaluate as run
    from clipgap.clip.eval.plan import plan_evaluation

    if running.dry_run:
        described = _described(plan_evaluation(checkpoints, data, options=options))
        shell.result(described, _describe_plan(described))
        return 0
    out = required(out)
    with shell.watch(out, _STOPPING) as watch:
        result = run(checkpoints, data, out, options=options, how=running.how(watch))
    shell.result(_outcome(result), _describe_outcome(result))
    return QUARANTINED if result.problems > tolerance.allow_bad else 0


def _described(plan: EvalPlan) -> dict[str, Any]:
    return {
        "checkpoints": [checkpoint.describe() for checkpoint in plan.checkpoints],
        "sets": [
            {
                "name": data.name,
                "path": data.path,
                "samples": data.images.samples,
                "classes": len(data.classes),
                "templates": len(data.classes.templates),
            }
            for data in plan.sets
        ],
    }


def _describe_plan(plan: dict[str, Any]) -> Iterator[str]:
    yield f"Would evaluate {words.plural(len(plan['checkpoints']), 'checkpoint')} on"
    for data in plan["sets"]:
        samples = "" if data["samples"] is None else f"{words.plural(data['samples'], 'image')}, "
        yield (
            f"  {data['name']:<16} {samples}{words.count(data['classes'])} classes, "
            f"{words.plural(data['templates'], 'prompt')}: {data['path']}"
        )


def _outcome(result: EvalResult) -> dict[str, Any]:
    return {
        "out": result.path,
        "summary": result.summary.to_pylist(),
        "paired": result.paired.to_pylist(),
        **_subsets_as_json(result),
        "quarantined": result.problems,
        "already_complete": result.already_complete,
        "repaired": result.repaired,
    }


def _subsets_as_json(result: EvalResult) -> dict[str, Any]:
    if not result.has_subsets:
        return {}
    return {
        "subsets": result.subsets.to_pylist(),
        "subsets_paired": result.subsets_paired.to_pylist(),
    }


def _describe_outcome(result: EvalResult) -> Iterator[RenderableType]:
    if result.already_complete:
        yield words.complete(result.path)
    elif result.repaired:
        yield f"Made again: {', '.join(result.repaired)}."
    yield _accuracies(result)
    if result.paired.num_rows:
        yield _differences(result)
    if result.has_subsets:
        yield _subsets(result)
    if result.problems:
        yield (
            f"Quarantined: {words.plural(result.problems, 'unit')}, listed in "
            f"{result.path}/quarantine.parquet"
        )
    yield f"Evaluation: {result.path}"


def _accuracies(result: EvalResult) -> RenderableType:
    figures = ("images", "top-1", "95 %", "top-5")
    table = Sheet(("set", "group", "checkpoint", *figures), words=3)
    rows = result.summary.to_pylist()
    top5 = {_place(row): row["accuracy"] for row in rows if row["metric"] == "top5"}
    worst = _worst_groups(rows)
    for row in sorted(
        (row for row in rows if row["metric"] == "top1"),
        key=lambda row: (row["set"], row["group"] or ""),
    ):
        place = _place(row)
        table.add(
            row["set"],
            (row["group"] or "all") + (" (worst)" if place in worst else ""),
            row["checkpoint"],
            words.count(row["samples"]),
            f"{row['accuracy']:.2%}",
            f"{row['low']:.2%} – {row['high']:.2%}",
            f"{top5[place]:.2%}" if place in top5 else "",
        )
    return table


def _subsets(result: EvalResult) -> RenderableType:
    """Of each subset: among all classes of the set and among its own, by images and by classes."""
    figures = ("images", "among", "top-1", "95 %", "by class")
    table = Sheet(("set", "subset", "checkpoint", *figures), words=3)
    rows = result.subsets.to_pylist()

    def place(row: dict[str, Any]) -> tuple[Any, ...]:
        return row["set"], row["subset"] or "", row["among"], row["checkpoint"]

    by_class = {place(row): row["accuracy"] for row in rows if row["over"] == "classes"}
    for row in sorted((row for row in rows if row["over"] == "images"), key=place):
        table.add(
            row["set"],
            row["subset"] or "all",
            row["checkpoint"],
            words.count(row["images"]),
            "all" if row["among"] == "all" else "its own",
            f"{row['accuracy']:.2%}",
            f"{row['low']:.2%} – {row['high']:.2%}",
            f"{by_class[place(row)]:.2%}",
        )
    return table


def _differences(result: EvalResult) -> RenderableType:
    table = Sheet(("set", "difference in top-1", "points", "95 %"), words=2)
    for row in result.paired.to_pylist():
        if row["group"] is None:
            table.add(
                row["set"],
                f"{row['first']} − {row['second']}",
                f"{100 * row['difference']:+.2f}",
                f"{100 * row['low']:+.2f} – {100 * row['high']:+.2f}",
            )
    return table


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["set"], row["group"], row["checkpoint"]


def _worst_groups(rows: list[dict[str, Any]]) -> set[tuple[Any, ...]]:
    """The group of lowest accuracy for each set and checkpoint, where there are several."""
    worst: dict[tuple[str, str], dict[str, Any]] = {}
    groups: dict[tuple[str, str], int] = {}
    for row in rows:
        if row["group"] is not None and row["metric"] == "top1":
            key = row["set"], row["checkpoint"]
            groups[key] = groups.get(key, 0) + 1
            if key not in worst or row["accuracy"] < worst[key]["accuracy"]:
                worst[key] = row
    return {_place(row) for key, row in worst.items() if groups[key] > 1}
