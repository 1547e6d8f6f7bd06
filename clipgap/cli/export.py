"""`clipgap export`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipgap.cli import words
from clipgap.cli.frame import Running, command, output, required
from clipgap.cli.scan import Moved
from clipgap.cli.shell import Shell
from clipgap.files.naming import read_pairs
from clipgap.options import REQUIRED, Only, argument, option
from clipgap.verify.options import VIEWERS, ExportOptions

if TYPE_CHECKING:
    from clipgap.verify.export import Exported

_OPEN = {
    "atlas": "embedding-atlas {0}/table.parquet --x x --y y --neighbors neighbors",
    "spotlight": "spotlight {0}/table.parquet --dtype embedding=Embedding",
    "fiftyone": "fiftyone.Dataset.from_json('{0}/samples.json', rel_dir='{0}')",
}
"""What opens it."""

_ATLAS_IMAGES = " --image image --pagerank similarity"
"""With images Atlas would rank items by their neighbours, for which all must have as many."""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app, "export", "scan --to atlas -o atlas")(export)


def export(
    shell: Shell,
    options: ExportOptions,
    moved: Moved,
    running: Annotated[Running, Only("resume", "overwrite")],
    scan: Path = argument("A finished scan.", metavar="SCAN"),
    to: str = option(REQUIRED, "Which viewer is to read it.", choices=VIEWERS),
    images: tuple[str, ...] = option(
        (),
        "Shards, tables or a folder with the images of a test set, or of training rows by the name "
        "train. Repeatable; FiftyOne needs all.",
        metavar="NAME=IMAGES",
    ),
    out: Path | None = output("FOLDER"),
) -> None:
    """Write test points and their nearest training rows for a viewer of embeddings.

    Embedding Atlas gets true neighbours and a projection, Renumics Spotlight and FiftyOne also the
    embeddings.
    """
    from clipgap.verify.export import export as run

    out = required(out)
    with shell.watch(out, "Stopping; an export is made again from its beginning.") as watch:
        found = run(
            scan,
            to=to,
            out=out,
            images=read_pairs(images, "--images", "SHARDS", "join shards with '::'"),
            options=options,
            **moved.stores(),
            how=running.how(watch),
        )
    opens = _OPEN[to] + (_ATLAS_IMAGES if to == "atlas" and images else "")
    shell.result(asdict(found), _describe(found, opens))


def _describe(found: Exported, opens: str) -> Iterator[str]:
    if found.already_complete:
        yield words.complete(found.path)
    for name, count in found.counts.items():
        yield f"  {name}: {words.plural(count, 'item')}"
    yield f"Open it: {opens.format(shlex.quote(str(found.path)))}"
