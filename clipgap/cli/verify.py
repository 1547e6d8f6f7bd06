"""`clipgap verify`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from clipgap.cli.frame import command
from clipgap.cli.scan import Moved
from clipgap.cli.shell import Shell
from clipgap.errors import InputError
from clipgap.kernels.options import Compute
from clipgap.options import argument, option
from clipgap.verify.options import ScanChecks

if TYPE_CHECKING:
    from clipgap.verify.checks import VerifyReport


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app, "verify", "scan")(verify)


def verify(
    shell: Shell,
    for_scans: ScanChecks,
    for_splits: Compute,
    moved: Moved,
    path: Path = argument("Any folder that clipgap has filled.", metavar="FOLDER"),
    certificate: Path | None = option(
        None,
        "Of a split: where the certificate goes.",
        metavar="FILE",
        shown="KEEP.certificate.json",
    ),
) -> int:
    """Prove that a folder holds what it says, or name the file and row that is wrong.

    Of every kind: checks all checksums, that no file is missing or too many, and all counts.

    Of a scan: derives a random sample of rows and all ties anew from the inputs with NumPy in
    float64, which shares no code with the kernels. Equality is exact.

    Of a split: scores all rows anew, with the kernel that is asked for, and proves that the rule
    holds for each, kept or removed. If all is right, the certificate says what was proved of which
    data.

    Of filtered shards, stores, evaluations, analyses, trainings, reports and studies: holds
    tables, counts and members against each other.
    """
    from clipgap.keep.certificates import certificate_file
    from clipgap.verify.api import is_split
    from clipgap.verify.api import verify as run

    if certificate is None and is_split(path):
        certificate = certificate_file(path)
    with shell.progress() as display:
        report = run(
            path,
            **moved.stores(),
            certify=certificate,
            on_progress=display,
            options=for_scans,
            compute=for_splits,
        )
    result = {**asdict(report), "ok": report.ok}
    if report.certificate is None:
        del result["certificate"]
    shell.result(result, describe(report))
    if report.certificate is not None:
        shell.note(f"Certificate: {report.certificate}")
    return 0 if report.ok else InputError.exit_code


def describe(report: VerifyReport) -> Iterator[str]:
    """One line a check, and the verdict."""
    width = max(len(check.name) for check in report.checks)
    for check in report.checks:
        yield f"{'ok    ' if check.ok else 'WRONG '} {check.name:<{width}}  {check.detail}"
    yield f"{report.path} is {'right' if report.ok else 'NOT right'}"
