"""Sets to evaluate on: labelled images, in the order in which `clipgap embed` takes them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from clipgap.clip.data.classes import Classes
from clipgap.clip.data.registry import Registered
from clipgap.clip.data.tables import LabelTable
from clipgap.clip.eval.subsets import Subset
from clipgap.clip.images.reading import (
    CLASS,
    RawImage,
    class_folders,
    class_of,
    find_images,
    is_image_folder,
    shard_images,
)
from clipgap.errors import InputError, UsageError
from clipgap.files.identity import whole_digest_of
from clipgap.files.naming import has_braces, has_glob
from clipgap.files.volumes import FILE_THREADS, File, file_at
from clipgap.shards.finding import TarShard, find_shards
from clipgap.shards.problems import OnProblem

LOG = logging.getLogger(__name__)
_SHOWN = 5


@dataclass(frozen=True)
class Item:
    """A labelled image that is not decoded yet."""

    image: RawImage
    label: int
    group: str | None


class Images(Protocol):
    """Where the labelled images of a set come from."""

    @property
    def identity(self) -> str:
        """A checksum that changes when any byte of the set does, or the label of an image."""
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
    subsets: tuple[Subset, ...] = ()


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
        files = [file_at(self.folder / path) for path in self.paths]
        return _identity(zip(self.paths, self.labels, self.groups, strict=True), files)

    def items(self, on_problem: OnProblem) -> Iterator[Item]:
        for path, label, group in zip(self.paths, self.labels, self.groups, strict=True):
            yield Item(RawImage.of_file(self.folder, path), label, group)


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
        files = [shard.file for shard in self.shards]
        return _identity(((shard.name,) for shard in self.shards), files)

    def items(self, on_problem: OnProblem) -> Iterator[Item]:
        labels = self.classes.labels
        for shard in self.shards:
            for sample, image in shard_images(shard, (CLASS,), on_problem):
                yield Item(image, class_of(sample, labels), None)


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
    if not is_image_folder(path):
        if not (root.exists() or _names_shards(path)):
            hint = f" It should look like {entry.example}. To get it: {entry.get}" if entry else ""
            raise InputError(
                f"{path}: there is no such folder, and no .tar file of that name.{hint}"
            )
        if group_by is not None:
            raise UsageError(f"--group-by {name}: shards have no table to group by")
        images = Shards(find_shards(path), classes)
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


def labelled(images: Images) -> list[tuple[str, int]]:
    """Key and label of each image, which no one looks at."""
    if isinstance(images, Files):  # nothing needs to be read
        return list(zip(images.paths, images.labels, strict=True))
    return [(item.image.key, item.label) for item in images.items(lambda problem: None)]


def _from_folders(root: Path, classes: Classes, entry: Registered | None) -> Files:
    """Class folders; the first folder of an image's path says its class."""
    labels = classes.labels
    if entry is not None and (missing := sorted(labels.keys() - set(class_folders(root)))):
        raise InputError(
            f"{root}: {len(missing):,} of {len(labels):,} class folders are missing: "
            f"{_some(missing)}. {_expected(entry)}"
        )
    paths = [path for path, _ in find_images(root)]
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
    paths = [path for path, _ in find_images(folder)]
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


def _identity(named: Iterable[tuple[object, ...]], files: Sequence[File]) -> str:
    """Of a set of files, with what is known of each."""
    digest = hashlib.sha256()
    with ThreadPoolExecutor(FILE_THREADS) as pool:
        for known, content in zip(named, pool.map(whole_digest_of, files), strict=True):
            line = "\0".join(map(str, (*known, content)))
            digest.update(f"{line}\n".encode())
    return digest.hexdigest()


def _names_shards(path: str) -> bool:
    """Whether a name that is no path can mean tar shards."""
    return has_glob(path) or has_braces(path) or any(mark in path for mark in ("://", "::"))


def _expected(entry: Registered | None) -> str:
    if entry is None:
        return "Give a folder of class folders, or shards with .cls members."
    return f"It should look like {entry.example}; `clipgap data list` says where to get it."


def _some(items: Sequence[str]) -> str:
    return ", ".join(items[:_SHOWN]) + (" …" if len(items) > _SHOWN else "")
