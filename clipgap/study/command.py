"""`clipgap run`."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clipgap.cli import words
from clipgap.cli.completion import matching
from clipgap.cli.frame import command
from clipgap.cli.shell import Shell
from clipgap.cli.signals import stop_on_signals
from clipgap.errors import QUARANTINED
from clipgap.files.naming import read_pairs
from clipgap.options import Options, argument, option
from clipgap.study.endings import Ending, ending_of
from clipgap.study.recipe import shipped_recipes

if TYPE_CHECKING:
    from clipgap.study.run import Plan, Starting, Study, StudyResult


@dataclass(frozen=True)
class Given(Options):
    """What a recipe is given."""

    set_: tuple[str, ...] = option(
        (),
        "A path or value of the recipe, such as laion=/data/laion400m. Repeatable.",
        flags=("--set",),
        metavar="NAME=VALUE",
    )

    def values(self) -> dict[str, str]:
        """By name."""
        return read_pairs(self.set_, "--set", "VALUE")


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app, "run", "paper-table1 --dry-run")(run)


def run(
    shell: Shell,
    given: Given,
    recipe: str = argument(
        "A .toml file, or the name of a recipe we bring.",
        metavar="RECIPE",
        autocompletion=lambda incomplete: matching(incomplete, shipped_recipes()),
    ),
    only: tuple[str, ...] = option((), "Run this stage and no other. Repeatable.", metavar="STAGE"),
    from_: tuple[str, ...] = option(
        (),
        "Run this stage again, and all that follow from it. Repeatable.",
        flags=("--from",),
        metavar="STAGE",
    ),
    dry_run: bool = option(False, "Show the stages, which of them would run and why, and stop."),
    overwrite: bool = option(
        False, "Replace outputs whose inputs changed, however long they took to make."
    ),
    out: Path | None = option(
        None,
        "The folder of the study.",
        flags=("--out", "-o"),
        metavar="FOLDER",
        shown="clipgap-NAME",
    ),
) -> int:
    """Run a whole study, stage by stage; what stands is not done again.

    A stage is one clipgap command. It is skipped while its output is whole and its inputs and
    options are those that it was made from, so the same command goes on after a stop or a failure.
    """
    from clipgap.study.run import Study

    study = Study(recipe, out, given.values())
    if dry_run:
        plan = study.plan(only, from_, costs=True)
        shell.result(_planned(plan), _describe_plan(plan))
        return 0
    ending = None if only else ending_of(study.recipe.file)
    return run_and_show(shell, study, ending, only=only, again_from=from_, overwrite=overwrite)


def run_and_show(
    shell: Shell,
    study: Study,
    ending: Ending | None = None,
    **how: Any,
) -> int:
    """Run the study with a line for each stage, and show what it came to."""
    stop = threading.Event()

    def announce(starting: Starting) -> None:
        step = starting.step
        shell.note(f"[{starting.number}/{starting.total}] {step.stage.name}: {step.why}")
        shell.note(words.command_line(step.call, shell.width))

    stopping = "Stopping; finished stages stand, and the one at hand says what it keeps."
    with stop_on_signals(stop, shell.note, stopping):
        result = study.run(quiet=shell.quiet, on_stage=announce, stop=stop, **how)
    shell.result(_outcome(result), chain(_describe_run(result), (ending or _printed)(result)))
    return QUARANTINED if result.quarantined else 0


def _planned(plan: Plan) -> dict[str, Any]:
    return {
        "recipe": plan.recipe.file,
        "folder": plan.folder,
        "stages": [
            {
                "name": step.stage.name,
                "after": step.stage.after,
                "runs": step.runs,
                "why": step.why,
                "seconds_last_time": step.finding.seconds,
                "call": step.call,
                "cost": plan.costs.get(step.stage.name),
            }
            for step in plan.steps
        ],
        "missing": plan.missing,
    }


def _describe_plan(plan: Plan) -> Iterator[str]:
    yield f"{plan.recipe.title}, into {plan.folder}: {words.plural(len(plan.steps), 'stage')}"
    for step in plan.steps:
        state = f"to run: {step.why}" if step.runs else step.why or "done"
        seconds = step.finding.seconds
        took = "" if seconds is None else f" (last time {words.duration(seconds)})"
        yield f"{'▶' if step.runs else '·'} {step.stage.name}: {state}{took}"
        if step.stage.after:
            yield f"    after {', '.join(step.stage.after)}"
        yield words.command_line(step.call, indent=4)
        for line in plan.costs.get(step.stage.name, "").splitlines():
            yield f"    | {line}"
    if plan.missing:
        yield "Missing:"
        yield from (f"  - {line}" for line in plan.missing)
    if not plan.to_run:
        yield "Nothing to do."


def _outcome(result: StudyResult) -> dict[str, Any]:
    return {
        "recipe": result.recipe.file,
        "folder": result.folder,
        "ran": result.ran,
        "skipped": result.skipped,
    }


def _printed(result: StudyResult) -> Iterator[str]:
    """What the stages to show said when they ran."""
    for name, printed in result.results.items():
        yield f"── {name}"
        yield printed.rstrip("\n")


def _describe_run(result: StudyResult) -> Iterator[str]:
    if not result.ran:
        yield f"Nothing to do: all {len(result.skipped)} stages of {result.folder} stand."
        return
    seconds = sum(outcome.seconds for outcome in result.ran)
    yield (
        f"{words.plural(len(result.ran), 'stage')} in {words.duration(seconds)}, "
        f"{words.count(len(result.skipped))} skipped. All is in {result.folder}"
    )
