"""`clipgap demo`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clipgap.cli.frame import command
from clipgap.cli.shell import Shell
from clipgap.options import option
from clipgap.study.command import Given, run_and_show

if TYPE_CHECKING:
    from rich.console import RenderableType

    from clipgap.study.run import StudyResult


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app, "demo")(demo)


def demo(
    shell: Shell,
    given: Given,
    out: Path = option(
        Path("clipgap-demo"),
        "Where to put everything.",
        flags=("--out", "-o"),
        metavar="FOLDER",
    ),
) -> int:
    """The whole paper in miniature, on images made on the spot; ends with a report.

    Runs the recipe `demo` and ends with its finding: renders a web-like training set with
    near-duplicates of test images, trains a tiny CLIP on all of it and on pruned parts, and
    compares. Needs the extras [train] and [report]; takes ten minutes or so on two cores.
    """
    from clipgap.study.run import Study

    return run_and_show(shell, Study("demo", out, given.values()), ending=_ending)


def _ending(result: StudyResult) -> Iterator[RenderableType]:
    """The finding, the accuracies, and where to look."""
    from rich.table import Table

    from clipgap.clip.eval.api import open_evaluation

    found = open_evaluation(result.folder / "eval")
    accuracy: dict[tuple[str, str], float] = {
        (row["checkpoint"], row["set"]): row["accuracy"]
        for row in found.summary.to_pylist()
        if row["metric"] == "top1" and row["group"] is None
    }
    yield from finding(accuracy, found.paired.to_pylist())
    checkpoints, sets = (list(dict.fromkeys(each)) for each in zip(*accuracy, strict=True))
    table = Table(box=None, pad_edge=False)
    table.add_column("trained on")
    for name in sets:
        table.add_column(f"{name}, top-1", justify="right")
    for name in checkpoints:
        table.add_row(name, *(f"{accuracy[name, test]:.1%}" for test in sets))
    yield table
    yield f"Open {result.folder / 'report' / 'index.html'}"


def finding(accuracy: dict[tuple[str, str], float], paired: list[dict[str, Any]]) -> Iterator[str]:
    """What the pruning did to sketches, beside as many random images; in two sentences."""
    whole, pruned, control = (
        f"{accuracy[name, 'sketch']:.1%}" for name in ("web", "sketch-pruned", "rand-pruned")
    )
    yield (
        f"Accuracy on sketches goes from {whole} to {pruned} when the training images go that are "
        f"nearer to a test sketch than the reference set is, and to {control} when as many go at "
        "random."
    )
    for row in paired:
        pair = row["first"], row["second"]
        if row["set"] == "sketch" and set(pair) == {"sketch-pruned", "rand-pruned"}:
            sign = 1 if pair[0] == "rand-pruned" else -1
            points = [100 * sign * row[key] for key in ("difference", "low", "high")]
            middle, low, high = points[0], min(points[1:]), max(points[1:])
            chance = "" if low > 0 else ", which may be chance"
            yield (
                f"That is {middle:.1f} points more than any loss of as many images costs (95 %: "
                f"{low:.1f} to {high:.1f}){chance}."
            )
