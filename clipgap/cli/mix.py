"""`clipgap mix`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipgap.cli import words
from clipgap.cli.frame import Running, command, output, required
from clipgap.cli.shell import Shell
from clipgap.cli.split import outcome
from clipgap.kernels.options import Compute
from clipgap.mix.options import MixOptions
from clipgap.options import Only, argument

if TYPE_CHECKING:
    from clipgap.select.splitting import Split

_STOPPING = "Stopping: nothing is kept, a mix starts again."


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app, "mix", "mixes.toml --labels laion-domains -o mix")(mix)


def mix(
    shell: Shell,
    options: MixOptions,
    compute: Annotated[Compute, Only("threads")],
    running: Running,
    recipe: Path = argument("Which rows make the mix; see docs/mixes.md.", metavar="RECIPE.toml"),
    out: Path | None = output("KEEP"),
) -> None:
    """Draw a training mix of exact composition from a store, by domain and class.

    Says how many rows of each domain and class there are and will be, and then makes a keep-list
    of them. Smaller mixes of one kind lie in larger ones.
    """
    from clipgap.mix.api import mix as run

    out = None if running.dry_run else required(out)
    with shell.watch(out, _STOPPING) as watch:
        how = running.how(watch)
        found = run(recipe, out=out, options=options, compute=compute, how=how)
    shell.result(outcome(found, out), describe(found, out))


def describe(found: Split, out: Path | None) -> Iterator[str]:
    """What each domain has, and what to do next."""
    if found.already_complete:
        yield words.complete(out)
    sizes = found.sizes
    by_domain: dict[str, int] = {}
    for cell in sizes["cells"]:
        by_domain[cell["domain"]] = by_domain.get(cell["domain"], 0) + cell["after"]
    parts = ", ".join(f"{words.count(rows)} {domain}" for domain, rows in by_domain.items() if rows)
    yield f"Mix {found.rule['mix']!r}: {words.plural(sizes['kept'], 'row')} of {parts or 'nothing'}"
    if sizes["outside"]:
        yield f"  {words.plural(sizes['outside'], 'row')} have no label or lie outside of --within"
    if out is not None:
        yield f"Keep-list: {out}"
        yield words.to_prove(out)
