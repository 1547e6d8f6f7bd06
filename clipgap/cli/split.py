"""`clipgap split`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipgap.cli import words
from clipgap.cli.frame import Running, command, output, required
from clipgap.cli.shell import Shell
from clipgap.errors import UsageError
from clipgap.kernels.options import Compute
from clipgap.options import Only, argument, option
from clipgap.select.options import ReferenceOptions, RuleOptions
from clipgap.sheets import Sheet
from clipgap.store.options import Mixing

if TYPE_CHECKING:
    from rich.console import RenderableType

    from clipgap.select.reference import Reference
    from clipgap.select.splitting import Split


_STOPPING = "Stopping: nothing is kept, a split starts again."


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app, "split", "scan --prune val -o pruned")(split)


def split(
    shell: Shell,
    rule: RuleOptions,
    reference: ReferenceOptions,
    mixing: Mixing,
    compute: Annotated[Compute, Only("threads")],
    running: Running,
    source: tuple[Path, ...] = argument(
        "Scans of one store; keep-lists for --union, --intersection and --difference.",
        metavar="SCAN…",
    ),
    within: Path | None = option(
        None, "Choose among the rows of this keep-list only.", metavar="KEEP"
    ),
    out: Path | None = output("KEEP"),
) -> None:
    """Choose the rows of a training store to keep, from its scans.

    Makes a keep-list of exact size, and says what each test set took away. N is always the number
    of rows kept.
    """
    from clipgap.select.algebra import combine
    from clipgap.select.splitting import rule_of
    from clipgap.select.splitting import split as run

    chosen = rule_of(rule)
    out = None if running.dry_run else required(out)
    with shell.watch(out, _STOPPING) as watch:
        how = running.how(watch)
        if isinstance(chosen, str):
            if within is not None or reference.with_reference is not None:
                raise UsageError(f"--{chosen} takes neither --within nor --with-reference")
            found = combine(chosen, source, out=out, compute=compute, how=how)
        else:
            found = run(
                source,
                chosen,
                out=out,
                within=within,
                reference=_reference(reference),
                mixing=mixing,
                compute=compute,
                how=how,
            )
    shell.result(outcome(found, out), describe(found, out))


def _reference(options: ReferenceOptions) -> Reference | None:
    from clipgap.select.reference import Reference

    if options.with_reference is None:
        if options.reference_classes is not None:
            raise UsageError("--reference-classes does nothing without --with-reference")
        return None
    return Reference(options.with_reference, options.reference_classes, options.caption)


def outcome(found: Split, out: Path | None) -> dict[str, Any]:
    """What a script wants to know."""
    return {
        "out": out,
        "rule": found.rule,
        "sizes": found.sizes,
        "already_complete": found.already_complete,
    }


def describe(found: Split, out: Path | None) -> Iterator[RenderableType]:
    """The size table, and what to do next."""
    if found.already_complete:
        yield words.complete(out)
    sizes = found.sizes
    yield from _describe_sizes(sizes)
    if "by_set" in sizes:
        yield _removed(sizes["by_set"], sizes["candidates"])
    if "cut" in sizes:
        cut = sizes["cut"]
        yield (
            f"  cut at similarity {cut['sim']:.8g}: of {words.plural(cut['equals'], 'row')} with "
            f"it, the first {cut['above']:,} by id count as more similar"
        )
    if out is not None:
        yield f"Keep-list: {out}"
        yield words.to_prove(out)


def _describe_sizes(sizes: Mapping[str, Any]) -> Iterator[str]:
    lines = {"rows": "rows of the store"}
    if sizes.get("quarantined"):
        lines["quarantined"] = "without scores, never kept"
    outside = sizes["rows"] - sizes.get("quarantined", 0) - sizes["candidates"]
    if outside:
        lines["outside"] = "outside of --within"
    lines |= {"removed": "removed", "kept": "kept"}
    if "unlabelled" in sizes:
        lines["unlabelled"] = "of the removed have no label"
    numbers = {**sizes, "outside": outside}
    width = max(len(words.count(numbers[name])) for name in lines)
    for name, text in lines.items():
        share = (
            f" ({numbers[name] / sizes['rows']:.2%})" if name == "kept" and sizes["rows"] else ""
        )
        yield f"  {words.count(numbers[name]):>{width}}  {text}{share}"


def _removed(by_set: Mapping[str, Any], candidates: int) -> RenderableType:
    """What each test set removes, and how much of that others remove too, if there are others."""
    others = list(by_set) if len(by_set) > 1 else []
    shared = [f"also by {name}" for name in others]
    alone = ["by no other"] if others else []
    table = Sheet(("by", "rows", "share", *alone, *shared), title="Removed")
    for name, counts in by_set.items():
        share = f"{counts['removed'] / candidates:.3%}" if candidates else ""
        only = [words.count(counts["by_no_other"])] if others else []
        also = ["" if other == name else words.count(counts["also_by"][other]) for other in others]
        table.add(name, words.count(counts["removed"]), share, *only, *also)
    return table
