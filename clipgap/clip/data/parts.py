"""Folders of links to the part of a set that a study is about."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from clipgap.clip.data.registry import Registered, find_set
from clipgap.clip.data.tables import LabelTable
from clipgap.errors import InputError, UsageError
from clipgap.tables.atomic import sync_folder

_UNFINISHED = ".unfinished"


def link_part(name: str, path: str | Path, out: str | Path, where: str | None = None) -> int:
    """Make a folder of links to the class folders of a set, or to the images of its table where
    `where`, as in "Eyeglasses=1", holds; the number of links.

    `clipgap embed` follows them, so that the store has the rows of just this part.
    """
    entry, root, out = find_set(name), Path(path), Path(out)
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder. It should look like {entry.example}")
    if out.exists():
        raise InputError(f"{out} is already there; name a new folder")
    if entry.table is None:
        if where is not None:
            raise UsageError(f"{name} has no table of labels to choose from with --where")
        targets = _class_folders(entry, root)
    else:
        targets = _images(entry, root, where)
    making = out.with_name(f".{out.name}{_UNFINISHED}")
    shutil.rmtree(making, ignore_errors=True)
    try:
        for link, target in targets.items():
            (making / link).parent.mkdir(parents=True, exist_ok=True)
            (making / link).symlink_to(target.resolve(), target_is_directory=entry.table is None)
        making.rename(out)
        sync_folder(out.parent)
    except OSError as error:
        raise InputError(f"cannot make {out}: {error.strerror}") from error
    return len(targets)


def _class_folders(entry: Registered, root: Path) -> Mapping[str, Path]:
    missing = [key for key in entry.keys if not (root / key).is_dir()]
    if missing:
        raise InputError(
            f"{root}: {len(missing):,} of {len(entry.keys):,} class folders are missing, among "
            f"them {missing[0]}; `clipgap data check {entry.name} {root}` lists what is wrong"
        )
    return {key: root / key for key in entry.keys}


def _images(entry: Registered, root: Path, where: str | None) -> Mapping[str, Path]:
    assert entry.table is not None
    column, equals, value = (where or "").partition("=")
    if not column or not equals:
        raise UsageError(f"{entry.name}: say which images are meant: --where COLUMN=VALUE")
    table = LabelTable.read(entry, root, column)
    folder = root / entry.table.images
    chosen = {file: folder / file for file, group in table.groups.items() if group == where}
    if not chosen:
        values = sorted({group.partition("=")[2] for group in table.groups.values()})
        raise InputError(
            f"{table.path}: {column} is nowhere {value!r}, but {', '.join(values[:10])}"
        )
    lost = [str(target) for target in chosen.values() if not target.is_file()]
    if lost:
        raise InputError(f"{len(lost):,} of the images that are meant are missing: {lost[0]} …")
    return chosen
