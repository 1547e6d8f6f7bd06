"""`clipgap filter`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clipgap.cli import words
from clipgap.cli.frame import Dealt, Tolerance, command, output, required
from clipgap.cli.shell import Shell
from clipgap.errors import QUARANTINED
from clipgap.options import REQUIRED, argument, option
from clipgap.shards.options import FilterOptions

if TYPE_CHECKING:
    from clipgap.shards.api import FilterResult
    from clipgap.shards.plan import FilterPlan

_STOPPING = "Stopping after the shards at hand; they and all finished ones are kept."


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(
        app,
        "filter",
        "'laion/{00000..00127}.tar' --keep pruned -o laion-pruned",
    )(filter_shards)


def filter_shards(
    shell: Shell,
    options: FilterOptions,
    tolerance: Tolerance,
    running: Dealt,
    shards: str = argument(
        "webdataset .tar files: a folder, glob, {00000..01023} pattern, a::b join or URL.",
        metavar="SHARDS",
    ),
    keep: Path = option(REQUIRED, "The keep-list, from `clipgap split`.", metavar="KEEP"),
    out: Path | None = output("SHARDS"),
) -> int:
    """Copy the samples that a keep-list keeps, byte for byte.

    Members, their order, headers and keys stay as they are. Beside each .tar file come its
    _stats.json and, where the input has one, its .parquet; sizes.json is what open_clip reads.
    Damaged shards and hostile members are set aside and listed in quarantine.parquet.
    """
    from clipgap.shards.api import run_filter
    from clipgap.shards.plan import plan_filter

    plan = plan_filter(shards, keep, options=options)
    if running.dry_run:
        described = _described(plan)
        shell.result(described, _describe_plan(described))
        return 0
    out = required(out)
    with shell.watch(out, _STOPPING) as watch:
        result = run_filter(plan, out, how=running.how(watch))
    shell.result(_outcome(result), _describe_outcome(result))
    return QUARANTINED if result.problems > tolerance.allow_bad else 0


def _described(plan: FilterPlan) -> dict[str, Any]:
    findings = plan.findings()
    units = plan.units(plan.expected() or findings.kept)
    share = plan.selector.kept / plan.rows if plan.rows else None
    return {
        "shards": len(plan.shards),
        "bytes": plan.bytes,
        "keep": str(plan.selector.keep.path),
        "matched_by": plan.selector.by,
        "match": plan.selector.match,
        "rows": plan.rows,
        "kept": plan.selector.kept,
        "missing": findings.missing,
        "bytes_kept": None if share is None else round(share * plan.bytes),
        "shards_out": len(units),
    }


def _describe_plan(plan: dict[str, Any]) -> Iterator[str]:
    yield (
        f"Would read {words.plural(plan['shards'], 'shard')}, {words.size(plan['bytes'])}, and "
        f"keep what {plan['keep']} keeps:"
    )
    if plan["matched_by"] == "shard":
        yield f"  samples  {words.count(plan['kept'])} of {words.count(plan['rows'])}"
        yield f"  bytes    about {words.size(plan['bytes_kept'] or 0)}"
    else:
        found = plan["kept"] - plan["missing"]
        yield f"  samples  {words.count(found)} of {words.count(plan['kept'])} that it keeps"
        if plan["match"] == "key":
            why = "no shard is called like one of the store: keys alone tell samples apart"
        else:
            why = f"samples are matched by {plan['match']!r}"
        yield f"  note     {why}"
    yield f"  into     {words.plural(plan['shards_out'], 'shard')}"


def _outcome(result: FilterResult) -> dict[str, Any]:
    return {
        "out": result.path,
        "counts": result.manifest["counts"],
        "already_complete": result.already_complete,
        "repaired": result.repaired,
    }


def _describe_outcome(result: FilterResult) -> Iterator[str]:
    counts = result.manifest["counts"]
    if result.already_complete:
        yield words.complete(result.path)
    elif result.repaired:
        yield f"Made again: {', '.join(result.repaired)}."
    share = f" ({result.kept / counts['samples']:.2%})" if counts["samples"] else ""
    yield (
        f"Kept {words.count(result.kept)} of {words.plural(counts['samples'], 'sample')}{share} in "
        f"{words.plural(counts['shards'], 'shard')}"
    )
    if counts["missing"]:
        yield f"  not found: {words.plural(counts['missing'], 'sample')} of the keep-list"
    if result.problems:
        yield (
            f"  quarantined: {words.plural(result.problems, 'unit')}, listed in "
            f"{result.path}/quarantine.parquet"
        )
    yield f"Shards: {result.path}"
