"""`clipgap scan` and `clipgap gap`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clipgap.cli import words
from clipgap.cli.frame import Dealt, command, output, required
from clipgap.cli.progress import speed
from clipgap.cli.shell import Shell
from clipgap.errors import QUARANTINED
from clipgap.files.naming import read_pairs
from clipgap.heads.options import ByHeads
from clipgap.kernels.options import Compute
from clipgap.options import REQUIRED, Options, argument, option
from clipgap.scan.options import Caching, ScanOptions
from clipgap.store.options import Gaps, Mixing

if TYPE_CHECKING:
    from clipgap.runs.how import Progress
    from clipgap.scan.result import ScanResult

_STOPPING = "Stopping after the block at hand; finished shards are kept."


@dataclass(frozen=True)
class Moved(Options):
    """Where the inputs of a scan lie now, for commands that read them again."""

    train: str | None = option(
        None, "Where the training store lies now, if it has moved.", metavar="STORE"
    )
    test: tuple[str, ...] = option(
        (), "Where a test set lies now, if it has moved. Repeatable.", metavar="NAME=STORE"
    )

    def stores(self) -> dict[str, Any]:
        """As the Python API takes them."""
        return {"train": self.train, "tests": tests_by_name(self.test)}


def register(app: typer.Typer) -> None:
    """Add both commands to `app`."""
    command(app, "scan", "laion400m --test val=val.npy --gap gap -o scan")(scan)
    command(app, "gap", "imagenet-train --test val=val.npy -o gap")(gap)


_TEST = "A test set: its name in the tables, and where its embeddings are. Repeatable."


def scan(
    shell: Shell,
    options: ScanOptions,
    by: ByHeads,
    mixing: Mixing,
    gaps: Gaps,
    compute: Compute,
    caching: Caching,
    running: Dealt,
    train: str = argument("The training store.", metavar="TRAIN"),
    test: tuple[str, ...] = option(REQUIRED, _TEST, metavar="NAME=STORE"),
    gap: str | None = option(
        None, "A scan of the reference set (from `clipgap gap`): adds pruning.", metavar="SCAN"
    ),
    out: Path | None = output("SCAN"),
) -> int:
    """Compare every training row with every test point, exactly.

    One pass over TRAIN gives each row its most similar test point and each test point its most
    similar rows; with --gap also which rows are pruned, with --heads the domain of each row.
    """
    from clipgap.scan.api import scan as run

    return _run(
        shell,
        "scan",
        run,
        train,
        test,
        {"gap": gap, "by": by},
        options,
        mixing,
        gaps,
        compute,
        caching,
        running,
        out,
    )


def gap(
    shell: Shell,
    options: ScanOptions,
    mixing: Mixing,
    gaps: Gaps,
    compute: Compute,
    caching: Caching,
    running: Dealt,
    ref: str = argument("The reference store.", metavar="REF"),
    test: tuple[str, ...] = option(REQUIRED, _TEST, metavar="NAME=STORE"),
    out: Path | None = output("SCAN"),
) -> int:
    """Scan a reference set, for use as `scan --gap`.

    The similarity of each test point to its nearest row of REF becomes its threshold τ.
    """
    from clipgap.scan.api import gap as run

    return _run(
        shell, "gap", run, ref, test, {}, options, mixing, gaps, compute, caching, running, out
    )


def _run(
    shell: Shell,
    kind: str,
    run: Callable[..., ScanResult],
    train: str,
    test: Sequence[str],
    more: Mapping[str, Any],
    options: ScanOptions,
    mixing: Mixing,
    gaps: Gaps,
    compute: Compute,
    caching: Caching,
    running: Dealt,
    out: Path | None,
) -> int:
    tests = tests_by_name(test)
    if running.dry_run:
        from clipgap.scan.api import plan_scan
        from clipgap.scan.estimate import estimate

        plan = plan_scan(train, tests, kind=kind, options=options, mixing=mixing, gaps=gaps, **more)
        described = {**plan.describe(), "expected": asdict(estimate(plan, compute))}
        shell.result(described, _describe_plan(described))
        return 0
    out = required(out)
    with shell.watch(out, _STOPPING) as watch:
        result = run(
            train,
            tests,
            options=options,
            mixing=mixing,
            gaps=gaps,
            compute=compute,
            caching=caching,
            out=out,
            how=running.how(watch),
            **more,
        )
    shell.result(_outcome(result, watch.last), _describe_outcome(result, watch.last))
    return QUARANTINED if result.quarantined else 0


def tests_by_name(pairs: Sequence[str]) -> dict[str, str]:
    """The values of --test as the Python API takes them."""
    return read_pairs(pairs, "--test", "STORE", "each test set needs its own name")


def _describe_plan(plan: dict[str, Any]) -> Iterator[str]:
    yield f"Would {plan['kind']}, reading each training row once:"
    yield f"  train  {_describe_store(plan['train'])}"
    for name, store in plan["tests"].items():
        pruning = " with a gap" if store["gap"] else ""
        yield f"  test   {name}{pruning}: {_describe_store(store)}"
    if "heads" in plan:
        yield f"  heads  {plan['heads']}: the domain of each training row"
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
        if last is None or not last.new
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
        yield words.complete(result.label)
    elif result.repaired:
        yield f"Computed again: {', '.join(result.repaired)}."
    yield from _describe_pruned(result)
    if "domain" in counts:
        yield from words.domains(counts)
    if result.manifest["kind"] == "gap":
        yield from _describe_thresholds(result)
    if last is not None and last.new:
        yield (
            f"Scanned {words.plural(round(last.new), 'row')} in {words.duration(last.seconds)}: "
            + ", ".join(speed(last))
        )
    if counts["normalised"]:
        yield f"  normalised on the way in: {words.plural(counts['normalised'], 'row')}"
    if result.quarantined:
        yield (
            f"  quarantined: {words.plural(result.quarantined, 'row')}, listed in "
            f"{result.label}/quarantine.parquet"
        )
    yield f"Tables: {result.label}"
    yield words.to_prove(result.label)


def _describe_pruned(result: ScanResult) -> Iterator[str]:
    for columns in result.set_columns:
        if columns.has_gap:
            pruned = result.manifest["counts"]["pruned"][columns.name]
            share = f" ({pruned / result.rows:.2%})" if result.rows else ""
            yield f"  pruned by {columns.name}: {words.plural(pruned, 'row')}{share}"


def _describe_thresholds(result: ScanResult) -> Iterator[str]:
    """Where the thresholds of a gap lie."""
    import numpy as np

    for name in result.test_names:
        tau = result.tau(name)
        if len(known := tau[np.isfinite(tau)]):
            low, middle, high = np.quantile(known, (0.25, 0.5, 0.75))
            yield f"  τ of {name}: quartiles {low:.3f}, {middle:.3f}, {high:.3f}"
