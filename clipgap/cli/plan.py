"""`clipgap plan`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from clipgap.bench.options import Rates, Sizes
from clipgap.cli import words
from clipgap.cli.frame import command
from clipgap.cli.scan import tests_by_name
from clipgap.cli.shell import Shell
from clipgap.options import argument, option
from clipgap.sheets import Sheet

if TYPE_CHECKING:
    from rich.console import RenderableType

    from clipgap.bench.plan import Projection


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app, "plan")(plan)


def plan(
    shell: Shell,
    sizes: Sizes,
    rates: Rates,
    train: str | None = argument(
        "The training store; or type --rows.", metavar="TRAIN", default=None
    ),
    test: tuple[str, ...] = option(
        (), "A test set, as for `clipgap scan`. Repeatable.", metavar="NAME=STORE"
    ),
) -> int:
    """Say what a scan would take: bytes, time, memory, disk, GPU-hours, what binds.

    For stores, of which only headers are read, or for numbers as they are typed. With --reference
    also what `gap` and `split` would. Rates are those of benchmarks that were run and kept; one
    that nobody has measured is typed, or assumed and called so.
    """
    from clipgap.bench.plan import plan as project

    found = project(train, tests_by_name(test), sizes=sizes, rates=rates)
    stages = [
        {**vars(stage), "seconds": stage.seconds, "binds": stage.binds} for stage in found.stages
    ]
    totals = {
        "seconds": found.seconds,
        "disk_bytes": found.disk_bytes,
        "memory_bytes": found.memory_bytes,
        "device_hours": found.device_hours,
    }
    shell.result({"projection": True, **vars(found), "stages": stages, **totals}, _describe(found))
    return 0


def _describe(found: Projection) -> Iterator[RenderableType]:
    on = words.plural(found.devices, "core") if found.device == "core" else ""
    yield f"Projected, not measured, for {on or f'{found.devices:,} × {found.device}'}:"
    table = Sheet(("stage", "rows", "operations", "read", "written", "time", "binds"))
    for stage in found.stages:
        table.add(
            stage.name,
            words.count(stage.rows),
            words.operations(stage.operations) if stage.operations else "",
            words.size(stage.bytes_read),
            words.size(stage.bytes_written),
            words.duration(stage.seconds),
            stage.binds,
        )
    yield table
    hours = "core-hours" if found.device == "core" else "GPU-hours"
    memory = found.memory_bytes
    yield (
        f"Together {words.duration(found.seconds)}, {found.device_hours:,.2f} {hours}, "
        f"{words.size(found.disk_bytes)} on disk"
        + ("" if memory is None else f", {words.binary_size(round(memory))} of memory")
    )
    yield "By these rates:"
    for name, rate in found.rates.items():
        yield f"  {name:8} {_shown(name, rate.value)}: {rate.why}"
    for name in found.unknown:
        yield f"  {name:8} no row tells it, so it is left out"


def _shown(name: str, value: float) -> str:
    if name == "compute":
        return f"{words.rate(value)} a device"
    if name in ("disk", "network"):
        return f"{words.size(value)}/s"
    return (
        words.binary_size(round(value))
        if name == "memory"
        else f"{words.count(value)} rows/s a core"
    )
