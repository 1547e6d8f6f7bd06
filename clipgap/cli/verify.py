"""`clipgap verify`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipgap.cli.frame import command
from clipgap.cli.scan import tests_by_name
from clipgap.cli.shell import Shell
from clipgap.errors import InputError

if TYPE_CHECKING:
    from clipgap.scan import VerifyReport


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app, "verify")(verify)


def verify(
    shell: Shell,
    scan: Annotated[Path, typer.Argument(metavar="SCAN", help="The folder of a finished scan.")],
    sample: Annotated[
        int, typer.Option(metavar="N", min=0, help="Training rows and test points to derive anew.")
    ] = 256,
    seed: Annotated[int, typer.Option(metavar="N", help="Which ones: any number.")] = 0,
    full: Annotated[
        bool, typer.Option("--full", help="Derive every row anew; as slow as float64 is.")
    ] = False,
    train: Annotated[
        str | None,
        typer.Option(metavar="STORE", help="Where the training store lies now, if it has moved."),
    ] = None,
    test: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=STORE", help="Where a test set lies now, if it has moved. Repeatable."
        ),
    ] = None,
) -> int:
    """Prove a scan right, or name the file and row that is wrong.

    Checks every checksum, then derives a random sample of rows and all ties anew from the inputs
    with NumPy in float64, which shares no code with the kernels. Equality is exact.
    """
    from clipgap.scan import verify as run

    with shell.progress() as display:
        report = run(
            scan,
            sample=sample,
            seed=seed,
            full=full,
            train=train,
            tests=tests_by_name(test or []),
            on_progress=display,
        )
    shell.result({**asdict(report), "ok": report.ok}, describe(report))
    return 0 if report.ok else InputError.exit_code


def describe(report: VerifyReport) -> Iterator[str]:
    """One line a check, and the verdict."""
    width = max(len(check.name) for check in report.checks)
    for check in report.checks:
        yield f"{'ok    ' if check.ok else 'WRONG '} {check.name:<{width}}  {check.detail}"
    yield f"{report.path} is {'right' if report.ok else 'NOT right'}"
