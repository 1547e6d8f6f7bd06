"""Sets to evaluate on: labelled images, in the order in which `clipgap embed` takes them."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from clipgap.clip.data.classes import Classes
from clipgap.clip.data.labels import label_of_cls
from clipgap.clip.data.registry import Registered
from clipgap.clip.data.tables import LabelTable
from clipgap.clip.embed.sources import images_of_folder
from clipgap.clip.images import IMAGE_EXTENSIONS, BadImage
from clipgap.errors import InputError, UsageError
from clipgap.shards.finding import TarShard, find_shards
from clipgap.shards.problems import OnProblem, Problem
from clipgap.shards.samples import read_samples

LOG = logging.getLogger(__name__)
_EXTENSIONS = (*IMAGE_EXTENSIONS, "cls")
_SHOWN = 5


@dataclass(frozen=True)
class Item:
    """A labelled image that is not decoded yet."""

    key: str
    label: int
    group: str | None
    where: str
    content: bytes | Path

    def read(self) -> bytes:
        if isinstance(self.content, bytes):
            return self.content
        try:
            return self.content.read_bytes()
        except OSError as error:
            raise BadImage(self.where, f"cannot be read: {error.strerror}") from error


class Images(Protocol):
    """Where the labelled images of a set come from."""

    @property
    def identity(self) -> str:
        """A checksum that changes when the set does, as far as names and sizes tell."""
        ...

    @property
    def samples(self) -> int | None:
        """How many there are, if that is known beforehand."""
        ...

    def items(self, on_problem: OnProblem) -> Iterator[Item]:
        """The images in order."""
        ...


@dataclass(frozen=True)
class EvalSet:
    """A named set: images, their classes, and what is cut off their border."""

    name: str
    path: str
    classes: Classes
    images: Images
    border: int = 0


@dataclass(frozen=True)
class Files:
    """Images in a folder, with labels and groups by their path in it."""

    folder: Path
    paths: Sequence[str]
    labels: Sequence[int]
    groups: Sequence[str | None]

    @property
    def samples(self) -> int | None:
        return len(self.paths)

    @property
    def identity(self) -> str:
        digest = hashlib.sha256()
        for path, label, group in zip(self.paths, self.labels, self.groups, strict=True):
            size = (self.folder / path).stat().st_size
            digest.update(f"{path}\0{size}\0{label}\0{group}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def items(self, on_problem: OnProblem) -> Iterator[Item]:
        for path, label, group in zip(self.paths, self.labels, self.groups, strict=True):
            file = self.folder / path
            yield Item(path, label, group, str(file), file)


@dataclass(frozen=True)
class Shards:
    """Images in tar shards, with labels in .cls members."""

    shards: Sequence[TarShard]
    classes: Classes

    @property
    def samples(self) -> int | None:
        return None

    @property
    def identity(self) -> str:
        named = "\n".join(f"{shard.name}\0{shard.file.size}" for shard in self.shards)
        return hashlib.sha256(named.encode()).hexdigest()

    def items(self, on_problem: OnProblem) -> Iterator[Item]:
        labels = self.classes.labels
        for shard in self.shards:
            for sample in read_samples(
                shard, extensions=_EXTENSIONS, on_problem=on_problem, empty=True
            ):
                kind = next((e for e in IMAGE_EXTENSIONS if e in sample.contents), None)
                if kind is None:
                    on_problem(Problem(shard.path, "sample", sample.key, "has no image"))
                    continue
                where = f"{shard.path}, {sample.key}.{kind}"
                label = label_of_cls(sample, labels)
                yield Item(sample.key, label, None, where, sample.contents[kind])


def open_set(
    name: str,
    path: str,
    classes: Classes,
    entry: Registered | None = None,
    group_by: str | None = None,
) -> EvalSet:
    """Find the images of a set and their labels; refuse what does not fit the classes."""
    root = Path(path)
    border = entry.border if entry else 0
    images: Images
    if _holds_tars(path):
        if group_by is not None:
            raise UsageError(f"--group-by {name}: shards have no table to group by")
        images = Shards(find_shards(path), classes)
    elif not root.is_dir():
        hint = f" It should look like {entry.example}. To get it: {entry.get}" if entry else ""
        raise InputError(f"{path}: there is no such folder, and no .tar file of that name.{hint}")
    elif entry is not None and entry.table is not None:
        images = _from_table(entry, root, group_by)
    elif group_by is not None:
        raise UsageError(f"--group-by {name}: only sets with a table of labels can be grouped")
    else:
        images = _from_folders(root, classes, entry)
    if images.samples == 0:
        raise InputError(f"{path}: holds no images. {_expected(entry)}")
    if entry is not None and images.samples not in (None, entry.samples):
        LOG.warning(
            "%s holds %s images, not %s: `clipgap data check %s %s` says what differs",
            path,
            f"{images.samples:,}",
            f"{entry.samples:,}",
            entry.name,
            path,
        )
    return EvalSet(name, path, classes, images, border)


def _from_folders(root: Path, classes: Classes, entry: Registered | None) -> Files:
    """Class folders; the first folder of an image's path says its class."""
    labels = classes.labels
    there = {item.name for item in os.scandir(root) if item.is_dir()}
    if entry is not None and (missing := sorted(labels.keys() - there)):
        raise InputError(
            f"{root}: {len(missing):,} of {len(labels):,} class folders are missing: "
            f"{_some(missing)}. {_expected(entry)}"
        )
    paths = images_below(root)
    strangers = {path.partition("/")[0] for path in paths} - labels.keys()
    if entry is not None and len(strangers) <= entry.others:
        paths = [path for path in paths if path.partition("/")[0] in labels]
    elif strangers:
        raise InputError(
            f"{root}: {_some(sorted(strangers))} {'is' if len(strangers) == 1 else 'are'} none of "
            f"the {len(labels):,} classes. Each image should lie in a folder that is called as "
            f"its class is: {_some(list(labels))}. {_expected(entry)}"
        )
    return Files(
        root, paths, [labels[path.partition("/")[0]] for path in paths], [None] * len(paths)
    )


def _from_table(entry: Registered, root: Path, group_by: str | None) -> Files:
    assert entry.table is not None
    table = LabelTable.read(entry, root, group_by)
    folder = root / entry.table.images
    paths = images_below(folder)
    if unlisted := [path for path in paths if path not in table.labels]:
        raise InputError(
            f"{folder}: {len(unlisted):,} images are not listed in {table.path.name}: "
            f"{_some(unlisted)}. Take them away, or get the table that lists them."
        )
    if missing := sorted(table.labels.keys() - set(paths)):
        raise InputError(
            f"{folder}: {len(missing):,} images that {table.path.name} lists are missing: "
            f"{_some(missing)}. {_expected(entry)}"
        )
    return Files(
        folder,
        paths,
        [table.labels[path] for path in paths],
        [table.groups.get(path) for path in paths],
    )


def images_below(folder: Path) -> list[str]:
    """Paths of the images in a folder, in the order in which `clipgap embed` takes them."""
    try:
        return sorted(path for path, _ in images_of_folder(folder))
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from error


def _holds_tars(path: str) -> bool:
    """Whether a name means tar shards and not a folder of images."""
    root = Path(path)
    if root.is_dir():
        return any(item.name.endswith(".tar") for item in os.scandir(root))
    return path.endswith(".tar") or any(mark in path for mark in ("://", "::", "{", "*"))


def _expected(entry: Registered | None) -> str:
    if entry is None:
        return "Give a folder of class folders, or shards with .cls members."
    return f"It should look like {entry.example}; `clipgap data list` says where to get it."


def _some(items: Sequence[str]) -> str:
    return ", ".join(items[:_SHOWN]) + (" …" if len(items) > _SHOWN else "")
