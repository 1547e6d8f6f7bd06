"""Folders of links to the part of a set that a study is about."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from clipgap.clip.data.registry import Registered, find_set
from clipgap.clip.data.tables import LabelTable, find_table
from clipgap.errors import InputError, ResumeError, UsageError
from clipgap.files.atomic import sync_folder
from clipgap.runs.old_how import refuse_both

_UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class Linked:
    """What came of it."""

    path: Path
    links: int
    already_complete: bool = False  # True: a resumed run found nothing to do


def link_part(
    name: str,
    path: str | Path,
    out: str | Path,
    where: Sequence[str] = (),
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> Linked:
    """Make a folder of links to a part of a set, as `plan_part` chooses it.

    `clipgap embed` follows them, so that the store has the rows of just this part.
    """
    refuse_both(resume, overwrite)
    targets, out = plan_part(name, path, where), Path(out)
    wanted = {link: str(target.resolve()) for link, target in targets.items()}
    if out.exists():
        if not (resume or overwrite):
            raise InputError(
                f"{out} is already there. Give --resume to keep or mend it, --overwrite to replace "
                "it, or name a new folder"
            )
        found = _links_of(out)
        if resume and not found.items() <= wanted.items():
            raise ResumeError(
                f"{out} holds links to other images or classes. Name another folder, or replace it "
                "with --overwrite"
            )
        if resume and found == wanted:
            return Linked(out, len(wanted), already_complete=True)
    making = out.with_name(f".{out.name}{_UNFINISHED}")
    shutil.rmtree(making, ignore_errors=True)
    try:
        for link, target in wanted.items():
            (making / link).parent.mkdir(parents=True, exist_ok=True)
            (making / link).symlink_to(target)
        if out.exists():
            shutil.rmtree(out)
        making.rename(out)
        sync_folder(out.parent)
    except OSError as error:
        raise InputError(f"cannot make {out}: {error.strerror}") from error
    return Linked(out, len(wanted))


def plan_part(name: str, path: str | Path, where: Sequence[str] = ()) -> Mapping[str, Path]:
    """What would be linked, by the name of the link.

    Without a table of labels: the class folders that are evaluated. With one: the images for which
    any of `where` holds; "Eyeglasses=1,Male=-1" holds where all of its parts do.
    """
    entry, root = find_set(name), Path(path)
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder. It should look like {entry.example}")
    if entry.table is not None:
        return _images(entry, root, where)
    if where:
        raise UsageError(f"{name} has no table of labels to choose from with --where")
    return _class_folders(entry, root)


def _links_of(folder: Path) -> dict[str, str]:
    """Every link below, and where it leads; refuses a folder that holds anything else."""
    found = {}
    for inner, folders, files in os.walk(folder):
        for entry in (Path(inner, name) for name in (*folders, *files)):
            if entry.is_symlink():
                found[str(entry.relative_to(folder))] = str(entry.readlink())
            elif not entry.is_dir():
                raise InputError(f"{folder} holds more than links: {entry}. Name another folder")
    return found


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
