"""What is embedded: tar shards or a folder of images, cut into units of one store shard each."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from clipgap.clip.images import IMAGE_EXTENSIONS
from clipgap.errors import InputError
from clipgap.files.identity import digest_of
from clipgap.files.volumes import volume_of
from clipgap.shards.finding import SUFFIX, TarShard, find_shards
from clipgap.shards.plan import file_names
from clipgap.shards.problems import OnProblem, Problem
from clipgap.shards.samples import read_samples

CAPTION = "txt"
FOLDER_ENDINGS = (*(f".{extension}" for extension in IMAGE_EXTENSIONS), ".gif", ".bmp")
FOLDER_UNIT = 8_192
"""Images of a folder that make a shard: what a killed run does again at most."""

_HEADERS = 1_024
"""Bytes that a member of an archive takes besides its content, about."""


@dataclass(frozen=True)
class RawImage:
    """An image that is not decoded yet."""

    key: str
    where: str
    content: bytes | Path
    caption: str | None
    cost: int  # bytes of the unit that it stands for

    def read(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


class Unit(Protocol):
    """What becomes one shard of the store."""

    @property
    def name(self) -> str:
        """Of the store's shard."""
        ...

    @property
    def source(self) -> str:
        """What people look for when something is wrong with it."""
        ...

    @property
    def size(self) -> int:
        """In bytes."""
        ...

    def images(self, captions: bool, on_problem: OnProblem) -> Iterator[RawImage]:
        """The images in order; what is damaged is told to `on_problem` and left out."""
        ...

    def describe(self) -> dict[str, Any]:
        """What tells its content from another."""
        ...

    def changed(self) -> str:
        """When it was last changed."""
        ...


@dataclass(frozen=True)
class TarUnit:
    """A webdataset shard."""

    name: str
    shard: TarShard

    @property
    def source(self) -> str:
        return self.shard.path

    @property
    def size(self) -> int:
        return self.shard.file.size

    def images(self, captions: bool, on_problem: OnProblem) -> Iterator[RawImage]:
        extensions = (*IMAGE_EXTENSIONS, CAPTION) if captions else IMAGE_EXTENSIONS
        for sample in read_samples(
            self.shard, extensions=extensions, on_problem=on_problem, empty=True
        ):
            kind = next((e for e in IMAGE_EXTENSIONS if e in sample.contents), None)
            if kind is None:
                reason = f"has no image ({', '.join(f'.{e}' for e in IMAGE_EXTENSIONS)})"
                on_problem(Problem(self.shard.path, "sample", sample.key, reason))
                continue
            text = sample.contents.get(CAPTION)
            yield RawImage(
                sample.key,
                f"{self.shard.path}, {sample.key}.{kind}",
                sample.contents[kind],
                None if text is None else text.decode("utf-8", "replace"),
                sum(len(content) + _HEADERS for content in sample.contents.values()),
            )

    def describe(self) -> dict[str, Any]:
        digest = digest_of(self.shard.file)
        return {"name": self.name, "bytes": self.size, "fingerprint": digest}

    def changed(self) -> str:
        return self.shard.file.modified


@dataclass(frozen=True)
class FolderUnit:
    """Some of the images of a folder; their keys are their paths in it."""

    name: str
    folder: Path
    paths: Sequence[str]
    sizes: Sequence[int]
    times: Sequence[int]

    @property
    def source(self) -> str:
        return str(self.folder)

    @property
    def size(self) -> int:
        return sum(self.sizes)

    def images(self, captions: bool, on_problem: OnProblem) -> Iterator[RawImage]:
        for path, size in zip(self.paths, self.sizes, strict=True):
            file = self.folder / path
            yield RawImage(path, str(file), file, None, size)

    def describe(self) -> dict[str, Any]:
        lines = "".join(f"{p}\0{s}\n" for p, s in zip(self.paths, self.sizes, strict=True))
        digest = hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()
        return {"name": self.name, "bytes": self.size, "fingerprint": digest}

    def changed(self) -> str:
        return str(max(self.times))


def find_units(source: str | Path | Sequence[str | Path]) -> list[Unit]:
    """The shards that `source` names, or the images of the folder that it is.

    A local folder that holds tar files is a folder of shards, any other one of images.
    """
    if isinstance(source, str | Path) and _is_image_folder(Path(source)):
        return list(_folder_units(Path(source)))
    shards = find_shards(source)
    names = file_names([shard.name for shard in shards], "Embed them into several stores")
    return [TarUnit(name, shard) for name, shard in zip(names, shards, strict=True)]


def images_of_folder(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """All images below a folder, by path in it; in no order. Links to folders are followed."""
    seen: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        status = (folder / inside).stat()
        if (status.st_dev, status.st_ino) in seen:  # a link that leads back up
            continue
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder / inside) as entries:
            for entry in entries:
                path = f"{inside}{entry.name}"
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    waiting.append(f"{path}/")
                elif entry.name.lower().endswith(FOLDER_ENDINGS) and entry.is_file():
                    yield path, entry.stat()


def _is_image_folder(folder: Path) -> bool:
    volume, path = volume_of(str(folder))
    if not folder.is_dir():
        return False
    listing = volume.listing(path)
    return listing is not None and not any(name.endswith(SUFFIX) for name in listing.files)


def _folder_units(folder: Path) -> Iterator[FolderUnit]:
    try:
        found = sorted(images_of_folder(folder), key=lambda image: image[0])
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from error
    if not found:
        raise InputError(
            f"{folder}: holds neither .tar files nor, in it or below it, images "
            f"({', '.join(FOLDER_ENDINGS)})"
        )
    bad = [path for path, _ in found if not path.isprintable() or not _is_utf8(path)]
    if bad:
        raise InputError.listing(
            f"{folder}: these names cannot be keys of a store; rename the files:",
            [ascii(path) for path in bad],
        )
    for number, start in enumerate(range(0, len(found), FOLDER_UNIT)):
        part = found[start : start + FOLDER_UNIT]
        yield FolderUnit(
            f"{number:05d}",
            folder,
            [path for path, _ in part],
            [status.st_size for _, status in part],
            [status.st_mtime_ns for _, status in part],
        )


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
