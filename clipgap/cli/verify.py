"""`clipgap verify`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipgap.cli.frame import command
from clipgap.cli.scan import MovedTests, MovedTrain, tests_by_name
from clipgap.cli.shell import Shell
from clipgap.errors import InputError, UsageError

if TYPE_CHECKING:
    from clipgap.verify.checks import VerifyReport


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app, "verify")(verify)


@dataclass(frozen=True)
class ForScans:
    """How much of a scan is derived anew."""

    sample: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            show_default="256",
            help="Of a scan: training rows and test points to derive anew.",
        ),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", show_default="0", help="Of a scan: which ones; any number."),
    ] = None
    full: Annotated[
        bool, typer.Option("--full", help="Of a scan: derive every row anew, as slow as float64.")
    ] = False


@dataclass(frozen=True)
class ForSplits:
    """What a split is scored with, and where the proof goes."""

    kernel: Annotated[
        str | None,
        typer.Option(
            metavar="auto|cpu|triton|torch|numpy",
            show_default="auto",
            help="Of a split: what scores all rows anew.",
        ),
    ] = None
    threads: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, show_default="all cores", help="Of a split: threads to score with."
        ),
    ] = None
    certificate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default="KEEP.certificate.json",
            help="Of a split: where the certificate goes.",
        ),
    ] = None


def verify(
    shell: Shell,
    path: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The folder of a finished scan or keep-list.")
    ],
    for_scans: ForScans,
    for_splits: ForSplits,
    train: MovedTrain = None,
    test: MovedTests = None,
) -> int:
    """Prove a scan or a split right, or name the file and row that is wrong.

    Of a scan: checks every checksum, then derives a random sample of rows and all ties anew from
    the inputs with NumPy in float64, which shares no code with the kernels. Equality is exact.

    Of a split: scores all rows anew and proves that the rule holds for each, kept or removed; the
    certificate says what was proved of which data.
    """
    from clipgap.files.documents import MANIFEST, format_of
    from clipgap.keep.lists import FORMAT as KEEP
    from clipgap.verify.api import verify as verify_scan
    from clipgap.verify.splits import verify_split

    moved: dict[str, Any] = {"train": train, "tests": tests_by_name(test or [])}
    is_split = format_of(path / MANIFEST) == KEEP
    _refuse_idle(for_scans if is_split else for_splits, "split" if is_split else "scan")
    with shell.progress() as display:
        if is_split:
            certify = for_splits.certificate or Path(f"{path}.certificate.json")
            report = verify_split(
                path,
                **moved,
                kernel=for_splits.kernel or "auto",
                threads=for_splits.threads,
                certify=certify,
                on_progress=display,
            )
        else:
            report = verify_scan(
                path,
                **moved,
                sample=256 if for_scans.sample is None else for_scans.sample,
                seed=for_scans.seed or 0,
                full=for_scans.full,
                on_progress=display,
            )
    result = {**asdict(report), "ok": report.ok}
    if is_split:
        result["certificate"] = certify
    shell.result(result, describe(report))
    if is_split:
        shell.note(f"Certificate: {certify}")
    return 0 if report.ok else InputError.exit_code


def _refuse_idle(options: ForScans | ForSplits, kind: str) -> None:
    for name, value in asdict(options).items():
        if value is not None and value is not False:
            raise UsageError(f"--{name} does nothing for a {kind}")


def describe(report: VerifyReport) -> Iterator[str]:
    """One line a check, and the verdict."""
    width = max(len(check.name) for check in report.checks)
    for check in report.checks:
        yield f"{'ok    ' if check.ok else 'WRONG '} {check.name:<{width}}  {check.detail}"
    yield f"{report.path} is {'right' if report.ok else 'NOT right'}"
