"""`clipgap render`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipgap.cli import words
from clipgap.cli.frame import Running, command
from clipgap.cli.shell import Shell
from clipgap.errors import UsageError

if TYPE_CHECKING:
    from clipgap.synthetic.render import Rendered


@dataclass(frozen=True)
class RenderOptions:
    """How many images of each kind."""

    web: Annotated[
        int, typer.Option(metavar="N", min=1, help="Samples of the web-like training set.")
    ] = 4_000
    reference: Annotated[
        int, typer.Option(metavar="N", min=1, help="Samples of the reference set.")
    ] = 1_000
    points: Annotated[int, typer.Option(metavar="N", min=1, help="Samples of each test set.")] = 600
    planted: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Near-duplicates of test images to put into the training set."
        ),
    ] = 300
    classes: Annotated[
        int | None,
        typer.Option(metavar="N", help="Draw the first N classes only.", show_default="all"),
    ] = None
    seed: Annotated[int, typer.Option(metavar="S", min=0, help="Any number.")] = 0


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app, "render")(render)


def render(
    shell: Shell,
    world: Annotated[
        str,
        typer.Argument(
            metavar="shapes|digits",
            help="Shapes in four styles, or scikit-learn's handwritten digits against type.",
        ),
    ],
    options: RenderOptions,
    running: Running,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FOLDER", help="The folder to make. Needed unless --dry-run."
        ),
    ] = None,
) -> None:
    """Draw small images for a study without downloads: tar shards with captions and labels.

    Makes a web-like training set of mixed styles, with near-duplicates of test images in it; a
    reference set of one style; test sets; and the files with class names and prompts that
    `clipgap eval` takes. The .json of each sample says what it is.
    """
    from clipgap.synthetic.render import render as run

    amounts = asdict(options)
    if running.dry_run:
        total = options.web + options.reference + options.planted
        shell.result(
            {"world": world, **amounts},
            [f"Would draw {words.count(total)} images, and {options.points:,} for each test set"],
        )
        return
    if out is None:
        raise UsageError("--out is missing: name the folder that the images shall go to")
    shell.check_settings_file(out)
    found = run(
        world,
        out,
        **amounts,
        resume=running.resume,
        overwrite=running.overwrite,
        on_set=lambda name: shell.note(f"writing {name}"),
    )
    shell.save_settings(out)
    shell.result(asdict(found), _describe(found))


def _describe(found: Rendered) -> Iterator[str]:
    if found.already_complete:
        yield f"{found.path} is already complete; every checksum holds."
    for name, samples in found.sets.items():
        planted = f", {words.count(found.planted)} of them planted" if name == "web" else ""
        yield f"  {name}: {words.plural(samples, 'image')}{planted}"
    yield f"{found.classes:,} classes. Images: {found.path}"
