"""`clipgap emulate`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipgap.cli import words
from clipgap.cli.frame import Running, command, output
from clipgap.cli.scan import Moved
from clipgap.cli.shell import Shell
from clipgap.options import Only, argument
from clipgap.sheets import Sheet
from clipgap.verify.options import Shortcuts

if TYPE_CHECKING:
    from rich.console import RenderableType

    from clipgap.verify.emulate import Emulation, Shortfall


_STOPPING = "Stopping: nothing is kept."
_SHOWN = 10


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app, "emulate", "scan")(emulate)


def emulate(
    shell: Shell,
    options: Shortcuts,
    moved: Moved,
    running: Annotated[Running, Only("resume", "overwrite")],
    scan: Path = argument("A finished scan with a gap.", metavar="SCAN"),
    out: Path | None = output("KEEP", "The keep-list to make of what the shortcuts keep."),
) -> None:
    """Say what shortcuts would have pruned instead of the exact rule.

    The shortcuts are those of released code: a list of the best candidates per test point and
    shard, cut off whether or not its end lies below the threshold; and rounded thresholds and
    scores. Counts the rows that they miss and the rows that they prune for nothing.
    """
    from clipgap.verify.emulate import emulate as run

    with shell.watch(out, _STOPPING) as watch:
        found = run(
            scan,
            out=out,
            options=options,
            **moved.stores(),
            how=running.how(watch),
        )
    shell.result(asdict(found), describe(found, out))


def describe(found: Emulation, out: Path | None = None) -> Iterator[RenderableType]:
    """A line a test set, and what the columns mean where that is not plain."""
    title = f"Rows pruned with {found.arithmetic} and lists of {found.candidates:,} a shard"
    reasons = ("missed: list full", "missed: rounding", "for nothing")
    table = Sheet(("by", "exactly", "emulated", *reasons), title=title)
    for one in (*found.sets, found.any):
        numbers = (one.exact, one.emulated, one.missed_by_list, one.missed_by_rounding, one.wrong)
        table.add(one.name, *map(words.count, numbers))
    yield table
    for one in found.sets:
        yield from _notes(one)
    if found.unfilled:
        yield (
            f"  Undefined: each threshold is the highest of a buffer with "
            f"{words.plural(found.unfilled, 'number')} that nothing filled. "
            f"{words.plural(found.any.undefined, 'row')} hang on what that memory held: all that "
            "are pruned so"
        )
    if found.already_complete:
        yield words.complete(out)
    elif out is not None:
        yield f"Keep-list: {out}"


def _notes(one: Shortfall) -> Iterator[str]:
    yield (
        f"  {one.name}: {words.plural(one.full_lists, 'list')} ended above the threshold; of the "
        f"thresholds {one.tau_lower:,} are too low and {one.tau_higher:,} too high"
    )
    if one.full:
        points = [str(each.row if each.key is None else each.key) for each in one.full]
        shown = ", ".join([*points[:_SHOWN], *(["…"] if len(points) > _SHOWN else [])])
        yield f"  {one.name}: lists of {words.plural(len(points), 'test point')} were full: {shown}"
    if one.tau_unsure:
        yield (
            f"  {one.name}: {words.plural(one.tau_unsure, 'threshold')} may be higher than "
            "emulated: make the gap with a larger -k to know"
        )
