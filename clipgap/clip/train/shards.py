"""The samples of a run: those of its shards that a keep-list keeps, and those of a reference.

A folder of images with a subfolder for each class is read as if it were shards.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from clipgap.clip.images.decoding import BadImage
from clipgap.clip.images.reading import (
    CLASS,
    IMAGE_EXTENSIONS,
    BadLabel,
    RawImage,
    class_folders,
    class_of,
    find_images,
)
from clipgap.errors import InputError
from clipgap.files.volumes import FILE_THREADS
from clipgap.shards.choosing import Choice
from clipgap.shards.finding import TarShard, find_shards
from clipgap.shards.groups import promised
from clipgap.shards.index import index_shard
from clipgap.shards.lookup import Findings, find_kept
from clipgap.shards.matching import KeepSelector, SortedKeys
from clipgap.shards.options import KEY
from clipgap.shards.problems import OnProblem, Problem
from clipgap.shards.samples import Sample, read_samples

CHUNK = 1_000
"""Images of a folder that are shuffled and handed out together, like those of a shard."""


@dataclass(frozen=True)
class Counted:
    """A shard and how many of its samples take part."""

    name: str  # path or URL
    bytes: int
    samples: int
    reference: bool = False  # taken whole, whatever the keep-list says


class KeptShards:
    """Reads the samples that take part, from the shards where they lie."""

    def __init__(self, shards: Sequence[Counted], keep: str | None, match: str = KEY) -> None:
        self._shards = find_shards([shard.name for shard in shards])
        self._whole = [shard.reference for shard in shards]
        chosen = [s for s, whole in zip(self._shards, self._whole, strict=True) if not whole]
        self._selector = None if keep is None else KeepSelector.open(keep, chosen, match)

    def read(self, shard: int, on_problem: OnProblem) -> Iterator[Sample]:
        """The samples of a shard that take part, in order."""
        # Samples without a member that is read count like all others: they are bad, not absent.
        samples = read_samples(self._shards[shard], on_problem=on_problem, empty=True)
        if self._selector is None or self._whole[shard]:
            return samples
        return self._kept(samples, self._selector)

    @staticmethod
    def _kept(samples: Iterator[Sample], selector: KeepSelector) -> Iterator[Sample]:
        for sample in samples:
            if selector(sample.key, sample.shard, sample.contents):
                yield sample


def count_shards(
    train_data: str, keep: KeepSelector | None, found: Sequence[TarShard], reference: str | None
) -> tuple[list[Counted], Findings | None]:
    """All shards of a run with their samples, and what they have of the keep-list.

    Where nothing beside a shard can be trusted to say how many it has, its headers are read.
    """
    counts, findings = _count(found, keep)
    counted = _counted(found, counts)
    if reference is not None:
        added = find_shards(reference)
        twice = {shard.path for shard in found} & {shard.path for shard in added}
        if twice:
            raise InputError(f"{min(twice)}: both in --train-data and in --add-reference")
        counted += _counted(added, _count(added, None)[0], reference=True)
    if not any(shard.samples for shard in counted):
        why = f" that {keep.keep.path} keeps" if keep is not None else ""
        raise InputError(f"{train_data:.200}: holds no sample{why}, so there is nothing to learn")
    return counted, findings


def count_classes(shards: Sequence[Counted]) -> tuple[str, ...]:
    """The numbers of the classes that .cls members name, kept or not, so that splits agree."""

    def highest(shard: TarShard) -> int:
        number = -1
        for sample in read_samples(shard, extensions=(CLASS,), on_problem=lambda problem: None):
            with suppress(BadLabel):  # told of when it is to be trained on
                number = max(number, class_of(sample))
        return number

    with ThreadPoolExecutor(FILE_THREADS) as pool:
        classes = 1 + max(pool.map(highest, find_shards([shard.name for shard in shards])))
    if not classes:
        raise InputError(f"{shards[0].name}: no sample has a class (.cls with its number)")
    return tuple(map(str, range(classes)))


def _counted(
    shards: Sequence[TarShard], counts: Sequence[int], reference: bool = False
) -> list[Counted]:
    return [
        Counted(shard.path, shard.file.size, count, reference)
        for shard, count in zip(shards, counts, strict=True)
    ]


def _count(
    shards: Sequence[TarShard], keep: KeepSelector | None
) -> tuple[Sequence[int], Findings | None]:
    with ThreadPoolExecutor(FILE_THREADS) as pool:
        if keep is None:
            return list(pool.map(_all_samples, shards)), None
        findings = Findings.of(keep, pool.map(partial(find_kept, keep), shards))
    return findings.kept, findings


def _all_samples(shard: TarShard) -> int:
    said = _promised(shard)
    return len(index_shard(shard, shard.file, _Everything(), {}).keys) if said is None else said


def _promised(shard: TarShard) -> int | None:
    """What img2dataset, `clipgap filter` or a sizes.json say; a reader checks the first two."""
    try:
        if shard.stats is not None:
            return promised(shard.stats)
        sizes = Path(shard.path).with_name("sizes.json")
        return int(json.loads(sizes.read_bytes())[Path(shard.path).name])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


class _Everything:
    """Keeps all that a shard has."""

    def choose(self, keys: Sequence[str]) -> Choice:
        return Choice(np.ones(len(keys), np.bool_), [], [], np.zeros(0, np.int64))

    def guess(self, keys: Sequence[bytes]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        return np.ones(len(keys), np.bool_)


def count_folder(
    folder: Path, keep: Path | None
) -> tuple[KeepSelector | None, list[Counted], tuple[str, ...]]:
    """The keep-list, the kept images in chunks, and the classes."""
    images = ImageFolder(folder, keep)
    selector = images.selector
    if not images.paths:
        why = " that the keep-list keeps" if selector is not None else ""
        raise InputError(f"{folder}: holds no image{why} in a folder of its class")
    if selector is not None and len(images.paths) != selector.kept:
        raise InputError(
            f"{folder}: has {len(images.paths):,} of the {selector.kept:,} images that {keep} "
            "keeps. Its keys must be the paths of the images in the folder, or all of them those "
            "paths behind that of one folder."
        )
    counted = [
        Counted(f"{folder}#{start}", 0, len(images.paths[start : start + CHUNK]))
        for start in range(0, len(images.paths), CHUNK)
    ]
    return selector, counted, images.classes


def _root(keys: SortedKeys, paths: Sequence[str], folder: Path) -> str:
    """What the keys of a keep-list have before the paths in a folder; mostly nothing.

    clip-retrieval and clip-ood call an image by the whole path that it had when it was embedded.
    Such keys fit by what they end in, if there is one folder in which all of them can have lain.
    """
    if not len(keys.table):
        return ""
    first, known = keys.table[0].decode(), set(paths)
    if first in known:
        return ""
    parts = first.split("/")
    ends = ("/".join(parts[at:]) for at in range(1, len(parts)))
    roots = [first.removesuffix(end) for end in ends if end in known]
    fitting = [
        root for root in roots if keys.count([root + path for path in paths]) == len(keys.table)
    ]
    if len(fitting) > 1:
        raise InputError(
            f"{folder}: the keys of the keep-list, such as {first!r}, could have lain in "
            f"{' or in '.join(fitting)}, and mean other images each time"
        )
    return fitting[0] if fitting else ""


class ImageFolder:
    """The images of a folder that take part, by path; their keys are their paths in it.

    A keep-list may have the path of the folder in front of each.
    """

    def __init__(self, folder: Path, keep: Path | None) -> None:
        self._folder = folder
        # By path alone: shards of a store are parts of the folder, whatever either is called.
        self.selector = None if keep is None else KeepSelector.open(keep, [], KEY)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """All class folders, whatever is kept of them, so that splits have the same classes."""
        return tuple(class_folders(self._folder))

    @cached_property
    def paths(self) -> Sequence[str]:
        found = [path for path, _ in find_images(self._folder)]
        if outside := [path for path in found if "/" not in path]:
            raise InputError(
                f"{self._folder}: {len(outside):,} images lie in no folder of their class, the "
                f"first is {outside[0]}. Move them into one, or away."
            )
        if self.selector is None:
            return found
        keys = self.selector.sorted_keys()
        root = _root(keys, found, self._folder)
        return [path for path in found if root + path in keys]

    def read(self, shard: int, on_problem: OnProblem) -> Iterator[Sample]:
        """The images of a chunk, with the numbers of their classes."""
        labels = {name: str(label).encode() for label, name in enumerate(self.classes)}
        for path in self.paths[shard * CHUNK : (shard + 1) * CHUNK]:
            try:
                content = RawImage.of_file(self._folder, path).read()
            except BadImage as bad:
                on_problem(Problem(str(self._folder), "sample", path, bad.reason))
                continue
            label = labels[path.partition("/")[0]]
            # Decoders tell formats apart by content, not by extension.
            yield Sample(path, str(self._folder), {IMAGE_EXTENSIONS[0]: content, CLASS: label})
