"""`clipgap data list`, `data check`, `data link` and `data caption`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clipgap.cli import words
from clipgap.cli.frame import Running, command, output, required
from clipgap.cli.shell import Shell
from clipgap.clip.data.options import CaptionOptions
from clipgap.errors import InputError
from clipgap.options import argument, option

if TYPE_CHECKING:
    from clipgap.clip.data.captioned import Captioned, CaptionPlan
    from clipgap.clip.data.check import Checked
    from clipgap.clip.data.registry import Registered


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(
        name="data",
        help="The sets that clipgap knows by name.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    command(group, "list", "")(list_sets)
    command(group, "check", "imagenet-sketch /data/sketch")(check)
    command(group, "link", "objectnet /data/objectnet -o objectnet")(link)
    command(
        group,
        "caption",
        "/data/imagenet/train --classes imagenet-train -o imagenet-tars",
    )(caption)
    app.add_typer(group)


def list_sets(shell: Shell) -> None:
    """List the sets: what each should look like on disk, and where to get it.

    Nothing is downloaded.
    """
    from clipgap.clip.data.registry import registry

    known = registry()
    shell.result({"sets": [_entry(entry) for entry in known.values()]}, _describe(known.values()))


def check(
    shell: Shell,
    name: str = argument("A name of `clipgap data list`.", metavar="NAME"),
    path: Path = argument("The folder that holds the set.", metavar="PATH"),
) -> int:
    """Check that a folder holds a set: its classes, how many images, file names, checksums.

    Images are counted, not decoded.
    """
    from clipgap.clip.data.check import check_set

    checked = check_set(name, path)
    shell.result(
        {
            "name": checked.name,
            "path": checked.path,
            "images": checked.images,
            "holds": checked.holds,
            "problems": checked.problems,
        },
        _report(checked),
    )
    return InputError.exit_code if checked.problems else 0


def link(
    shell: Shell,
    running: Running,
    name: str = argument("A name of `clipgap data list`.", metavar="NAME"),
    path: Path = argument("The folder that holds the set.", metavar="PATH"),
    where: tuple[str, ...] = option(
        (),
        "The images for which the set's table says all of this. Repeatable: those for which any of "
        "them holds.",
        metavar="COLUMN=VALUE[,…]",
    ),
    out: Path | None = output("FOLDER"),
) -> None:
    """Make a folder of links to a part of a set, for `clipgap embed`.

    Of ObjectNet, the 113 class folders that are evaluated; of CelebA and Waterbirds, the images
    with an attribute, such as --where y=0,place=1 --where y=1,place=0.
    """
    from clipgap.clip.data.parts import link_part, plan_part

    if running.dry_run:
        links = len(plan_part(name, path, where))
        shell.result({"links": links}, [words.plural(links, "link")])
        return
    out = required(out)
    linked = link_part(name, path, out, where, how=running.how())
    found = words.plural(linked.links, "link")
    shell.result(
        {"out": out, "links": linked.links, "already_complete": linked.already_complete},
        [f"{out} already holds its {found}" if linked.already_complete else f"{found} in {out}"],
    )


def caption(
    shell: Shell,
    options: CaptionOptions,
    running: Running,
    path: Path = argument("A folder that holds a folder of images for each class.", metavar="PATH"),
    out: Path | None = output("FOLDER"),
) -> None:
    """Make tar shards of images by class, with captions of the classes' names: to train CLIP on.

    Images are copied byte for byte and shuffled. With --classes imagenet-train these are the
    captions of the paper's Table 1.
    """
    from clipgap.clip.data.captioned import plan_captions, run_captions

    if running.dry_run:
        plan = plan_captions(path, options=options)
        shell.result({**plan.describe(), "shards": len(plan.shards)}, _describe_plan(plan))
        return
    out = required(out)
    with shell.watch(out, "Stopping after the shards at hand.") as watch:
        how = running.how(watch)
        found = run_captions(plan_captions(path, options=options), out, how=how)
    shell.result(asdict(found), _describe_captioned(found))


def _describe_plan(plan: CaptionPlan) -> Iterator[str]:
    images, shards = words.plural(len(plan.files), "image"), words.plural(len(plan.shards), "shard")
    yield f"Would write {images} of {words.count(len(plan.names))} classes to {shards}"
    yield f"  such as {plan.shards[0].images[0].key}: {plan.shards[0].images[0].caption}"


def _describe_captioned(found: Captioned) -> Iterator[str]:
    if found.already_complete:
        yield words.complete(found.path)
    images, shards = words.plural(found.images, "image"), words.plural(found.shards, "shard")
    yield f"{images} of {words.count(found.classes)} classes in {shards}: {found.path}"


def _entry(entry: Registered) -> dict[str, Any]:
    return {
        "name": entry.name,
        "title": entry.title,
        "images": entry.samples,
        "classes": len(entry.keys),
        "layout": entry.layout,
        "example": entry.example,
        "webdataset": entry.wds,
        "get": entry.get,
        "sources": entry.sources,
    }


def _describe(known: Any) -> Iterator[str]:
    for entry in known:
        yield f"{entry.name}: {entry.title}"
        yield (
            f"  {words.count(entry.samples)} images, "
            f"{words.count(len(entry.keys))} classes; {entry.example}"
        )
        yield f"  {entry.get}"
        if entry.wds:
            yield f"  or shards with .cls members: https://huggingface.co/datasets/{entry.wds}"


def _report(checked: Checked) -> Iterator[str]:
    for line in checked.holds:
        yield f"  ok     {line}"
    for line in checked.problems:
        yield f"  WRONG  {line}"
    if checked.problems:
        yield (
            f"{checked.path} is not {checked.name} as it should be: "
            f"{words.plural(len(checked.problems), 'problem')}."
        )
    else:
        yield f"{checked.path} holds {checked.name}: {words.count(checked.images)} images."
