"""What is embedded: tar shards, tables or a folder of images, in units of one store shard each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from clipgap.clip.images.reading import (
    CAPTION,
    FOLDER_ENDINGS,
    RawImage,
    find_images,
    is_image_folder,
    shard_images,
)
from clipgap.clip.images.tables import ImageTable, find_tables
from clipgap.errors import InputError, UsageError
from clipgap.files.identity import digest_of, digest_of_group, mark_of
from clipgap.files.volumes import FILE_THREADS, File, LocalFile
from clipgap.shards.finding import TarShard, find_shards
from clipgap.shards.groups import promised
from clipgap.shards.names import JSON, has_field, name_of, names_listed
from clipgap.shards.options import KEY
from clipgap.shards.plan import file_names
from clipgap.shards.problems import OnProblem, Problem

FOLDER_UNIT = 8_192
"""Images of a folder that make a shard: what a killed run does again at most."""


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
    def file(self) -> File:
        """The shard, or the images of the folder as if they were one file."""
        ...

    @property
    def size(self) -> int:
        """Bytes."""
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

    @property
    def count(self) -> int | None:
        """How many images it should have, if that stands somewhere."""
        ...

    @property
    def may_have_captions(self) -> bool:
        """Whether something beside the images can be their captions."""
        ...


@dataclass(frozen=True)
class TarUnit:
    """A webdataset shard."""

    name: str
    shard: TarShard
    match: str = KEY  # what its rows get as keys: those of the samples, or a field of theirs

    @property
    def source(self) -> str:
        return self.shard.path

    @property
    def file(self) -> File:
        return self.shard.file

    @property
    def size(self) -> int:
        return self.file.size

    def images(self, captions: bool, on_problem: OnProblem) -> Iterator[RawImage]:
        beside = (CAPTION,) if captions else ()
        if self.match == KEY:
            return (image for _, image in shard_images(self.shard, beside, on_problem))
        return self._named(beside, on_problem)

    def _named(self, beside: Sequence[str], on_problem: OnProblem) -> Iterator[RawImage]:
        """The images under the names that a field gives them."""
        table, field = self.shard.parquet, self.match
        listed = None if table is None else names_listed(table, field)
        for sample, image in shard_images(self.shard, (*beside, JSON), on_problem):
            told = sample.contents.get(JSON)
            name = name_of(told, field) if listed is None else listed.get(image.key)
            if name is None:
                reason = f"nothing says its {field}, or not one thing"
                on_problem(Problem(self.source, "sample", image.key, reason))
            else:
                yield replace(image, key=name)

    def describe(self) -> dict[str, Any]:
        digest = digest_of(self.file)
        said = {"name": self.name, "bytes": self.file.size, "fingerprint": digest}
        if self.match != KEY and self.shard.parquet is not None:
            said["table"] = digest_of(self.shard.parquet)
        return said

    def changed(self) -> str:
        if self.match == KEY or self.shard.parquet is None:
            return self.file.modified
        return mark_of([self.file, self.shard.parquet])

    @property
    def count(self) -> int | None:
        if self.shard.stats is None:
            return None
        try:
            return promised(self.shard.stats)
        except ValueError:  # told of when the shard is read
            return None

    @property
    def may_have_captions(self) -> bool:
        return True


@dataclass(frozen=True)
class TableUnit:
    """A table with images in its rows."""

    name: str
    table: ImageTable
    match: str = KEY

    @property
    def source(self) -> str:
        return self.table.path

    @property
    def file(self) -> File:
        return self.table.file

    @property
    def size(self) -> int:
        return self.file.size

    def images(self, captions: bool, on_problem: OnProblem) -> Iterator[RawImage]:
        return self.table.images(on_problem, self.match)

    def describe(self) -> dict[str, Any]:
        return self.table.describe()

    def changed(self) -> str:
        return self.file.modified

    @property
    def count(self) -> int:
        return self.table.rows

    @property
    def may_have_captions(self) -> bool:
        return self.table.caption is not None


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
    def file(self) -> File:
        return LocalFile(self.source, self.size, str(max(self.times)))

    @property
    def size(self) -> int:
        return sum(self.sizes)

    def images(self, captions: bool, on_problem: OnProblem) -> Iterator[RawImage]:
        for path, size in zip(self.paths, self.sizes, strict=True):
            yield RawImage.of_file(self.folder, path, size)

    def describe(self) -> dict[str, Any]:
        digest = digest_of_group(list(zip(self.paths, self._files(), strict=True)))
        return {"name": self.name, "bytes": self.file.size, "fingerprint": digest}

    def changed(self) -> str:
        return mark_of(self._files())

    @property
    def count(self) -> int:
        return len(self.paths)

    @property
    def may_have_captions(self) -> bool:
        return False

    def _files(self) -> Iterator[LocalFile]:
        for path, size, time in zip(self.paths, self.sizes, self.times, strict=True):
            yield LocalFile(str(self.folder / path), size, str(time))


def find_units(source: str | Path | Sequence[str | Path], match: str = KEY) -> list[Unit]:
    """The shards or tables that `source` names, or the images of the folder that it is."""
    tables = find_tables(source)
    if not tables and isinstance(source, str | Path) and is_image_folder(source):
        if match != KEY:
            raise UsageError(f"{source}: a folder of images has no fields; leave --match out")
        return list(_folder_units(Path(source)))
    shards = [] if tables else find_shards(source)
    if match != KEY:
        _require_field(shards, tables, match)
    parts: list[TarShard | ImageTable] = [*shards, *tables]
    names = file_names([part.name for part in parts], "Embed them into several stores")
    return [
        TarUnit(name, part, match) if isinstance(part, TarShard) else TableUnit(name, part, match)
        for name, part in zip(names, parts, strict=True)
    ]


def _require_field(shards: Sequence[TarShard], tables: Sequence[ImageTable], field: str) -> None:
    if lacking := [table.path for table in tables if field not in table.fields]:
        raise InputError.listing(
            f"--match {field}: these tables have no such column of text or whole numbers:", lacking
        )
    with ThreadPoolExecutor(FILE_THREADS) as pool:
        have = list(pool.map(lambda shard: has_field(shard, field), shards))
    if not all(have):
        raise InputError.listing(
            f"--match {field}: neither the parquet beside these shards nor a .json in them has it, "
            "so nothing says what their rows are called:",
            [shard.path for shard, has in zip(shards, have, strict=True) if not has],
        )


def _folder_units(folder: Path) -> Iterator[FolderUnit]:
    found = find_images(folder)
    if not found:
        raise InputError(
            f"{folder}: holds neither .tar files nor tables with a column of images nor, in it or "
            f"below it, images ({', '.join(FOLDER_ENDINGS)})"
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
