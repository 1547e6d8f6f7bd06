"""Is what lies in a folder the set that it is said to be?"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipgap.clip.data.registry import Registered, find_set
from clipgap.clip.data.tables import LabelTable
from clipgap.clip.images.reading import (
    CLASS,
    class_folders,
    class_of,
    find_images,
    is_image_folder,
    shard_images,
)
from clipgap.errors import InputError
from clipgap.files.remote import path_here
from clipgap.shards.finding import find_shards

_SHOWN = 5


@dataclass(frozen=True)
class Checked:
    """What was found, what holds, and what does not."""

    name: str
    path: Path
    images: int
    holds: Sequence[str]
    problems: Sequence[str]


def check_set(name: str, path: str | Path) -> Checked:
    """Compare a folder with what is known of a set: classes, counts, names, checksums.

    Images are counted, not decoded.
    """
    entry, root = find_set(name), path_here(path)
    if not root.is_dir():
        raise InputError(
            f"{root}: there is no such folder. {entry.title} looks like {entry.example}. "
            f"To get it: {entry.get}"
        )
    notes = _Notes()
    if not is_image_folder(root):
        images = _check_shards(entry, root, notes)
    elif entry.table is None:
        images = _check_folders(entry, root, notes)
    else:
        images = _check_table(entry, root, notes)
    return Checked(entry.name, root, images, notes.holds, notes.problems)


class _Notes:
    def __init__(self) -> None:
        self.holds: list[str] = []
        self.problems: list[str] = []

    def expect(self, true: bool, holds: str, problem: str) -> None:
        if true:
            self.holds.append(holds)
        else:
            self.problems.append(problem)


def _check_folders(entry: Registered, root: Path, notes: _Notes) -> int:
    keys = entry.keys
    there = class_folders(root)
    missing = sorted(set(keys) - set(there))
    notes.expect(
        not missing,
        f"all {len(keys):,} class folders are there",
        f"{len(missing):,} of {len(keys):,} class folders are missing: {_some(missing)}. "
        f"PATH must be the folder that holds them: {entry.example}",
    )
    strange = sorted(set(there) - set(keys))
    if len(strange) > entry.others:
        notes.problems.append(
            f"{len(strange):,} folders are no classes of this set: {_some(strange)}"
        )
    counts: Counter[str] = Counter()
    names: list[str] = []
    for path in _images_of(root, notes, frozenset(keys)):
        counts[path.partition("/")[0]] += 1
        names.append(path.rpartition("/")[2])
    _check_counts(entry, counts, notes)
    _check_names(entry, names, notes)
    return counts.total()


def _check_shards(entry: Registered, root: Path, notes: _Notes) -> int:
    labels = {key: label for label, key in enumerate(entry.keys)}
    counts: Counter[str] = Counter()
    bad: list[str] = []
    for shard in find_shards(root):
        for sample, _ in shard_images(shard, (CLASS,), lambda problem: bad.append(str(problem))):
            try:
                counts[entry.keys[class_of(sample, labels)]] += 1
            except InputError as error:
                bad.append(str(error))
    if bad:
        notes.problems.append(f"{len(bad):,} problems in the shards: {_some(bad)}")
    _check_counts(entry, counts, notes)
    return counts.total()


def _check_table(entry: Registered, root: Path, notes: _Notes) -> int:
    assert entry.table is not None
    table = LabelTable.read(entry, root)
    if (known := entry.md5.get(table.path.name)) is not None:
        found = hashlib.md5(table.path.read_bytes(), usedforsecurity=False).hexdigest()
        notes.expect(
            found == known,
            f"{table.path.name} has the MD5 {known}",
            f"{table.path.name} has the MD5 {found}, not {known}: get it again",
        )
    folder = root / entry.table.images
    there = set(_images_of(folder, notes))
    missing = sorted(table.labels.keys() - there)
    notes.expect(
        not missing,
        f"each of the {len(table.labels):,} listed images is there",
        f"{len(missing):,} listed images are missing below {folder}: {_some(missing)}",
    )
    if unlisted := sorted(there - table.labels.keys()):
        notes.problems.append(
            f"{len(unlisted):,} images are not listed in {table.path.name}: {_some(unlisted)}"
        )
    listed = there & table.labels.keys()
    counts = Counter(entry.keys[table.labels[name]] for name in listed)
    _check_counts(entry, counts, notes)
    _check_names(entry, [name.rpartition("/")[2] for name in listed], notes)
    groups = Counter(table.groups.values())
    for group, count in entry.group_counts.items():
        notes.expect(
            groups[group] == count,
            f"{group}: {count:,} images",
            f"{group}: {groups[group]:,} images, not {count:,}",
        )
    return len(listed)


def _check_counts(entry: Registered, counts: Counter[str], notes: _Notes) -> None:
    total = counts.total()
    notes.expect(
        total == entry.samples,
        f"{total:,} images",
        f"{total:,} images, not {entry.samples:,}",
    )
    expected = entry.counts or (entry.each is not None and (entry.each,) * len(entry.keys))
    if not expected:
        return
    wrong = [
        f"{key} {counts[key]:,} instead of {count:,}"
        for key, count in zip(entry.keys, expected, strict=True)
        if counts[key] != count
    ]
    notes.expect(
        not wrong,
        "as many in each class as there should be",
        f"{len(wrong):,} classes have the wrong number of images: {_some(wrong)}",
    )


def _check_names(entry: Registered, names: Sequence[str], notes: _Notes) -> None:
    if entry.names is None:
        return
    expected = {entry.names % number for number in range(1, entry.samples + 1)}
    wrong = sorted(set(names) - expected)
    notes.expect(
        not wrong and len(names) == len(set(names)),
        f"file names run from {entry.names % 1} to {entry.names % entry.samples}",
        f"{len(wrong):,} files are not called as in the original, or twice the same: "
        f"{_some(wrong)}",
    )


def _images_of(folder: Path, notes: _Notes, keys: Collection[str] | None = None) -> list[str]:
    """The images of a folder, or of some of the folders in it; empty ones are noted."""
    found = [
        (path, status.st_size)
        for path, status in find_images(folder)
        if keys is None or path.partition("/")[0] in keys
    ]
    empty = [path for path, size in found if size == 0]
    if empty:
        notes.problems.append(f"{len(empty):,} images are empty files: {_some(empty)}")
    return [path for path, _ in found]


def _some(items: Collection[str]) -> str:
    shown = list(items)[:_SHOWN]
    return ", ".join(shown) + (" …" if len(items) > _SHOWN else "")
