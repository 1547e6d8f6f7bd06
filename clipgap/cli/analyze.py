"""`clipgap analyze`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clipgap.cli import words
from clipgap.cli.frame import Dealt, Tolerance, command, output, required
from clipgap.cli.shell import Shell
from clipgap.clip.analyze.options import AnalyzeOptions, Reading
from clipgap.errors import QUARANTINED
from clipgap.options import REQUIRED, argument, option
from clipgap.sheets import Sheet

if TYPE_CHECKING:
    from rich.console import RenderableType

    from clipgap.clip.analyze.api import Analysis
    from clipgap.clip.analyze.plan import AnalysisPlan

_STOPPING = "Stopping after the block at hand; finished domains are kept."


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(
        app,
        "analyze",
        "mix=mix.pt --model RN50 --data photo=/data/photo --data sketch=/data/sketch "
        "--classnames names.txt --templates prompts.txt -o analysis",
    )(analyze)


def analyze(
    shell: Shell,
    reading: Reading,
    options: AnalyzeOptions,
    tolerance: Tolerance,
    running: Dealt,
    checkpoints: tuple[str, ...] = argument(
        "Checkpoint files, NAME=FILE, or pretrained tags of the model; NAME= is random weights.",
        metavar="CHECKPOINT...",
    ),
    data: tuple[str, ...] = option(
        REQUIRED,
        "A domain, again for each: its name, and a folder of class folders or shards with .cls "
        "members, as for `clipgap eval`.",
        metavar="NAME=PATH",
    ),
    out: Path | None = output("ANALYSIS"),
) -> int:
    """Say how alike images of different domains are inside of CLIP models, block by block.

    Linear and RBF CKA of class means, with an unbiased HSIC; shared top neurons by integrated
    gradients, beside chance; what leads from one to the next; shared concepts; a map of the
    embeddings. Intervals are of a bootstrap over classes.
    """
    from clipgap.clip.analyze.api import analyze as run
    from clipgap.clip.analyze.plan import plan_analysis

    if running.dry_run:
        described = _described(plan_analysis(checkpoints, data, reading=reading, options=options))
        shell.result(described, _describe_plan(described))
        return 0
    out = required(out)
    with shell.watch(out, _STOPPING) as watch:
        how = running.how(watch)
        result = run(checkpoints, data, out, reading=reading, options=options, how=how)
    shell.result(_outcome(result), _describe_outcome(result))
    return QUARANTINED if result.problems > tolerance.allow_bad else 0


def _described(plan: AnalysisPlan) -> dict[str, Any]:
    return {
        "checkpoints": [checkpoint.describe() for checkpoint in plan.checkpoints],
        "domains": [
            {"name": each.name, "path": each.path, "samples": each.images.samples}
            for each in plan.domains
        ],
        "classes": list(plan.classes),
        "neurons": plan.options.neurons,
    }


def _describe_plan(plan: dict[str, Any]) -> Iterator[str]:
    yield f"Would look through {words.plural(len(plan['checkpoints']), 'checkpoint')} at"
    for domain in plan["domains"]:
        images = "" if domain["samples"] is None else words.plural(domain["samples"], "image")
        yield f"  {domain['name']:<16} {images}: {domain['path']}"
    if plan["classes"]:
        yield f"of {len(plan['classes']):,} classes alone"


def _outcome(result: Analysis) -> dict[str, Any]:
    from clipgap.clip.analyze.api import CIRCUITS, CKA, COMPLETENESS, CONCEPTS, NEURONS

    return {
        "out": result.path,
        "cka": result.table(CKA).to_pylist(),
        "neurons": result.table(NEURONS).to_pylist(),
        "completeness": result.table(COMPLETENESS).to_pylist(),
        "circuits": result.table(CIRCUITS).to_pylist(),
        "concepts": result.table(CONCEPTS).to_pylist(),
        "dictionaries": result.manifest["dictionaries"],
        "maps": result.manifest["maps"],
        "quarantined": result.problems,
        "already_complete": result.already_complete,
        "repaired": result.repaired,
    }


def _describe_outcome(result: Analysis) -> Iterator[RenderableType]:
    found = _outcome(result)
    if result.already_complete:
        yield words.complete(result.path)
    elif result.repaired:
        yield f"Made again: {', '.join(result.repaired)}."
    yield _pairs(found)
    for what, rows in (
        ("Circuits", [row for row in found["circuits"] if row["measure"] == "edges"]),
        ("Concepts", found["concepts"]),
    ):
        for row in rows:
            chance = f", by chance {row['chance']:.1%}" if "chance" in row else ""
            yield (
                f"{what} of {row['checkpoint']}, {row['first']} – {row['second']}: "
                f"{row['value']:.1%} shared{chance}"
            )
    if changes := sum(abs(row["change"]) for row in found["completeness"]):
        share = sum(row["error"] for row in found["completeness"]) / changes
        yield f"Effects of neurons miss {share:.1%} of what scores change by; more --steps, less"
    if result.problems:
        yield (
            f"Quarantined: {words.plural(result.problems, 'unit')}, listed in "
            f"{result.path}/quarantine.parquet"
        )
    yield f"Analysis: {result.path}"


def _pairs(found: dict[str, Any]) -> RenderableType:
    """What each pair of domains has in common in its last block, and in the mean over blocks."""
    figures = ("classes", "CKA of the last block", "95 %", "shared neurons", "by chance")
    table = Sheet(("checkpoint", "domains", *figures), words=2)
    last = {_place(row): row for row in found["cka"] if row["kernel"] == "linear"}
    shared: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in found["neurons"]:
        shared.setdefault(_place(row), []).append(row)
    for place, row in last.items():
        neurons = shared.get(place, [])
        means = [sum(one[key] for one in neurons) / len(neurons) for key in _SHARED if neurons]
        table.add(
            row["checkpoint"],
            f"{row['first']} – {row['second']}",
            words.count(row["classes"]),
            _number(row["value"]),
            f"{_number(row['low'])} – {_number(row['high'])}",
            *(f"{mean:.1%}" for mean in means),
        )
    return table


_SHARED = ("value", "chance")


def _place(row: dict[str, Any]) -> tuple[str, ...]:
    return row["checkpoint"], row["first"], row["second"]


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
