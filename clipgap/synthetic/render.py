"""Fill a folder with a rendered world: tar shards, tables of labels, class names, prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from clipgap.errors import UsageError
from clipgap.files.documents import FILES, Each, Form, is_count
from clipgap.files.folders import make_folder
from clipgap.files.parquet import write_tables
from clipgap.files.sums import AnySum, write_file
from clipgap.options import takes_options
from clipgap.runs.how import How
from clipgap.runs.output import Complete, Kind, New, Output, open_output
from clipgap.synthetic.options import RenderOptions
from clipgap.synthetic.samples import LABELS, labels, shard_names, write_shards
from clipgap.synthetic.worlds import WORLDS, World
from clipgap.version import __version__

KIND = Kind(
    Form(
        "clipgap-rendered",
        "folder of rendered images",
        {
            "settings": {"planted": is_count},
            "sets": Each(is_count),
            "classes": [str],
            "files": FILES,
        },
    )
)
CLASSES_FILE, TEMPLATES_FILE = "classes.txt", "templates.txt"


@dataclass(frozen=True)
class Rendered:
    """What lies in the folder."""

    path: Path
    sets: dict[str, int]  # samples by name of the set
    classes: int
    planted: int
    already_complete: bool


@takes_options
def render(
    world: str,
    out: str | Path,
    *,
    options: RenderOptions,
    how: How,
) -> Rendered:
    """Draw a world into OUT/SET/00000.tar …; the same arguments always give the same bytes.

    `classes` are its first so many; all of them by default. OUT/labels/SET.parquet says the domain
    and class of each sample, for mixes and heads.
    """
    drawn = chosen_world(world, options.classes)
    settings = {"world": world, **asdict(options), "classes": len(drawn.names)}
    sizes = drawn.sizes(options)
    shards = (shard_names(name, size) for name, size in sizes.items())
    names = [*chain.from_iterable(shards), *map(labels_file, sizes), CLASSES_FILE, TEMPLATES_FILE]
    with open_output(out, KIND, how) as output:
        answer = output.begin({"settings": settings}, outputs=names)
        if isinstance(answer, Complete):
            return _outcome(output.path, answer.manifest, True)
        if not isinstance(answer, New):
            output.start()  # what is not whole is drawn again
        return _outcome(output.path, _draw(output, drawn, options, settings), False)


def chosen_world(name: str, classes: int | None) -> World:
    """A world with so many of its classes."""
    if name not in WORLDS:
        raise UsageError(f"there is no world {name!r}; choose {' or '.join(WORLDS)}")
    world = WORLDS[name]()
    if classes is not None and not 2 <= classes <= len(world.names):
        raise UsageError(f"world {name!r} has 2 to {len(world.names)} classes, not {classes:,}")
    return world.first(classes or len(world.names))


def labels_file(name: str) -> str:
    """Where the labels of a set lie."""
    return f"labels/{name}.parquet"


def _draw(
    output: Output, drawn: World, options: RenderOptions, settings: Mapping[str, Any]
) -> dict[str, Any]:
    files: dict[str, AnySum] = {}
    counts: dict[str, int] = {}
    for name, samples in drawn.sets(options).items():
        output.how.check()
        output.how.tell("writing", at=name, works=True)
        files |= write_shards(output.path, name, samples)
        table = labels_file(name)
        make_folder(output.path, "labels")
        files[table] = write_tables(
            output.path / table, LABELS, [labels(name, samples, drawn.names)]
        )
        counts[name] = len(samples)
    for name, lines in ((CLASSES_FILE, drawn.names), (TEMPLATES_FILE, drawn.templates)):
        text = "".join(f"{line}\n" for line in lines)
        files[name] = write_file(output.path / name, text.encode())
    entries = {
        "kind": "rendered",
        "settings": settings,
        "sets": counts,
        "classes": list(drawn.names),
        "versions": {"clipgap": __version__},
    }
    return output.finish(entries, files)


def _outcome(path: Path, manifest: dict[str, Any], already: bool) -> Rendered:
    return Rendered(
        path=path,
        sets=manifest["sets"],
        classes=len(manifest["classes"]),
        planted=manifest["settings"]["planted"],
        already_complete=already,
    )
