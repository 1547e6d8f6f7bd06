"""`clipgap scan` and `clipgap gap`."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipgap.cli import words
from clipgap.cli.frame import Running, command
from clipgap.cli.progress import speed
from clipgap.cli.shell import Shell
from clipgap.errors import QUARANTINED, UsageError

if TYPE_CHECKING:
    from clipgap.runs.how import Progress
    from clipgap.scan.result import ScanResult

Tests = Annotated[
    list[str],
    typer.Option(
        "--test",
        metavar="NAME=STORE",
        help="A test set: its name in the tables, and where its embeddings are. Repeatable.",
    ),
]
MovedTrain = Annotated[
    str | None,
    typer.Option(
        "--train", metavar="STORE", help="Where the training store lies now, if it has moved."
    ),
]
MovedTests = Annotated[
    list[str] | None,
    typer.Option(
        "--test",
        metavar="NAME=STORE",
        help="Where a test set lies now, if it has moved. Repeatable.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="SCAN", help="The folder to make. Needed unless --dry-run."
    ),
]

_STOPPING = "Stopping after the block at hand; finished shards are kept."


@dataclass(frozen=True)
class ScanSettings:
    """What `scan` and `gap` have in common; named as in the Python API."""

    k: Annotated[
        int,
        typer.Option("-k", "--k", metavar="N", help="Neighbours kept per test point, 1 to 64."),
    ] = 32
    bad_rows: Annotated[
        str,
        typer.Option(
            metavar="error|quarantine",
            help="Rows with NaN or infinity: stop there, or set them aside and list them.",
        ),
    ] = "error"
    train_table: Annotated[
        bool,
        typer.Option("--train-table/--no-train-table", help="Write the table of training rows."),
    ] = True
    above: Annotated[
        list[float],
        typer.Option(metavar="SIM", help="Count training rows more similar than this. Repeatable."),
    ] = (0.8, 0.85, 0.9, 0.95, 0.98, 0.99)  # type: ignore[assignment]  # a tuple can't be changed
    kernel: Annotated[
        str,
        typer.Option(
            metavar="auto|triton|cuda|triton-float16|cpu|torch|numpy",
            help="What computes the scores. Any kernel gives the same tables.",
        ),
    ] = "auto"
    device: Annotated[
        str,
        typer.Option(
            metavar="auto|cuda|cpu",
            help="Where: all GPUs that the process may see, the CPU, or GPUs if there are any.",
        ),
    ] = "auto"
    threads: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Threads to compute with.", show_default="all cores"),
    ] = None
    block_rows: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Rows at a time.", show_default="chosen for speed"),
    ] = None

    def of_result(self) -> dict[str, Any]:
        """Those that can change a table; the others only change the time it takes."""
        free = ("kernel", "device", "threads", "block_rows")
        return {name: value for name, value in asdict(self).items() if name not in free}


def register(app: typer.Typer) -> None:
    """Add both commands to `app`."""
    command(app, "scan")(scan)
    command(app, "gap")(gap)


def scan(
    shell: Shell,
    train: Annotated[str, typer.Argument(metavar="TRAIN", help="The training store.")],
    test: Tests,
    settings: ScanSettings,
    running: Running,
    gap: Annotated[
        str | None,
        typer.Option(
            metavar="SCAN", help="A scan of the reference set (from `clipgap gap`): adds pruning."
        ),
    ] = None,
    out: Out = None,
) -> int:
    """Compare every training row with every test point, exactly.

    One pass over TRAIN gives each row its most similar test point and each test point its most
    similar rows; with --gap also which rows are pruned.
    """
    from clipgap.scan.api import scan as run

    return _run(shell, "scan", partial(run, gap=gap), train, test, gap, settings, running, out)


def gap(
    shell: Shell,
    ref: Annotated[str, typer.Argument(metavar="REF", help="The reference store.")],
    test: Tests,
    settings: ScanSettings,
    running: Running,
    out: Out = None,
) -> int:
    """Scan a reference set, for use as `scan --gap`.

    The similarity of each test point to its nearest row of REF becomes its threshold τ.
    """
    from clipgap.scan.api import gap as run

    return _run(shell, "gap", run, ref, test, None, settings, running, out)


def _run(
    shell: Shell,
    kind: str,
    run: Callable[..., ScanResult],
    train: str,
    test: list[str],
    gap: str | None,
    settings: ScanSettings,
    running: Running,
    out: Path | None,
) -> int:
    tests = tests_by_name(test)
    if running.dry_run:
        from clipgap.scan.api import plan_scan
        from clipgap.scan.estimate import estimate

        plan = plan_scan(train, tests, kind=kind, gap=gap, **settings.of_result())
        expected = estimate(
            plan, kernel=settings.kernel, device=settings.device, threads=settings.threads
        )
        described = {**plan.describe(), "expected": asdict(expected)}
        shell.result(described, _describe_plan(described))
        return 0
    if out is None:
        raise UsageError("--out is missing: name the folder that the scan shall become")
    shell.check_settings_file(out)
    with shell.watch(out, _STOPPING) as watch:
        result = run(
            train,
            tests,
            **asdict(settings),
            out=out,
            resume=running.resume,
            overwrite=running.overwrite,
            on_progress=watch,
            stop=watch.stop,
        )
    shell.result(_outcome(result, watch.last), _describe_outcome(result, watch.last))
    return QUARANTINED if result.quarantined else 0


def tests_by_name(pairs: Sequence[str]) -> dict[str, str]:
    """The values of --test as the Python API takes them."""
    tests: dict[str, str] = {}
    for pair in pairs:
        name, equals, store = pair.partition("=")
        if not equals or not name or not store:
            raise UsageError(f"--test {pair}: write it as NAME=STORE, such as --test val=val.npy")
        if name in tests:
            raise UsageError(f"--test {name}=… is given twice; each test set needs its own name")
        tests[name] = store
    return tests


def _describe_plan(plan: dict[str, Any]) -> Iterator[str]:
    yield f"Would {plan['kind']}, reading each training row once:"
    yield f"  train  {_describe_store(plan['train'])}"
    for name, store in plan["tests"].items():
        pruning = " with a gap" if store["gap"] else ""
        yield f"  test   {name}{pruning}: {_describe_store(store)}"
    yield f"  work   {words.operations(plan['operations'])} (2·N·M·d)"
    expected = plan["expected"]
    yield (
        f"  time   {words.duration(expected['seconds'])} with {expected['kernel']}, which just ran "
        f"at {words.rate(expected['flops_per_second'])} here"
    )
    yield from (f"  note   {note}" for note in plan["notes"])


def _describe_store(store: dict[str, Any]) -> str:
    return (
        f"{store['path']} ({store['format']}): {words.plural(store['rows'], 'row')} of "
        f"{store['dim']:,} in {words.plural(store['shards'], 'shard')}, "
        f"{words.size(store['bytes'])}"
    )


def _outcome(result: ScanResult, last: Progress | None) -> dict[str, Any]:
    """What a script wants to know; tables and manifest have the rest."""
    return {
        "out": result.path,
        "kind": result.manifest["kind"],
        "counts": result.manifest["counts"],
        "quarantined": result.quarantined,
        "already_complete": result.already_complete,
        "repaired": result.repaired,
        "run": None
        if last is None
        else {
            "rows": round(last.new),
            "seconds": last.seconds,
            "rows_per_second": last.rate,
            "flops_per_second": last.figures.get("FLOP/s", 0.0),
            "survivors_per_row": last.figures.get("survivors/row", 0.0),
            "refined_per_row": last.figures.get("refined/row", 0.0),
            "kernel": last.means,
        },
    }


def _describe_outcome(result: ScanResult, last: Progress | None) -> Iterator[str]:
    counts = result.manifest["counts"]
    if result.already_complete:
        yield f"{result.label} is already complete; every checksum holds."
    elif result.repaired:
        yield f"Computed again: {', '.join(result.repaired)}."
    if last is not None:
        yield (
            f"Scanned {words.plural(round(last.new), 'row')} in {words.duration(last.seconds)}: "
            + ", ".join(speed(last))
        )
    for columns in result.set_columns:
        if columns.has_gap:
            pruned = counts["pruned"][columns.name]
            share = f" ({pruned / result.rows:.2%})" if result.rows else ""
            yield f"  pruned by {columns.name}: {words.plural(pruned, 'row')}{share}"
    if counts["normalised"]:
        yield f"  normalised on the way in: {words.plural(counts['normalised'], 'row')}"
    if result.quarantined:
        yield (
            f"  quarantined: {words.plural(result.quarantined, 'row')}, listed in "
            f"{result.label}/quarantine.parquet"
        )
    yield f"Tables: {result.label}"
    yield f"Prove them right: clipgap verify {shlex.quote(result.label)}"
