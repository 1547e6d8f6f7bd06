"""`clipgap bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipgap.cli.consoles import stdout
from clipgap.cli.frame import command
from clipgap.cli.shell import Shell
from clipgap.kernels.options import Compute
from clipgap.options import Only, option

if TYPE_CHECKING:
    from clipgap.bench.results import Row


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app, "bench", "--quick")(bench)


def bench(
    shell: Shell,
    compute: Annotated[Compute, Only("threads")],
    full: bool = option(
        False, "All data and sizes, or the three that matter.", flags=("--full/--quick",)
    ),
    minutes: float | None = option(
        None, "About how long.", metavar="N", min=0, shown="3, or 45 for full"
    ),
    out: Path | None = option(
        None,
        "Append the rows to a file there, one for each machine.",
        flags=("--out", "-o"),
        metavar="FOLDER",
    ),
) -> None:
    """Measure our kernels and their peers side by side.

    Effective rates, 2·N·M·d / time, of everything in one interleaved run, with ratios; and a scan
    from files to tables. Peers that are not installed are named and left out.
    """
    from clipgap.bench.api import print_rows, run_bench

    def show(rows: list[Row]) -> None:
        if not shell.json:
            print_rows(rows, stdout())

    rows = run_bench(
        "full" if full else "quick",
        minutes=minutes,
        threads=compute.threads,
        folder=out,
        on_note=shell.note,
        on_rows=show,
    )
    shell.result({"rows": rows}, ())
