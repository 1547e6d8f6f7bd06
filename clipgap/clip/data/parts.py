"""Folders of links to the part of a set that a study is about."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from clipgap.clip.data.registry import Registered, find_set
from clipgap.clip.data.tables import LabelTable, find_table
from clipgap.errors import InputError, UsageError
from clipgap.files.atomic import sync_folder
from clipgap.files.documents import FILES, Form, encode
from clipgap.files.folders import make_folder
from clipgap.files.remote import path_here
from clipgap.files.sums import LinkSum
from clipgap.options import takes_options
from clipgap.runs.how import How
from clipgap.runs.output import Complete, Kind, New, Output, open_output, spare

KIND = Kind(
    Form(
        "clipgap-links",
        "folder of links",
        {"set": str, "where": [str], "links": str, "files": FILES},
    ),
    labels={"where": "--where", "links": "SHA-256 of where the links lead"},
)


@dataclass(frozen=True)
class Linked:
    """What came of it."""

    path: Path
    links: int
    already_complete: bool = False  # True: a resumed run found nothing to do


@takes_options
def link_part(
    name: str, path: str | Path, out: str | Path, where: Sequence[str] = (), *, how: How
) -> Linked:
    """Make a folder of links to a part of a set, as `plan_part` chooses it.

    `clipgap embed` follows them, so that the store has the rows of just this part.
    """
    wanted = {link: str(at.resolve()) for link, at in plan_part(name, path, where).items()}
    described = {
        "kind": "links",
        "set": name,
        "where": list(where),
        "links": hashlib.sha256(encode(wanted)).hexdigest(),
    }
    spare(Path(out), [Path(path)], how)
    with open_output(out, KIND, how) as output:
        for link in wanted:
            at = output.path / link
            if at.exists() and not at.is_symlink():
                raise InputError(f"{at} is in the way: a link shall have its name. Move it.")
        answer = output.begin(described, outputs=wanted)
        if isinstance(answer, Complete):
            return Linked(output.path, len(wanted), already_complete=True)
        if not isinstance(answer, New):
            output.start()  # as fast as to see which are there
        _make(output, wanted)
        output.finish(described, {link: LinkSum.to(target) for link, target in wanted.items()})
    return Linked(output.path, len(wanted))


def _make(output: Output, wanted: Mapping[str, str]) -> None:
    output.how.tell("linking", works=True)
    folders = {link.rpartition("/")[0] for link in wanted}
    try:
        for folder in folders - {""}:
            make_folder(output.path, folder)
        for link, target in wanted.items():
            output.how.check()
            (output.path / link).symlink_to(target)
        for folder in folders:
            sync_folder(output.path / folder)
    except OSError as error:
        raise InputError(f"cannot make the links in {output.path}: {error}") from error


def plan_part(name: str, path: str | Path, where: Sequence[str] = ()) -> Mapping[str, Path]:
    """What would be linked, by the name of the link.

    Without a table of labels: the class folders that are evaluated. With one: the images for which
    any of `where` holds; "Eyeglasses=1,Male=-1" holds where all of its parts do.
    """
    entry, root = find_set(name), path_here(path)
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder. It should look like {entry.example}")
    if entry.table is not None:
        return _images(entry, root, where)
    if where:
        raise UsageError(f"{name} has no table of labels to choose from with --where")
    return _class_folders(entry, root)


def _class_folders(entry: Registered, root: Path) -> Mapping[str, Path]:
    missing = [key for key in entry.keys if not (root / key).is_dir()]
    if missing:
        raise InputError(
            f"{root}: {len(missing):,} of {len(entry.keys):,} class folders are missing, among "
            f"them {missing[0]}; `clipgap data check {entry.name} {root}` lists what is wrong"
        )
    return {key: root / key for key in entry.keys}


def _images(entry: Registered, root: Path, where: Sequence[str]) -> Mapping[str, Path]:
    assert entry.table is not None
    if not where:
        raise UsageError(f"{entry.name}: say which images are meant: --where COLUMN=VALUE")
    columns = _Columns(entry, root)
    chosen: dict[str, Path] = {}
    for condition in where:
        files = set.intersection(*(columns.files(part) for part in condition.split(",")))
        if not files:
            raise InputError(f"{columns.path}: {condition} holds nowhere")
        chosen |= {file: root / entry.table.images / file for file in files}
    lost = [str(chosen[file]) for file in sorted(chosen) if not chosen[file].is_file()]
    if lost:
        raise InputError(f"{len(lost):,} of the images that are meant are missing: {lost[0]} …")
    return chosen


class _Columns:
    """The columns of a set's table of labels, each read when it is asked for."""

    def __init__(self, entry: Registered, root: Path) -> None:
        self._read = partial(LabelTable.read, entry, root)
        self._tables: dict[str, LabelTable] = {}
        self._name = entry.name
        self.path = find_table(entry, root)

    def files(self, condition: str) -> set[str]:
        """The images for which COLUMN=VALUE is so."""
        column, equals, value = condition.partition("=")
        if not column or not equals:
            raise UsageError(f"{self._name}: {condition!r} is not COLUMN=VALUE")
        if column not in self._tables:
            self._tables[column] = self._read(column)
        groups = self._tables[column].groups
        files = {file for file, group in groups.items() if group == condition}
        if not files:
            values = sorted({group.partition("=")[2] for group in groups.values()})
            raise InputError(
                f"{self.path}: {column} is nowhere {value!r}, but {', '.join(values[:10])}"
            )
        return files
