"""Images where they lie: one answer to which there are, in which order, and of which class.

Embedding, evaluating and training all read through this, so rows of a store, samples of an
evaluation and samples of a training over the same data are the same, under the same keys.

- A folder without tar files is a folder of images, any other name stands for tar shards.
- In a folder an image is a file with one of `FOLDER_ENDINGS`, in whatever case, in it or below it,
  links followed. Hidden files and folders are none, nor is what macOS leaves behind (`._NAME`,
  `__MACOSX`). Images come in the order of their paths, which are their keys.
- In a tar shard a sample with a member of one of `IMAGE_EXTENSIONS` is an image, the first of these
  is meant, and what `shards.samples` says holds for all else.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from clipgap.clip.images.decoding import BadImage, Unusable, decode
from clipgap.errors import InputError
from clipgap.runs.output import is_unfinished
from clipgap.shards.finding import TarShard, is_shard
from clipgap.shards.problems import OnProblem, Problem
from clipgap.shards.samples import Sample, read_samples

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
"""In a sample of several images, the first of these is meant."""

FOLDER_ENDINGS = (*(f".{extension}" for extension in IMAGE_EXTENSIONS), ".gif", ".bmp")
CAPTION, CLASS = "txt", "cls"

_MACOS = "__MACOSX"
_HEADERS = 1_024
"""Bytes that a member of an archive takes besides its content, about."""

_LONGEST_NUMBER = 9
"""Digits in the number of a class."""

_Place = tuple[int, int]
"""Device and inode: which folder it is, whatever its path."""


class BadLabel(Unusable):
    """A sample whose class cannot be told."""


@dataclass(frozen=True)
class RawImage:
    """An image that is not decoded yet."""

    key: str
    where: str
    content: bytes | Path
    cost: int  # bytes of the shard or folder that it stands for
    beside: Mapping[str, bytes] = field(default_factory=dict)  # members of its sample

    @classmethod
    def of_sample(cls, sample: Sample) -> RawImage:
        """The image of a sample; `BadImage` if it has none."""
        contents = sample.contents
        kind = next((e for e in IMAGE_EXTENSIONS if e in contents), None)
        if kind is None:
            reason = f"has no image ({', '.join(f'.{e}' for e in IMAGE_EXTENSIONS)})"
            raise BadImage(f"{sample.shard}, {sample.key}", reason)
        where = f"{sample.shard}, {sample.key}.{kind}"
        cost = sum(len(content) + _HEADERS for content in contents.values())
        return cls(sample.key, where, contents[kind], cost, contents)

    @classmethod
    def of_file(cls, folder: Path, path: str, size: int = 0) -> RawImage:
        """One that `find_images` has found, to be read when it is decoded."""
        return cls(path, str(folder / path), folder / path, size)

    @property
    def caption(self) -> str | None:
        text = self.beside.get(CAPTION)
        return None if text is None else text.decode("utf-8", "replace")

    def read(self) -> bytes:
        """Its bytes; `BadImage` if there is no getting at them."""
        if isinstance(self.content, bytes):
            return self.content
        try:
            return self.content.read_bytes()
        except OSError as error:
            raise BadImage(self.where, f"cannot be read: {error.strerror}") from error

    def decode(self) -> Image:
        """Its pixels; `BadImage` if there are none."""
        return decode(self.read(), self.where)


def is_image_folder(source: str | Path) -> bool:
    """Whether a name means a folder of images, not tar shards."""
    if not Path(source).is_dir():
        return False
    try:
        with os.scandir(source) as entries:
            return not any(is_shard(entry.name) and entry.is_file() for entry in entries)
    except OSError as error:
        raise InputError(f"{source}: cannot be listed: {error.strerror}") from error


def class_folders(folder: Path) -> list[str]:
    """What the folders in a class tree are called."""
    _require_finished(folder)
    return sorted(item.name for item in os.scandir(folder) if item.is_dir() and _is_seen(item.name))


def find_images(folder: Path) -> list[tuple[str, os.stat_result]]:
    """The images of a folder by path in it, in order."""
    _require_finished(folder)
    try:
        found = sorted(_images_below(folder), key=lambda image: image[0])
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from error
    if bad := [path for path, _ in found if not _can_be_key(path)]:
        raise InputError.listing(
            f"{folder}: these names cannot be keys, since they are not UTF-8 or hold control "
            "characters; rename the files:",
            [ascii(path) for path in bad],
        )
    return found


def shard_images(
    shard: TarShard, beside: Collection[str], on_problem: OnProblem
) -> Iterator[tuple[Sample, RawImage]]:
    """The images of a shard in order, with the members of their samples that have an extension in
    `beside`; what is damaged or no image is told to `on_problem` and left out."""
    extensions = (*IMAGE_EXTENSIONS, *beside)
    for sample in read_samples(shard, extensions=extensions, on_problem=on_problem, empty=True):
        try:
            image = RawImage.of_sample(sample)
        except BadImage as bad:
            on_problem(Problem(shard.path, "sample", sample.key, bad.reason))
        else:
            yield sample, image


def class_of(sample: Sample, labels: Mapping[str, int] | None = None) -> int:
    """The class of a sample, by its .cls; `BadLabel` if that cannot be told.

    A .cls holds the number of a class or, where `labels` are known, what its folder is called.
    """
    where = f"{sample.shard}, sample {sample.key!r}"
    content = sample.contents.get(CLASS)
    if content is None:
        raise BadLabel(where, "has no .cls member, so its class is not known")
    text = content[:200].decode("utf-8", "backslashreplace").strip()
    is_number = text.isascii() and text.isdigit() and len(text) <= _LONGEST_NUMBER
    if is_number and (labels is None or int(text) < len(labels)):
        return int(text)
    if labels is None:
        raise BadLabel(where, f"its .cls says {text[:40]!r}, which is not the number of a class")
    if text in labels and not is_number:
        return labels[text]
    raise BadLabel(
        where,
        f"its .cls says {text[:40]!r}, which is none of the {len(labels):,} classes. It should be "
        f"a number from 0 to {len(labels) - 1:,}, or the key of a class",
    )


def _require_finished(folder: Path) -> None:
    """A folder that clipgap is filling with links has not all of its images yet."""
    if is_unfinished(folder):
        raise InputError(
            f"{folder} is unfinished; give the command that makes it --resume, then try again"
        )


def _images_below(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """In no order; a link that leads back up is not followed."""
    waiting: list[tuple[str, tuple[_Place, ...]]] = [("", (_place(folder.stat()),))]
    while waiting:
        inside, above = waiting.pop()
        with os.scandir(folder / inside) as entries:
            for entry in entries:
                if not _is_seen(entry.name):
                    continue
                path = f"{inside}{entry.name}"
                if entry.is_dir():
                    place = _place(entry.stat())
                    if place not in above:
                        waiting.append((f"{path}/", (*above, place)))
                elif entry.name.lower().endswith(FOLDER_ENDINGS) and entry.is_file():
                    yield path, entry.stat()


def _is_seen(name: str) -> bool:
    return not name.startswith(".") and name != _MACOS


def _place(status: os.stat_result) -> _Place:
    return status.st_dev, status.st_ino


def _can_be_key(path: str) -> bool:
    """As in shards: UTF-8, which surrogates are not, without control characters."""
    return path.isprintable() or not any(unicodedata.category(c) in ("Cc", "Cs") for c in path)
