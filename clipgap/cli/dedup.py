"""`clipgap dedup`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clipgap.cli import words
from clipgap.cli.frame import Dealt, command, output, required
from clipgap.cli.shell import Shell
from clipgap.dedup.options import DedupOptions
from clipgap.errors import QUARANTINED
from clipgap.kernels.options import Compute
from clipgap.options import REQUIRED, argument, option
from clipgap.sheets import Sheet
from clipgap.store.options import Gaps

if TYPE_CHECKING:
    from rich.console import RenderableType

    from clipgap.dedup.api import Dedup, Deduplicated

_STOPPING = "Stopping after the block at hand; finished steps are kept."


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app, "dedup", "laion400m --epsilon 0.05 --clusters 50000 -o dedup")(dedup)


def dedup(
    shell: Shell,
    options: DedupOptions,
    gaps: Gaps,
    compute: Compute,
    running: Dealt,
    store: str = argument("The store to deduplicate.", metavar="STORE"),
    epsilon: tuple[float, ...] = option(
        REQUIRED,
        "Rows are duplicates when their similarity exceeds 1 - ε. Repeatable.",
        metavar="ε",
    ),
    memory: float | None = option(
        None,
        "Memory for rows; what is larger is read several times.",
        metavar="GIB",
        min=0,
        max=1 << 30,
        shown="a quarter of the machine's",
    ),
    semdedup: Path | None = option(
        None, "Also write clusters and lists as SemDeDup does.", metavar="FOLDER"
    ),
    out: str | None = output(
        "KEEP",
        "The folder to make; with several ε its name holds {epsilon}. Needed unless --dry-run.",
    ),
) -> int:
    """Drop near duplicates: rows too similar to another row of their cluster.

    Clusters come from spherical k-means; within them every pair is decided exactly. Makes a
    keep-list for each ε.
    """
    from clipgap.dedup.api import common_name
    from clipgap.dedup.api import dedup as run
    from clipgap.dedup.notes import work_folder

    if running.dry_run:
        shell.result(*_plan(store, epsilon, options, gaps, compute))
        return 0
    out = required(out)
    with shell.watch(common_name(out), _STOPPING, work_folder(common_name(out))) as watch:
        found = run(
            store,
            epsilon,
            options=options,
            gaps=gaps,
            compute=compute,
            out=out,
            semdedup=semdedup,
            memory=None if memory is None else int(memory * 2**30),
            how=running.how(watch),
        )
    shell.result(_outcome(found), describe(found))
    return QUARANTINED if found.lists[0].sizes["quarantined"] else 0


def _plan(
    store: str, epsilon: Sequence[float], options: DedupOptions, gaps: Gaps, compute: Compute
) -> tuple[dict[str, Any], Iterator[str]]:
    from clipgap.dedup.api import plan_dedup
    from clipgap.scan.estimate import estimate_scores

    plan = plan_dedup(store, epsilon, options=options, gaps=gaps)
    columns = plan.clusters or plan.store.rows
    expected = estimate_scores(plan.operations, plan.store.dim, columns, 1, compute)
    described = {**plan.describe(), "expected": asdict(expected)}
    return described, _describe_plan(described)


def _describe_plan(plan: dict[str, Any]) -> Iterator[str]:
    store, clustering = plan["store"], plan["settings"]["clustering"]
    yield "Would deduplicate:"
    yield (
        f"  store     {store['path']} ({store['format']}): {words.plural(store['rows'], 'row')} of "
        f"{store['dim']:,} in {words.plural(store['shards'], 'shard')}, "
        f"{words.size(store['bytes'])}"
    )
    if clustering is None:
        yield "  clusters  none: all rows are compared with all"
    elif "clusters" not in clustering:
        yield f"  clusters  those of {' and '.join(file['path'] for file in clustering.values())}"
    else:
        yield (
            f"  clusters  {words.count(clustering['clusters'])}, in at most "
            f"{words.plural(clustering['iterations'], 'iteration')}"
        )
    yield f"  work      about {words.operations(plan['operations'])}, if clusters come out even"
    expected = plan["expected"]
    yield (
        f"  time      about {words.duration(expected['seconds'])} with {expected['kernel']}, which "
        f"just ran at {words.rate(expected['flops_per_second'])} here"
    )


def _outcome(found: Dedup) -> dict[str, Any]:
    return {
        "clustering": found.clustering,
        "lists": [
            {
                "epsilon": one.epsilon,
                "out": None if one.keep is None else one.keep.path,
                "rule": one.rule,
                "sizes": one.sizes,
                "audit": one.audit,
                **({} if one.flips is None else {"flips": one.flips}),
            }
            for one in found.lists
        ],
        "already_complete": found.already_complete,
    }


def describe(found: Dedup) -> Iterator[RenderableType]:
    """How many rows stay at each ε, how the clustering went, and what it missed."""
    if found.already_complete:
        yield words.complete("Everything")
    if found.clustering is not None:
        yield _describe_clustering(found)
    table = Sheet(("ε", "rows", "removed", "kept", "share"), words=0)
    for one in found.lists:
        sizes = one.sizes
        share = f"{sizes['kept'] / sizes['rows']:.2%}" if sizes["rows"] else ""
        numbers = [words.count(sizes[name]) for name in ("rows", "removed", "kept")]
        table.add(f"{one.epsilon:g}", *numbers, share)
    yield table
    if quarantined := found.lists[0].sizes["quarantined"]:
        yield f"  set aside, never kept: {words.plural(quarantined, 'row')} (zero, NaN or infinite)"
    for one in found.lists:
        yield from _describe_audit(one)
    yield from _describe_flips(found.lists)
    for one in found.lists:
        if one.keep is not None:
            yield f"Keep-list: {shlex.quote(str(one.keep.path))}"


def _describe_clustering(found: Dedup) -> str:
    facts = found.clustering
    assert facts is not None
    rest = "came to rest" if facts["converged"] else "stopped"
    means = f"; k-means {rest} after {words.plural(facts['iterations'], 'iteration')}"
    if "clusters" not in found.lists[0].rule["clustering"]:
        means = ", as the files say"
    return (
        f"Clusters: {words.count(facts['clusters'])}, {words.count(facts['empty'])} of them empty, "
        f"the largest of {words.plural(facts['largest'], 'row')}{means}"
    )


def _describe_audit(one: Deduplicated) -> Iterator[str]:
    audit = one.audit
    if audit is None:
        return
    rows, pairs = audit["rows_share"], audit["pairs_share"]
    yield (
        f"Audit at ε = {one.epsilon:g}, {words.plural(audit['sampled'], 'row')} compared with all, "
        f"{audit['confidence']:.0%} intervals:"
    )
    yield f"  rows with a duplicate in another cluster: {_share(rows)}"
    if pairs is None:
        yield "  none of them has a duplicate anywhere"
    else:
        missed = words.plural(round(audit["missed_pairs"]), "pair")
        yield f"  duplicate pairs that clustering missed: {_share(pairs)}, about {missed}"


def _describe_flips(lists: Sequence[Deduplicated]) -> Iterator[RenderableType]:
    """What rounded scores would have decided otherwise."""
    columns = ("ε", "scores in", "removed", "changed", "only exactly", "only so")
    table = Sheet(columns, words=2, title="Decisions that rounded scores would change")
    for one in lists:
        for name, flips in (one.flips or {}).items():
            alone = flips["only_exact"], flips["only_rounded"]
            numbers = map(words.count, (flips["removed"], sum(alone), *alone))
            table.add(f"{one.epsilon:g}", name, *numbers)
    if table.rows:
        yield table


def _share(share: dict[str, float]) -> str:
    return f"{share['share']:.2%} ({share['low']:.2%} to {share['high']:.2%})"
