"""A folder of images with a subfolder for each class, read as if it were shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from clipgap.clip.images.decoding import BadImage
from clipgap.clip.images.reading import (
    CLASS,
    IMAGE_EXTENSIONS,
    RawImage,
    class_folders,
    find_images,
)
from clipgap.clip.train.shards import Counted
from clipgap.errors import InputError
from clipgap.shards.matching import KeepSelector
from clipgap.shards.problems import OnProblem, Problem
from clipgap.shards.samples import Sample

CHUNK = 1_000
"""Files that are shuffled and handed out together, like those of a shard."""


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
            "keeps. Its keys must be the paths of the images in the folder."
        )
    counted = [
        Counted(f"{folder}#{start}", 0, len(images.paths[start : start + CHUNK]))
        for start in range(0, len(images.paths), CHUNK)
    ]
    return selector, counted, images.classes


class ImageFolder:
    """The images of a folder that take part, by path; their keys are their paths in it."""

    def __init__(self, folder: Path, keep: Path | None) -> None:
        self._folder = folder
        # By path alone: shards of a store are parts of the folder, whatever either is called.
        self.selector = None if keep is None else KeepSelector.open(keep, [])

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
        keep = self.selector
        return found if keep is None else [p for p in found if keep(p, str(self._folder))]

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
