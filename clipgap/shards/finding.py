"""Which tar files a name means, in which order, and what lies beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clipgap.errors import InputError, UsageError
from clipgap.files.naming import find_files, natural, split_parts, split_path, unique_names
from clipgap.files.volumes import File, Volume, volume_of

SUFFIX = ".tar"


@dataclass(frozen=True)
class TarShard:
    """One tar file and what img2dataset puts beside it."""

    index: int
    name: str  # its stem, with as much of its folder in front as makes it unique
    file: File
    stats: File | None = None  # NAME_stats.json
    parquet: File | None = None  # NAME.parquet

    @property
    def path(self) -> str:
        return self.file.path


def find_shards(source: str | Path | Sequence[str | Path]) -> list[TarShard]:
    """The tar files that `source` names: files, folders, braces, globs, URLs, joined by `::`.

    Files of a folder or a glob come in the order of their numbers.
    """
    names = [source] if isinstance(source, str | Path) else source
    parts = [part for name in names for part in split_parts(str(name))]
    files: list[File] = []
    beside: dict[str, Mapping[str, File]] = {}
    problems: list[str] = []
    for part in parts:
        if part.startswith("pipe:"):
            raise UsageError(f"{part}: commands are not run; name files or URLs instead")
        volume, path = volume_of(part)
        for item in _tars(volume, path, beside):
            if isinstance(item, str):
                problems.append(item)
            else:
                files.append(item)
    problems += [
        f"{path}: named {count:,} times"
        for path, count in Counter(file.path for file in files).items()
        if count > 1
    ]
    problems += [
        f"{file.path}: expected a .tar file" for file in files if not file.path.endswith(SUFFIX)
    ]
    if problems:
        raise InputError.listing(f"{len(problems):,} problems with the names of shards:", problems)
    if not files:
        raise InputError(f"{source!s:.200}: holds no .tar files")
    return list(_with_companions(files, beside))


def is_shard(name: str) -> bool:
    """Whether a file of this name in a folder is a shard of it."""
    return name.endswith(SUFFIX) and not name.startswith(".")


def _tars(volume: Volume, path: str, beside: dict[str, Mapping[str, File]]) -> Iterator[File | str]:
    """The files of one part, and what is wrong with it; notes the listings of their folders."""
    found = find_files(volume, path)
    if found is None:
        listing = volume.listing(path)
        if listing is None:
            raise InputError(f"{path}: there is no such file or folder")
        tars = filter(is_shard, listing.files)
        files = [listing.files[name] for name in sorted(tars, key=natural)]
    else:
        files = found.files
        yield from found.problems
    yield from files
    for folder in {split_path(file.address)[0] for file in files} - beside.keys():
        listing = volume.listing(folder or ".")
        beside[folder] = listing.files if listing else {}


def _with_companions(
    files: Sequence[File], beside: Mapping[str, Mapping[str, File]]
) -> Iterator[TarShard]:
    names = unique_names([file.path for file in files])
    for index, (file, name) in enumerate(zip(files, names, strict=True)):
        folder, last = split_path(file.address)
        stem = last.removesuffix(SUFFIX)
        companions = beside[folder]
        yield TarShard(
            index,
            name,
            file,
            companions.get(f"{stem}_stats.json"),
            companions.get(f"{stem}.parquet"),
        )
