"""`clipgap domains`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipgap.cli import words
from clipgap.cli.frame import Dealt, Running, command, output, required
from clipgap.cli.shell import Shell
from clipgap.domains.options import AuditOptions, FitOptions, LabelOptions
from clipgap.errors import QUARANTINED, UsageError
from clipgap.files.naming import read_named
from clipgap.kernels.options import Compute
from clipgap.options import REQUIRED, Only, argument, option
from clipgap.sheets import Sheet

if TYPE_CHECKING:
    from rich.console import RenderableType

    from clipgap.domains.api import Fitted
    from clipgap.domains.audit import Audited
    from clipgap.domains.composition import Composition
    from clipgap.domains.labelling import Domains
    from clipgap.report.audit import Audit

_STOPPING = "Stopping: nothing is kept, fitting starts again."


def register(app: typer.Typer) -> None:
    """Add the group of commands to `app`."""
    group = typer.Typer(
        name="domains", help="Tell natural images from renditions.", rich_markup_mode=None
    )
    command(group, "fit", "labelled --labels labels.parquet -o heads")(fit)
    command(group, "label", "laion400m --heads heads -o laion-domains")(label)
    command(group, "composition", "laion-domains --keep pruned=split-pruned")(composed)
    command(group, "audit", "laion-domains --images 'laion/{00000..00127}.tar' -o audit")(audit)
    app.add_typer(group)


def fit(
    shell: Shell,
    options: FitOptions,
    compute: Annotated[Compute, Only("threads")],
    running: Running,
    store: str = argument("The store that has the labelled rows.", metavar="STORE"),
    labels: tuple[str, ...] = option(
        REQUIRED,
        "Keys with their domain (natural, ambiguous, rendition): parquet or CSV. Repeatable.",
        metavar="TABLE",
    ),
    out: Path | None = output("HEADS"),
) -> None:
    """Fit two linear heads on embeddings: natural or not, rendition or not.

    Thresholds are chosen on rows that did not train, and tested on rows that did neither. Says how
    precise they are, how sure that is, and where there are too few labels to be sure.
    """
    from clipgap.domains.api import fit_heads

    out = None if running.dry_run else required(out)
    with shell.watch(out, _STOPPING) as watch:
        found = fit_heads(
            store,
            labels,
            out=out,
            options=options,
            compute=compute,
            how=running.how(watch),
        )
    result = {"out": out, **found.manifest, "already_complete": found.already_complete}
    shell.result(result, describe(found))


def describe(found: Fitted) -> Iterator[RenderableType]:
    """Parts, thresholds, and what is in doubt."""
    from clipgap.heads.heads import HEADS

    if found.already_complete:
        yield words.complete(found.path)
    for part, labels in found.manifest["parts"].items():
        counts = ", ".join(f"{words.count(n)} {label}" for label, n in labels.items())
        yield f"{part:<10}  {words.plural(sum(labels.values()), 'row')}: {counts}"
    if found.path is None:
        return
    heads = {name: found.manifest["heads"][name] for name in HEADS}
    yield _table(heads)
    for name, head in heads.items():
        if doubt := head["found"]["strict"].get("doubt"):
            yield f"The {name} head, strict: {doubt}."
    yield f"Heads: {found.path}"
    yield words.to_prove(found.path)


def _table(heads: Mapping[str, Any]) -> RenderableType:
    from clipgap.heads.heads import POINTS

    figures = ("score from", "accepted", "wrong", "precision", "at least", "there", "recall")
    table = Sheet(("head", "point", *figures), words=2, title="On the test part")
    for name, head in heads.items():
        for point in POINTS:
            said = head["found"][point]
            shares = ("precision", "precision_at_least", "precision_at_prevalence", "recall")
            table.add(
                name,
                point,
                f"{head['thresholds'][point]:.4f}",
                words.count(said["accepted"]),
                words.count(said["wrong"]),
                *("" if said[key] is None else f"{said[key]:.4f}" for key in shares),
            )
    return table


def label(
    shell: Shell,
    options: LabelOptions,
    compute: Annotated[Compute, Only("threads")],
    running: Dealt,
    store: str = argument("The store to label.", metavar="STORE"),
    heads: Path = option(REQUIRED, "What `clipgap domains fit` made.", metavar="HEADS"),
    out: Path | None = output("DOMAINS"),
) -> int:
    """Score all rows of a store by heads, and say of each whether it is natural or a rendition.

    Makes a table that `clipgap mix` draws by, and tells the share of each domain.
    """
    from clipgap.domains.labelling import label_domains, plan_labels

    if running.dry_run:
        plan = plan_labels(store, heads, options=options)
        lines = [f"Would label {words.plural(plan['rows'], 'row')} of {store} by {heads}"]
        shell.result(plan, lines)
        return 0
    out = required(out)
    stopping = "Stopping after the block at hand; finished shards are kept."
    with shell.watch(out, stopping) as watch:
        found = label_domains(
            store,
            heads,
            out=out,
            options=options,
            compute=compute,
            how=running.how(watch),
        )
    result = {
        "out": out,
        "counts": found.manifest["counts"],
        "already_complete": found.already_complete,
    }
    shell.result(result, describe_labels(found))
    return QUARANTINED if found.quarantined else 0


def describe_labels(found: Domains) -> Iterator[str]:
    """The share of each domain."""
    if found.already_complete:
        yield words.complete(found.path)
    yield from words.domains(found.manifest["counts"])
    if found.quarantined:
        yield f"{words.plural(found.quarantined, 'row')} have no domain: zero, NaN or infinite"
    yield f"Domains: {found.path}"
    yield words.to_prove(found.path)


def composed(
    shell: Shell,
    compute: Annotated[Compute, Only("threads")],
    domains: tuple[str, ...] = argument(
        "What `clipgap domains label` made; called like its folder, or by a name of yours.",
        metavar="[NAME=]DOMAINS...",
    ),
    keep: tuple[str, ...] = option(
        (), "A keep-list of one of these stores. Repeatable.", metavar="[NAME=]KEEP", shown="none"
    ),
) -> None:
    """Tell how much of a store, or of a keep-list, is natural, ambiguous, or a rendition.

    Counts what the heads said, by their default thresholds and by the strict ones, and estimates
    from the errors of the heads on their test part what is truly there. A set called laion-200m,
    imagenet-train or combined-pruned has the shares of the paper beside its own.
    """
    from clipgap.domains.composition import composition

    with shell.watch(None, "Stopping; nothing is kept.") as watch:
        found = composition(
            read_named(domains, "DOMAINS"),
            keep=read_named(keep, "--keep"),
            compute=compute,
            on_progress=watch,
            stop=watch.stop,
        )
    shell.result({"sets": [each.to_json() for each in found]}, describe_composition(found))


def describe_composition(found: list[Composition]) -> Iterator[RenderableType]:
    """A few lines for each set, and what they rest on."""
    from clipgap.heads.heads import LABELS

    table = Sheet(("set", "by", "rows", *LABELS), words=2)
    for each in found:
        name = each.name
        for point, said in each.said.items():
            shares = [words.percent(said[label] / max(each.rows, 1)) for label in LABELS]
            table.add(name, point, words.count(each.rows), *shares)
            name = ""
        if each.truly is not None:
            bounds = (each.truly[label] for label in LABELS)
            spans = [f"{100 * bound.low:.1f} – {words.percent(bound.high, 1)}" for bound in bounds]
            table.add("", "truly", "", *spans)
        for point, printed in (each.paper or {}).items():
            shares = [words.percent(printed[label]) for label in LABELS]
            table.add("", f"paper, {point}", "", *shares)
    yield table
    if any(each.truly is not None for each in found):
        yield "Truly: 95 %, if heads err here as they did on their test part."
    if without := sum(each.without for each in found):
        yield f"Left out: {words.plural(without, 'row')} without a domain (zero, NaN or infinite)."


def audit(
    shell: Shell,
    options: AuditOptions,
    compute: Annotated[Compute, Only("threads")],
    running: Running,
    folder: str = argument(
        "What `clipgap domains label` made, or a scan with heads; with --labels an audit.",
        metavar="DOMAINS",
    ),
    images: str | None = option(
        None,
        "Tar shards or a folder with the images of the store.",
        metavar="IMAGES",
        shown="keys alone",
    ),
    labels: Path | None = option(
        None,
        "What the page of the audit DOMAINS downloaded: tells the precision, makes nothing.",
        metavar="FILE",
    ),
    out: Path | None = output("AUDIT"),
) -> None:
    """Look at a random sample of the rows that heads say to be of a domain.

    Makes a page on which they are labelled by keyboard; it does not say what heads said. With the
    labels that it downloads, --labels tells how many rows of the store truly are of the domain.
    """
    if labels is not None:
        from clipgap.domains.audit import audited

        if out is not None or images is not None:
            raise UsageError("--labels is about an audit that was made: leave out -o and --images")
        found = audited(folder, labels)
        shell.result(found.to_json(), describe_audited(found))
        return
    from clipgap.report.audit import audit_domains, plan_audit

    if running.dry_run:
        rows = plan_audit(folder, options=options)
        line = f"Would draw {words.count(options.sample)} of {words.plural(rows, 'row')}"
        shell.result({"accepted": rows, "sample": options.sample}, [f"{line} of {folder}"])
        return
    out = required(out)
    with shell.watch(out, "Stopping; an audit is drawn again from its beginning.") as watch:
        made = audit_domains(
            folder, out=out, images=images, options=options, compute=compute, how=running.how(watch)
        )
    result = {
        "out": out,
        "page": made.page,
        "counts": made.manifest["counts"],
        "already_complete": made.already_complete,
    }
    shell.result(result, describe_audit(made))


def describe_audit(made: Audit) -> Iterator[str]:
    """What was drawn, and what to do with it."""
    if made.already_complete:
        yield words.complete(made.path)
    counts, settings = made.manifest["counts"], made.manifest["settings"]
    yield (
        f"{words.count(settings['sample'])} of the {words.plural(counts['accepted'], 'row')} that "
        f"are {settings['domain']} by the {settings['by']} thresholds, "
        f"{words.count(counts['pictures'])} with pictures"
    )
    yield f"Open {made.page}, label all, and then:"
    yield f"  clipgap domains audit {made.path} --labels labels.csv"


def describe_audited(found: Audited) -> Iterator[str]:
    """The precision, with what it rests on."""
    labels = ", ".join(f"{words.count(n)} {label}" for label, n in found.labelled.items() if n)
    yield f"Of {words.plural(found.sample, 'row')} looked at: {labels}"
    share = found.precision
    yield (
        f"Of the {words.plural(found.accepted, 'row')} that are {found.domain} by the {found.by} "
        f"thresholds, truly so: {words.percent(share.value)} (95 %: {words.percent(share.low)} to "
        f"{words.percent(share.high)}; at least {words.percent(found.at_least)})"
    )
