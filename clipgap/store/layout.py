"""What a format is, what a name leads to, and what formats share in reading names.

Only names are looked at here. A problem does not stop the search: it is noted, so that the user
hears of all of them at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from clipgap.files.naming import (
    Chosen,
    Options,
    gaps,
    join_path,
    natural,
    show_runs,
    split_number,
    split_path,
    stem_of,
    suffix_of,
)
from clipgap.files.volumes import File, Listing, Volume
from clipgap.store.keys import KeySource
from clipgap.store.provenance import Model
from clipgap.store.rows import Resting, RowSource


class Format(Protocol):
    """A format of stores: a module of this package, listed in `opening.FORMATS`."""

    @property
    def KNOWN(self) -> str:  # noqa: N802
        """What its files are called, for those who look for what is wrong."""
        ...

    def recognise(self, place: Place) -> list[Layout]:
        """The ways in which what lies at a place is a store of this format; usually none or one."""
        ...

    def open_rows(self, piece: Piece, resting: Resting) -> RowSource:
        """The rows of a shard, after a look at its header."""
        ...

    def open_keys(self, file: File, piece: Piece, resting: Resting) -> KeySource:
        """The keys of a shard that has a file of keys, after a look at its footer or size."""
        ...


@dataclass(frozen=True)
class Place:
    """What a part of a store's name leads to: a folder, or files that it names one by one."""

    volume: Volume
    path: str
    options: Options
    how: Chosen
    files: list[File]  # none in a folder
    listing: Listing | None  # of a folder
    problems: list[str] = field(default_factory=list)  # with the names of files

    def with_suffix(self, suffix: str) -> list[File]:
        """Those of a folder, in order; or the named files, if all of them are such."""
        if self.listing is not None:
            return with_suffix(self.listing.files, suffix)
        return list(self.files) if all(suffix_of(f.path) == suffix for f in self.files) else []

    def beside(self, folder: str) -> Listing | None:
        """What lies in the folder of a file, or in one near it."""
        return self.volume.listing(folder or ".")


@dataclass(frozen=True)
class Promise:
    """What a catalogue says of a shard."""

    rows: int
    dim: int
    rows_sum: str | None  # stores written by an earlier clipgap have none
    embeddings_sha256: str
    keys_sha256: str | None


@dataclass(frozen=True)
class Piece:
    """The files of one shard."""

    file: File
    keys: File | None = None
    promise: Promise | None = None
    options: Options = field(default_factory=Options)

    @property
    def stem(self) -> str:
        return stem_of(self.file.path)


@dataclass
class Layout:
    """One part of a store: its format, its shards in order, and what is wrong with their names."""

    format: str
    seen: str  # by what it was recognised
    pieces: list[Piece]
    problems: list[str] = field(default_factory=list)
    sure: bool = False  # whatever else lies there, it is this
    model: Model | None = None  # that made the rows; None: unknown


def order(
    files: list[File],
    *,
    from_zero: bool,
    empty: Collection[int] = frozenset(),
    gaps: bool = False,
) -> list[str]:
    """Sort files by number, in place; name the numbers that are missing or there twice.

    Numbers that are known to be `empty` are not missed, and with `gaps` none is.

    Files of one folder are a sequence if all have the same prefix before their number. Where no
    two share one, they are only sorted, since nothing tells what would be missing. A single
    img_emb_N.npy is a sequence by its name.
    """
    files.sort(key=lambda file: natural(file.path))
    folders: dict[str, list[File]] = {}
    for file in files:
        folders.setdefault(split_path(file.path)[0], []).append(file)
    return [
        problem
        for folder, members in folders.items()
        for problem in _sequence_problems(folder, members, from_zero, None if gaps else empty)
    ]


def _sequence_problems(
    folder: str, files: list[File], from_zero: bool, empty: Collection[int] | None
) -> list[str]:
    suffix = suffix_of(files[0].path)
    splits = [split_number(Piece(file).stem) for file in files]
    numbered = [split for split in splits if split]
    prefixes = Counter(prefix for prefix, _ in numbered)
    prefix, members = prefixes.most_common(1)[0] if prefixes else ("", 0)
    if members < 2 and not all(map(is_image_shard, files)):
        return []
    if members < len(files):
        other = next(
            file
            for file, split in zip(files, splits, strict=True)
            if not split or split[0] != prefix
        )
        return [
            f"{folder}: holds {prefix}N{suffix} and also {split_path(other.path)[1]}; "
            f"name what is meant, for example '{join_path(folder, prefix)}*{suffix}'"
        ]
    counts = Counter(number for _, number in numbered)
    pattern = join_path(folder, f"{prefix}N{suffix}")
    problems = [f"{pattern}: number {n} is there twice" for n, count in counts.items() if count > 1]
    first = 0 if from_zero else min(counts)
    if empty is None:
        return problems
    if missing := gaps(sorted({*counts, *empty}), first):
        problems.append(
            f"{pattern}: of the numbers {first:,} to {max(counts):,} these are missing: "
            f"{show_runs(missing)}. To use only what is there, allow it (--allow-missing, or "
            "PATH?missing=allow), or name the files with braces or '::'."
        )
    return problems


def with_suffix(files: Mapping[str, File], suffix: str) -> list[File]:
    return [
        files[name]
        for name in sorted(files, key=natural)
        if name.endswith(suffix) and not name.startswith(".")
    ]


def is_image_shard(file: File) -> bool:
    split = split_number(Piece(file).stem)
    return split is not None and split[0] == "img_emb_" and suffix_of(file.path) == ".npy"


def number_of(file: File) -> int:
    split = split_number(Piece(file).stem)
    assert split is not None, "only called on names that end in a number"
    return split[1]
