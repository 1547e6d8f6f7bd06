"""`clipgap bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipgap.cli.consoles import stdout
from clipgap.cli.frame import command
from clipgap.cli.shell import Shell

if TYPE_CHECKING:
    from clipgap.bench import Row


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app, "bench")(bench)


def bench(
    shell: Shell,
    full: Annotated[
        bool, typer.Option("--full/--quick", help="All data and sizes, or the three that matter.")
    ] = False,
    minutes: Annotated[
        float | None,
        typer.Option(metavar="N", min=0, help="About how long.", show_default="3, or 45 for full"),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Threads for all.", show_default="all cores"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER",
            help="Append the rows to a file there.",
            show_default="benchmarks/results in a source tree, else clipgap-bench",
        ),
    ] = None,
) -> None:
    """Measure our kernels and their peers side by side.

    Effective rates, 2·N·M·d / time, of everything in one interleaved run, with ratios; and a scan
    from files to tables. Peers that are not installed are named and left out.
    """
    from clipgap.bench import print_rows, run_bench

    def show(rows: list[Row]) -> None:
        if not shell.json:
            print_rows(rows, stdout())

    rows = run_bench(
        "full" if full else "quick",
        minutes=minutes,
        threads=threads,
        folder=out,
        on_note=shell.note,
        on_rows=show,
    )
    shell.result({"rows": rows}, ())
