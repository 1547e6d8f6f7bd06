"""`clipgap plan`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from clipgap.bench.options import Doing, Rates, Sizes
from clipgap.cli import words
from clipgap.cli.completion import matching
from clipgap.cli.frame import command
from clipgap.cli.scan import tests_by_name
from clipgap.cli.shell import Shell
from clipgap.errors import UsageError
from clipgap.options import argument, option
from clipgap.sheets import Sheet
from clipgap.study.recipe import shipped_recipes

if TYPE_CHECKING:
    from rich.console import RenderableType

    from clipgap.bench.plan import Projection

_ALONE = ("scan", "embed", "dedup", "train", "eval")


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app, "plan", "--rows 2.3B --tests 166963 --dim 640 --on 8xA100")(plan)


def plan(
    shell: Shell,
    sizes: Sizes,
    doing: Doing,
    rates: Rates,
    what: tuple[str, ...] = argument(
        "scan, embed, dedup, train or eval, and the store that it reads; a store alone is scanned. "
        "Or a recipe, by its file or name.",
        metavar="[COMMAND] [TRAIN]|RECIPE",
        default=(),
        autocompletion=lambda incomplete: matching(incomplete, [*_ALONE, *shipped_recipes()]),
    ),
    test: tuple[str, ...] = option(
        (), "A test set, as for `clipgap scan`. Repeatable.", metavar="NAME=STORE"
    ),
    count: tuple[str, ...] = option(
        (),
        "Of a recipe: how many rows one of its paths holds, or a stage leaves. Repeatable.",
        metavar="NAME=N",
    ),
) -> int:
    """Say what commands or a recipe would take: bytes, time, cost, what binds.

    For stores, of which only headers are read, or for numbers as they are typed. A scan with
    --reference has gap and split, too. Rates are those of benchmarks that were run and kept; one
    that nobody has measured is typed, or assumed and called so.
    """
    from clipgap.bench.plan import plan as project

    first = what[0] if what else ""
    if Path(first).suffix == ".toml" or (first in shipped_recipes() and not Path(first).exists()):
        from clipgap.study.prices import plan_recipe

        if len(what) > 1 or test:
            raise UsageError("a recipe says what it reads; give --count NAME=N for each")
        found, left_out = plan_recipe(first, count, doing=doing, rates=rates)
    else:
        if count:
            raise UsageError("--count goes with a recipe; give numbers as --rows and --tests")
        name, stores = (first, what[1:]) if first in _ALONE else ("scan", what)
        if len(stores) > 1:
            raise UsageError(f"{stores[1]!r} is one store too many")
        train, left_out = (stores[0] if stores else None), {}
        tests = tests_by_name(test)
        found = project(train, tests, command=name, sizes=sizes, doing=doing, rates=rates)
    stages = [
        {**vars(stage), "seconds": stage.seconds, "binds": stage.binds} for stage in found.stages
    ]
    totals = {
        "seconds": found.seconds,
        "disk_bytes": found.disk_bytes,
        "memory_bytes": found.memory_bytes,
        "device_hours": found.device_hours,
        "left_out": left_out,
    }
    shell.result({"projection": True, **vars(found), "stages": stages, **totals}, _describe(found))
    for stage, why in left_out.items():
        shell.note(f"not in it is {stage}: {why}")
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
        yield f"  {name:9} {_shown(name, rate.value)}: {rate.why}"
    for name in found.unknown:
        yield f"  {name:9} no row tells it, so it is left out"


def _shown(name: str, value: float) -> str:
    kind = name.rstrip("′")
    if kind in ("compute", "model", "pairs", "assigning"):
        return f"{words.rate(value)} a device"
    if kind in ("disk", "network"):
        return f"{words.size(value)}/s"
    if kind in ("memory", "image"):
        return words.binary_size(round(value)) if kind == "memory" else words.size(value)
    rows = "rows" if kind != "decode" else "images"
    return f"{words.count(value)} {rows}" + ("/s a core" if kind != "clusters" else " each")
