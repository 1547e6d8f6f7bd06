"""A folder of images with a subfolder for each class, read as if it were shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from clipgap.clip.images import IMAGE_EXTENSIONS
from clipgap.clip.train.shards import Counted
from clipgap.errors import InputError
from clipgap.shards.matching import KeepSelector
from clipgap.shards.problems import OnProblem, Problem
from clipgap.shards.samples import Sample

CHUNK = 1_000
"""Files that are shuffled and handed out together, like those of a shard."""


def is_folder(train_data: str) -> bool:
    """Whether this names a folder of images rather than shards."""
    path = Path(train_data)
    return path.is_dir() and next(path.glob("*.tar"), None) is None


def count_folder(
    folder: Path, keep: Path | None
) -> tuple[KeepSelector | None, list[Counted], tuple[str, ...]]:
    """The keep-list, the kept images in chunks, and the classes."""
    selector = None if keep is None else KeepSelector.open(keep, [str(folder)])
    images = ImageFolder(folder, selector)
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

    def __init__(self, folder: Path, keep: KeepSelector | None) -> None:
        self._folder, self._keep = folder, keep

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """All subfolders, whatever is kept of them, so that splits have the same classes."""
        return tuple(sorted(entry.name for entry in self._folder.iterdir() if entry.is_dir()))

    @cached_property
    def paths(self) -> Sequence[str]:
        endings = tuple(f".{extension}" for extension in IMAGE_EXTENSIONS)
        found = sorted(
            path.relative_to(self._folder).as_posix()
            for name in self.classes
            for path in (self._folder / name).rglob("*")
            if path.name.lower().endswith(endings) and path.is_file()
        )
        keep = self._keep
        return found if keep is None else [p for p in found if keep(p, str(self._folder))]

    def read(self, shard: int, on_problem: OnProblem) -> Iterator[Sample]:
        """The images of a chunk, with the numbers of their classes."""
        labels = {name: str(label).encode() for label, name in enumerate(self.classes)}
        for path in self.paths[shard * CHUNK : (shard + 1) * CHUNK]:
            try:
                content = (self._folder / path).read_bytes()
            except OSError as error:
                reason = f"cannot be read: {error.strerror}"
                on_problem(Problem(str(self._folder), "sample", path, reason))
                continue
            label = labels[path.partition("/")[0]]
            yield Sample(path, str(self._folder), {"jpg": content, "cls": label})
