"""`clipgap verify`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from clipgap.cli.frame import command
from clipgap.cli.scan import Moved
from clipgap.cli.shell import Shell
from clipgap.errors import InputError, UsageError
from clipgap.kernels.options import Compute
from clipgap.options import argument, option
from clipgap.verify.options import ScanChecks

if TYPE_CHECKING:
    from clipgap.verify.checks import VerifyReport


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app, "verify")(verify)


def verify(
    shell: Shell,
    for_scans: ScanChecks,
    for_splits: Compute,
    moved: Moved,
    path: Path = argument("The folder of a finished scan or keep-list.", metavar="FOLDER"),
    certificate: Path | None = option(
        None,
        "Of a split: where the certificate goes.",
        metavar="FILE",
        shown="KEEP.certificate.json",
    ),
) -> int:
    """Prove a scan or a split right, or name the file and row that is wrong.

    Of a scan: checks every checksum, then derives a random sample of rows and all ties anew from
    the inputs with NumPy in float64, which shares no code with the kernels. Equality is exact.

    Of a split: scores all rows anew, with the kernel that is asked for, and proves that the rule
    holds for each, kept or removed; the certificate says what was proved of which data.
    """
    from clipgap.files.documents import MANIFEST, format_of
    from clipgap.keep.lists import KIND
    from clipgap.verify.api import verify as verify_scan
    from clipgap.verify.splits import verify_split

    is_split = format_of(path / MANIFEST) == KIND.form.name
    if is_split:
        _refuse_idle(for_scans, "split")
    else:
        _refuse_idle(for_splits, "scan")
        if certificate is not None:
            raise UsageError("--certificate does nothing for a scan")
    with shell.progress() as display:
        if is_split:
            certify = certificate or Path(f"{path}.certificate.json")
            report = verify_split(
                path,
                **moved.stores(),
                compute=for_splits,
                certify=certify,
                on_progress=display,
            )
        else:
            report = verify_scan(path, **moved.stores(), options=for_scans, on_progress=display)
    result = {**asdict(report), "ok": report.ok}
    if is_split:
        result["certificate"] = certify
    shell.result(result, describe(report))
    if is_split:
        shell.note(f"Certificate: {certify}")
    return 0 if report.ok else InputError.exit_code


def _refuse_idle(options: ScanChecks | Compute, kind: str) -> None:
    for field in fields(options):
        if getattr(options, field.name) != field.default:
            raise UsageError(f"--{field.name.replace('_', '-')} does nothing for a {kind}")


def describe(report: VerifyReport) -> Iterator[str]:
    """One line a check, and the verdict."""
    width = max(len(check.name) for check in report.checks)
    for check in report.checks:
        yield f"{'ok    ' if check.ok else 'WRONG '} {check.name:<{width}}  {check.detail}"
    yield f"{report.path} is {'right' if report.ok else 'NOT right'}"
