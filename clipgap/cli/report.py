"""`clipgap report`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clipgap.cli import words
from clipgap.cli.frame import Running, command, output, required
from clipgap.cli.shell import Shell
from clipgap.files.naming import read_named, read_pairs
from clipgap.options import option
from clipgap.report.options import ReportOptions
from clipgap.store.options import Mixing

if TYPE_CHECKING:
    from clipgap.report.api import ReportResult
    from clipgap.report.sources import Sources


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app, "report", "--scan scan --reference gap --split pruned -o report")(report)


def report(
    shell: Shell,
    options: ReportOptions,
    mixing: Mixing,
    running: Running,
    scan: tuple[str, ...] = option(
        (),
        "A scan of a training set; the first is the large set that galleries and curves are about. "
        "Repeatable. Without NAME it is called like its folder.",
        metavar="[NAME=]SCAN",
    ),
    reference: str | None = option(
        None,
        "The scan of the reference set, from `clipgap gap`. Without it thresholds come from the "
        "scan.",
        metavar="[NAME=]SCAN",
    ),
    split: tuple[str, ...] = option(
        (), "A keep-list of a scanned store, or a mix. Repeatable.", metavar="[NAME=]KEEP"
    ),
    eval: tuple[str, ...] = option(
        (),
        "A folder of `clipgap eval`. A checkpoint or pool that is called like a split, or like a "
        "scan, was trained on it. Repeatable.",
        metavar="EVAL",
    ),
    images: tuple[str, ...] = option(
        (),
        "Shards, tables or a folder with the images of a test set, scan or reference. Repeatable.",
        metavar="NAME=IMAGES",
    ),
    paper: Path | None = option(
        None, "A paper's figures, JSON or TOML, to stand beside ours.", metavar="FILE"
    ),
    embedding: tuple[str, ...] = option(
        (),
        "The first scan made again with another embedding: adds rank correlations. Repeatable.",
        metavar="[NAME=]SCAN",
    ),
    analysis: tuple[str, ...] = option(
        (), "A folder of `clipgap analyze`. Repeatable.", metavar="ANALYSIS"
    ),
    domains: tuple[str, ...] = option(
        (),
        "A folder of `clipgap domains label`: adds compositions. Repeatable.",
        metavar="[NAME=]DOMAINS",
    ),
    heads: tuple[str, ...] = option(
        (),
        "A folder of `clipgap domains fit`: adds precision and recall. Repeatable.",
        metavar="[NAME=]HEADS",
    ),
    out: Path | None = output("REPORT"),
) -> int:
    """Show scans, splits and evaluations on a page: figures, tables and galleries.

    The folder opens from disk, without a server, and loads nothing from anywhere else. What has no
    input is left out. report.json in it holds every number of the page.
    """
    from clipgap.report.api import plan_report
    from clipgap.report.api import report as run

    inputs: dict[str, Any] = {
        "scans": read_named(scan, "--scan"),
        "reference": None if reference is None else read_named([reference], "--reference"),
        "splits": read_named(split, "--split"),
        "evals": eval,
        "images": read_pairs(images, "--images", "SHARDS", "join shards with '::'"),
        "paper": paper,
        "embeddings": read_named(embedding, "--embedding"),
        "analyses": analysis,
        "domains": read_named(domains, "--domains"),
        "heads": read_named(heads, "--heads"),
        "mixing": mixing,
    }
    if running.dry_run:
        sources = plan_report(**inputs)
        described = _plan(sources)
        shell.result(described, _describe_plan(described))
        return 0
    out = required(out)
    with shell.watch(out, "Stopping; a report is made again from its beginning.") as watch:
        result = run(**inputs, out=out, options=options, how=running.how(watch))
    shell.result(_outcome(result), _describe_outcome(result))
    return 0


def _plan(sources: Sources) -> dict[str, Any]:
    checkpoints = dict.fromkeys(
        name
        for one in sources.evaluations
        for name in (*(name for name, _ in one.pairs), *one.manifest.get("pools", {}))
    )
    known = {*sources.splits, *(one.name for one in sources.scans)}
    return {
        "scans": {one.name: one.scan.rows for one in sources.scans},
        "reference": None if sources.reference is None else sources.reference.name,
        "tests": {
            test: sources.large(test).scan.test_input(test)["rows"]  # type: ignore[union-attr]
            for test in sources.tests
            if sources.large(test) is not None
        },
        "splits": {name: keep.kept for name, keep in sources.splits.items()},
        "checkpoints": {name: name if name in known else None for name in checkpoints},
        "images": {name: one.path for name, one in sources.images.items()},
        "embeddings": [one.name for one in sources.embeddings],
        "analyses": [
            {"path": one.path, "checkpoints": [c["name"] for c in one.manifest["checkpoints"]]}
            for one in sources.analyses
        ],
        "domains": {name: one.counts["rows"] for name, one in sources.labelled.items()},
        "heads": {name: one.model for name, one in sources.heads.items()},
        "paper": None if sources.paper is None else sources.paper.title,
    }


def _describe_plan(plan: dict[str, Any]) -> Iterator[str]:
    yield "Would report on:"
    for name, rows in plan["scans"].items():
        yield f"  scan        {name}: {words.plural(rows, 'row')}"
    if plan["reference"] is not None:
        yield f"  reference   {plan['reference']}"
    for name, points in plan["tests"].items():
        yield f"  test set    {name}: {words.plural(points, 'point')}"
    for name, kept in plan["splits"].items():
        yield f"  split       {name}: {words.plural(kept, 'row')} kept"
    for name, trained_on in plan["checkpoints"].items():
        note = "" if trained_on else "; called like no split or scan, so its rows are unknown"
        yield f"  checkpoint  {name}{note}"
    for name, shards in plan["images"].items():
        yield f"  images      {name}: {shards}"
    for name in plan["embeddings"]:
        yield f"  embedding   {name}"
    for one in plan["analyses"]:
        yield f"  analysis    {one['path']}: {', '.join(one['checkpoints'])}"
    for name, rows in plan["domains"].items():
        yield f"  domains     {name}: {words.plural(rows, 'row')}"
    for name, model in plan["heads"].items():
        yield f"  heads       {name}, for {model}"
    if plan["paper"] is not None:
        yield f"  paper       {plan['paper']}"


def _outcome(result: ReportResult) -> dict[str, Any]:
    files = result.manifest["files"].values()
    return {
        "out": result.path,
        "page": result.page,
        "files": len(files),
        "bytes": sum(entry["size"] for entry in files),
        "gallery": result.manifest["gallery"],
        "already_complete": result.already_complete,
    }


def _describe_outcome(result: ReportResult) -> Iterator[str]:
    found = _outcome(result)
    if result.already_complete:
        yield words.complete(result.path)
    yield f"{words.plural(found['files'], 'file')}, {words.size(found['bytes'])}"
    pictures = found["gallery"].get("pictures", {"wanted": 0, "problems": []})
    if pictures["wanted"]:
        yield (
            f"  pictures: {words.count(pictures['found'])} of {words.count(pictures['wanted'])}; "
            "the others show their keys"
        )
    if problems := pictures["problems"]:
        yield from (f"  problem: {problem}" for problem in problems[:5])
        if len(problems) > 5:
            yield f"  … and {len(problems) - 5:,} more, listed in {result.path}/manifest.json"
    yield f"Open {result.page}"
