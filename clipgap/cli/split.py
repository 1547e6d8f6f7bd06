"""`clipgap split`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipgap.cli import words
from clipgap.cli.frame import Running, command
from clipgap.cli.shell import Shell
from clipgap.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from clipgap.select.algebra import Operation
    from clipgap.select.reference import Reference
    from clipgap.select.rules import Rule
    from clipgap.select.splitting import Split

_RULES = "--prune, --near, --far, --core, --rand, --where, --union, --intersection, --difference"

_STOPPING = "Stopping; a split that was stopped starts again."


@dataclass(frozen=True)
class RuleOptions:
    """Which rows are kept; exactly one rule a call."""

    prune: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Drop rows nearer to a point of this test set than its threshold. Repeatable.",
        ),
    ] = None
    offset: Annotated[
        float, typer.Option(metavar="δ", help="Prune where the similarity exceeds τ + δ.")
    ] = 0.0
    near: Annotated[
        int | None,
        typer.Option(metavar="N", help="Keep the N rows least similar to the test sets of --by."),
    ] = None
    far: Annotated[
        int | None,
        typer.Option(metavar="N", help="Keep the N rows most similar to the test sets of --by."),
    ] = None
    core: Annotated[
        int | None,
        typer.Option(metavar="N", help="As --far, by the highest similarity to any of --by."),
    ] = None
    by: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Test set that --near, --far, --core go by. Repeatable."),
    ] = None
    rand: Annotated[int | None, typer.Option(metavar="N", help="Keep N rows at random.")] = None
    seed: Annotated[int, typer.Option(metavar="S", help="For --rand: any number.")] = 0
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN=VALUE",
            help="Keep rows with this label, or COLUMN!=VALUE without it; VALUE,VALUE for any of "
            "several. Repeatable: all must hold.",
        ),
    ] = None
    labels: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Labels for --where: parquet or CSV with a key column."),
    ] = None
    union: Annotated[bool, typer.Option("--union", help="Keep what is in any keep-list.")] = False
    intersection: Annotated[
        bool, typer.Option("--intersection", help="Keep what is in all keep-lists.")
    ] = False
    difference: Annotated[
        bool,
        typer.Option("--difference", help="Keep what is in the first keep-list and in no other."),
    ] = False

    def given(self) -> list[str]:
        """The rules that were asked for."""
        numbers = [name for name in _NUMBERS if getattr(self, name) is not None]
        lists = [name for name in ("prune", "where") if getattr(self, name)]
        return numbers + lists + [name for name in _OPERATIONS if getattr(self, name)]


@dataclass(frozen=True)
class ReferenceOptions:
    """A reference set that joins the split."""

    with_reference: Annotated[
        str | None,
        typer.Option(metavar="STORE", help="Add all samples of this reference set, with captions."),
    ] = None
    reference_classes: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Their classes: parquet or CSV with the columns key and class."
        ),
    ] = None
    caption: Annotated[
        str, typer.Option(metavar="TEXT", help="Their captions; {class} is the name of the class.")
    ] = "a photo of a {class}"


_NUMBERS = ("near", "far", "core", "rand")
_OPERATIONS: tuple[Operation, ...] = ("union", "intersection", "difference")


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app, "split")(split)


def split(
    shell: Shell,
    source: Annotated[
        list[Path],
        typer.Argument(
            metavar="SCAN…",
            help="Scans of one store; keep-lists for --union, --intersection and --difference.",
        ),
    ],
    rule: RuleOptions,
    reference: ReferenceOptions,
    running: Running,
    within: Annotated[
        Path | None,
        typer.Option(metavar="KEEP", help="Choose among the rows of this keep-list only."),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Threads to work with.", show_default="all cores"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="KEEP", help="The folder to make. Needed unless --dry-run."
        ),
    ] = None,
) -> None:
    """Choose the rows of a training store to keep, from its scans.

    Makes a keep-list of exact size, and says what each test set took away. N is always the number
    of rows kept.
    """
    from clipgap.select.algebra import combine
    from clipgap.select.splitting import split as run

    chosen = _rule(rule)
    if running.dry_run:
        out = None
    elif out is None:
        raise UsageError("--out is missing: name the folder that the keep-list shall become")
    else:
        shell.check_settings_file(out)
    with shell.watch(out, _STOPPING) as watch:
        how: dict[str, Any] = {
            "out": out,
            "threads": threads,
            "resume": running.resume and out is not None,
            "overwrite": running.overwrite and out is not None,
            "on_progress": watch,
            "stop": watch.stop,
        }
        if isinstance(chosen, str):
            if within is not None or reference.with_reference is not None:
                raise UsageError(f"--{chosen} takes neither --within nor --with-reference")
            found = combine(chosen, source, **how)
        else:
            joined = _reference(reference)
            found = run(source, chosen, within=within, reference=joined, **how)
    result = {
        "out": out,
        "rule": found.rule,
        "sizes": found.sizes,
        "already_complete": found.already_complete,
    }
    shell.result(result, describe(found, out))


def _rule(options: RuleOptions) -> Rule | Operation:
    """The one rule that was asked for; refuses options that would do nothing."""
    from clipgap.select.labels import Condition, Where
    from clipgap.select.rules import Core, Far, Near, Prune, Rand

    given = options.given()
    if len(given) != 1:
        asked = " and ".join(f"--{name}" for name in given) or "none"
        raise UsageError(f"give exactly one of {_RULES}; given: {asked}")
    name = given[0]
    _refuse_idle("--by", options.by, name, "near", "far", "core")
    _refuse_idle("--offset", options.offset, name, "prune")
    _refuse_idle("--seed", options.seed, name, "rand")
    _refuse_idle("--labels", options.labels, name, "where")
    by = tuple(options.by or ())
    if name in ("near", "far", "core") and not by:
        raise UsageError(f"--{name} needs --by NAME: the test sets whose similarity counts")
    if options.prune:
        return Prune(tuple(options.prune), options.offset)
    if options.where:
        if options.labels is None:
            raise UsageError("--where needs --labels FILE: the table that has its columns")
        return Where(options.labels, tuple(map(Condition.parse, options.where)))
    if options.near is not None:
        return Near(options.near, by)
    if options.far is not None:
        return Far(options.far, by)
    if options.core is not None:
        return Core(options.core, by)
    if options.rand is not None:
        return Rand(options.rand, options.seed)
    return next(operation for operation in _OPERATIONS if operation == name)


def _refuse_idle(option: str, value: object, rule: str, *uses: str) -> None:
    if value and rule not in uses:
        raise UsageError(
            f"{option} does nothing with --{rule}; it belongs to --{', --'.join(uses)}"
        )


def _reference(options: ReferenceOptions) -> Reference | None:
    from clipgap.select.reference import Reference

    if options.with_reference is None:
        if options.reference_classes is not None:
            raise UsageError("--reference-classes does nothing without --with-reference")
        return None
    return Reference(options.with_reference, options.reference_classes, options.caption)


def describe(found: Split, out: Path | None) -> Iterator[RenderableType]:
    """The size table, and what to do next."""
    if found.already_complete:
        yield f"{out} is already complete; every checksum holds."
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
        yield f"Prove it right: clipgap verify {shlex.quote(str(out))}"


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
    """What each test set removes, and how much of that others remove too."""
    from rich.table import Table

    table = Table(title="Removed", title_justify="left")
    table.add_column("by")
    for name in ("rows", "share", "by no other", *(f"also by {name}" for name in by_set)):
        table.add_column(name, justify="right")
    for name, counts in by_set.items():
        share = f"{counts['removed'] / candidates:.3%}" if candidates else ""
        also = ["" if other == name else words.count(n) for other, n in counts["also_by"].items()]
        table.add_row(
            name, words.count(counts["removed"]), share, words.count(counts["by_no_other"]), *also
        )
    return table
