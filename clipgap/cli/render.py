"""`clipgap render`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from clipgap.cli import words
from clipgap.cli.frame import Running, command, output, required
from clipgap.cli.shell import Shell
from clipgap.options import argument
from clipgap.synthetic.options import RenderOptions

if TYPE_CHECKING:
    from clipgap.synthetic.render import Rendered


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app, "render", "shapes -o shapes")(render)


def render(
    shell: Shell,
    options: RenderOptions,
    running: Running,
    world: str = argument(
        "Shapes in four styles; scikit-learn's handwritten digits against type; shapes as photos "
        "and renditions; shapes in six domains.",
        metavar="shapes|digits|domains|compositions",
    ),
    out: Path | None = output("FOLDER"),
) -> None:
    """Draw small images for a study without downloads: tar shards with captions and labels.

    Makes a web-like training set of mixed styles, with near-duplicates of test images in it; a
    reference set; test sets; the files with class names and prompts that `clipgap eval` takes; and
    for each set a table of domains and classes, for `clipgap mix` and `clipgap domains fit`. The
    .json of each sample says what it is.
    """
    from clipgap.synthetic.render import render as run

    if running.dry_run:
        total = options.web + options.reference + options.planted
        shell.result(
            {"world": world, **asdict(options)},
            [f"Would draw {words.count(total)} images, and {options.points:,} for each test set"],
        )
        return
    out = required(out)
    with shell.watch(out, "Stopping; images are drawn again from the beginning.") as watch:
        found = run(world, out, options=options, how=running.how(watch))
    shell.result(asdict(found), _describe(found))


def _describe(found: Rendered) -> Iterator[str]:
    if found.already_complete:
        yield words.complete(found.path)
    for name, samples in found.sets.items():
        planted = f", {words.count(found.planted)} of them planted" if name == "web" else ""
        yield f"  {name}: {words.plural(samples, 'image')}{planted}"
    yield f"{found.classes:,} classes. Images: {found.path}"
