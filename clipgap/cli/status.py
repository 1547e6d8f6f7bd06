"""`clipgap status`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clipgap.cli import words
from clipgap.cli.frame import command
from clipgap.cli.shell import Shell
from clipgap.options import argument

if TYPE_CHECKING:
    from clipgap.runs.status import RunStatus, Status

_SHOWN = 20


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app, "status", "scan")(status)


def status(
    shell: Shell,
    out: Path = argument("The folder that a command fills, alone or in shares.", metavar="OUT"),
) -> int:
    """Say how far a run is: done, running and failed, how fast, and the time left.

    It reads what runs write into their folders, on whichever machine they run.
    """
    from clipgap.runs.status import status_of

    found = status_of(out)
    left = found.seconds_left
    result: dict[str, Any] = {
        "out": out,
        "finished": found.finished,
        "per_second": found.per_second,
        "seconds_left": left,
        "runs": found.runs,
    }
    shell.result(result, _describe(found))
    return 0


def _describe(found: Status) -> Iterator[str]:
    if found.finished:
        yield f"{found.out} is finished."
        return
    if shares := sum(len(run.shares) for run in found.runs):
        states = ("done", "running", "silent", "failed", "stopped", "waiting")
        counts = [f"{found.count(state):,} {state}" for state in states if found.count(state)]
        yield f"{found.out}: {words.plural(shares, 'share')}, {', '.join(counts)}"
    # What went wrong comes first.
    order = ("failed", "silent", "stopped", "running")
    open_runs = [run for run in found.runs if run.state in order]
    for run in sorted(open_runs, key=lambda run: order.index(run.state))[:_SHOWN]:
        yield f"  {', '.join(_of(run))}"
    if len(open_runs) > _SHOWN:
        yield f"  and {words.count(len(open_runs) - _SHOWN)} more"
    if found.per_second:
        left = found.seconds_left
        ends = "" if left is None else f", {words.duration(left)} left"
        yield f"Together {words.count(found.per_second)} {found.runs[0].counted}/s{ends}"
    yield from _next(found)


def _of(run: RunStatus) -> Iterator[str]:
    """The parts of a line."""
    from clipgap.runs.shares import ranges

    where = f" on {run.host}" if run.host else ""
    yield f"{f'share {ranges(run.shares)}' if run.shares else 'run'} {run.state}{where}"
    if run.units:
        done, units = words.count(run.units_done), words.count(run.units)
        yield f"{done} of {units} {run.noun}s"
    if run.state == "running" and run.per_second:
        yield f"{words.count(run.per_second)} {run.counted}/s"
    if run.silent_seconds is not None and run.state != "done":  # a later try may have been refused
        heard = "last heard of " if run.state in ("running", "silent") else ""
        yield f"{heard}{words.duration(run.silent_seconds)} ago"
    if run.said:
        line, *more = run.said.split("\n")
        yield f"{line} {more[0].strip(' -')}" if more and line.endswith(":") else line


def _next(found: Status) -> Iterator[str]:
    """What there is to do."""
    from clipgap.runs.shares import parts_folder
    from clipgap.runs.slurm import is_submitted

    shares = sum(len(run.shares) for run in found.runs)
    broken = [run for run in found.runs if run.state in ("failed", "silent", "stopped")]
    if shares and found.count("done") == shares:
        if is_submitted(found.out):
            yield "All shares are done. A job of its own merges them; see squeue."
        else:
            yield f"All shares are done: {words.to_merge(parts_folder(found.out), found.out)}"
    elif broken and is_submitted(found.out):
        yield (
            "Slurm starts again what it stopped. What failed says why in "
            f"{found.out}.slurm/*.log, and goes on with `clipgap slurm --retry …`."
        )
    elif broken:
        yield "To go on, run the same command again with --resume."
