"""`clipgap demo`."""

from __future__ import annotations

from pathlib import Path

import typer

from clipgap.cli.frame import command
from clipgap.cli.shell import Shell
from clipgap.options import option
from clipgap.study.command import Given, run_and_show
from clipgap.study.endings import ending_of


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app, "demo", "-o demo")(demo)


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
    compares. Needs the extras [train] and [report]; takes a few minutes on two cores.
    """
    from clipgap.study.run import Study

    study = Study("demo", out, given.values())
    return run_and_show(shell, study, ending_of(study.recipe.file))
