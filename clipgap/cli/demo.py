"""`clipgap demo`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipgap.cli import words
from clipgap.cli.frame import command
from clipgap.cli.shell import Shell
from clipgap.errors import ClipgapError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from clipgap.demo import Outcome


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app, "demo")(demo)


def demo(
    shell: Shell,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where to put everything.")
    ] = Path("clipgap-demo"),
) -> int:
    """Make small data, scan it, prove the scan right, show the result.

    Takes under a minute and about 100 MB. An earlier demo in the folder is replaced.
    """
    from clipgap.demo import run_demo

    shell.note(f"Making embeddings in {out}, scanning them, and proving the scan right.")
    with shell.progress() as display:
        outcome = run_demo(out, display)
    data = {**asdict(outcome), "as_expected": outcome.as_expected}
    shell.result(data, _describe(outcome))
    return 0 if outcome.as_expected else ClipgapError.exit_code


def _describe(outcome: Outcome) -> Iterator[RenderableType]:
    yield ""
    yield _table(outcome)
    yield ""
    yield "τ: similarity of a test point to its nearest row of the reference set."
    yield "planted: near-duplicates of test points; all above τ must be found, that is, pruned."
    yield ""
    passed = outcome.passed
    yield (
        f"{words.plural(outcome.rows, 'row')} scanned in {words.duration(passed.seconds)}: "
        f"{words.count(passed.rows_per_second)} rows/s, {words.rate(passed.flops_per_second)}, "
        f"{passed.kernel}"
    )
    yield (
        f"{words.plural(outcome.pruned, 'row')} pruned ({outcome.pruned / outcome.rows:.2%}): "
        "nearer to a test point than the reference set is"
    )
    yield (
        f"{words.count(outcome.reference_rows)} of the rows are the reference set itself: "
        f"{words.count(outcome.reference_ties)} tie with a threshold"
    )
    yield f"that they set, exactly, and {words.count(outcome.reference_pruned)} are pruned"
    right = sum(check.ok for check in outcome.verification.checks)
    yield f"clipgap verify: {right} of {len(outcome.verification.checks)} checks right"
    yield ""
    yield "Look at"
    scan = outcome.folder / "scan"
    yield f"  {scan / 'train'}   one row a training row: nearest test point, margin, pruned"
    for found in outcome.sets:
        path = scan / "test" / f"{found.name}.parquet"
        yield f"  {path}   one row a test point: threshold and nearest training rows"
    yield f"  {scan / 'manifest.json'}   inputs, settings, counts, checksums"
    yield "Try"
    yield f"  clipgap store info {outcome.folder / 'train'}"
    yield f"  clipgap verify {scan} --full"


def _table(outcome: Outcome) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("test set")
    for title in ("points", "τ 5 %", "τ 50 %", "τ 95 %", "pruned", "planted", "above τ", "found"):
        table.add_column(title, justify="right")
    for found in outcome.sets:
        counts = (found.pruned, found.planted, found.nearer, found.found)
        table.add_row(
            found.name,
            words.count(found.points),
            *(f"{tau:.3f}" for tau in found.tau),
            *(words.count(count) for count in counts),
        )
    return table
