"""Which samples of which tar files a keep-list keeps.

A keep-list names rows of a store of embeddings. Where each shard of that store was made from one
tar file and bears its name, a sample is found by the name of its shard and its key. Where
one array covers many tar files (as in LAION), only keys are left to go by, and a keep-list that has
a key twice is refused, since nothing would tell the two samples apart. So it is, whatever tar files
are called, where the list calls samples by a field (as in DataComp, by their `uid`).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipgap.errors import InputError, MissingDependency
from clipgap.files.naming import split_path
from clipgap.files.volumes import File
from clipgap.keep.lists import KeepList, KeepShard, open_keep
from clipgap.shards.finding import SUFFIX, TarShard, find_shards
from clipgap.shards.names import (
    JSON,
    Names,
    fields_that_find,
    keys_in,
    name_of,
    names_listed,
)
from clipgap.shards.options import AUTO, KEY

By = Literal["shard", "key"]

_WIDEST_KEY = 256
_TAR = re.compile(r"[^\s'\"]+\.tar\b")
_REMEMBERED = 4


@dataclass(frozen=True)
class SortedKeys:
    """All keys of a keep-list in one sorted array: about the size of the text, and exact."""

    table: NDArray[np.bytes_]

    @classmethod
    def of(cls, keep: KeepList) -> SortedKeys:
        shards = [shard.index for shard in keep.shards if shard.kept]
        width = 1
        for shard in shards:
            width = max(width, pc.max(pc.binary_length(_keys_of(keep, shard))).as_py())
        if width > _WIDEST_KEY:
            raise InputError(
                f"{keep.path}: a key has {width:,} bytes; keys longer than {_WIDEST_KEY} bytes can "
                "only be found shard by shard"
            )
        table = np.empty(keep.kept, f"S{width}")
        done = 0
        for shard in shards:
            for chunk in _keys_of(keep, shard).chunks:
                table[done : done + len(chunk)] = _as_bytes(chunk)
                done += len(chunk)
        table.sort()
        twice = np.flatnonzero(table[1:] == table[:-1])
        if len(twice):
            raise InputError(
                f"{keep.path}: {len(twice):,} keys are kept more than once, the first is "
                f"{table[twice[0]].decode()!r}. No tar file is called like a shard of the store "
                f"({keep.shards[0].name!r}, …), or samples are matched by a field, so keys alone "
                "would have to tell samples apart."
            )
        return cls(table)

    def __contains__(self, key: str) -> bool:
        wanted = key.encode()
        place = bisect_left(self.table, wanted)
        return place < len(self.table) and bool(self.table[place] == wanted)

    def count(self, keys: Sequence[str]) -> int:
        """How many of these are in the table."""
        return int(np.count_nonzero(self.places([key.encode() for key in keys]) >= 0))

    def places(self, keys: Sequence[bytes]) -> NDArray[np.int64]:
        """The place of each key in the table, -1 where it is not in it."""
        width = self.table.dtype.itemsize
        wanted = np.array([key if len(key) <= width else b"" for key in keys], f"S{width}")
        found = np.searchsorted(self.table, wanted)
        found[found == len(self.table)] = 0
        right = self.table[found] == wanted if len(self.table) else np.zeros(len(keys), np.bool_)
        return np.where(right & (wanted != b""), found, -1)


@dataclass(eq=False)
class KeepSelector:
    """Says whether a sample is kept; made for tar files that it was told of.

    It is small when pickled: each process reads the keys that it needs.
    """

    keep: KeepList
    shards: dict[str, int]  # of the keep-list, by path or URL of the tar file; empty if by key
    by: By
    kept: int  # samples of those tar files that are kept
    match: str = KEY  # what the keep-list's keys are: keys of samples, or a field of theirs
    tables: Mapping[str, File] = field(default_factory=dict, repr=False)  # beside the tar files
    _sets: dict[int, frozenset[str]] = field(default_factory=dict, repr=False)
    _names: dict[str, Names | None] = field(default_factory=dict, repr=False)
    _sorted: SortedKeys | None = field(default=None, repr=False)

    @classmethod
    def open(
        cls,
        keep: str | Path | KeepList,
        shards: Sequence[str] | Sequence[TarShard],
        match: str = AUTO,
    ) -> KeepSelector:
        """Match tar files with the shards of a keep-list: by name, or if no name fits, by key.

        `match` names the field by which the keep-list calls samples, if not by their keys; it is a
        column of the table beside a tar file or an entry of each sample's .json. "auto" looks
        into shards until samples are found, one way or another. Where it cannot, since a URL is a
        command, has more behind the name or leads to nothing here, it takes keys.
        """
        opened = open_keep(keep)
        if opened.kept and not opened.has_keys:
            raise InputError(
                f"{opened.path}: has no keys, so its rows cannot be found in tar files. Split a "
                "store that has keys: see docs/formats.md for where each format holds them."
            )
        urls = [shard if isinstance(shard, str) else shard.path for shard in shards]
        found = {} if match == KEY or not opened.kept else _found(shards, urls)
        every: SortedKeys | None = None
        if match == AUTO:
            match, every = _plain_match(opened, found)
        tables = {url: shard.parquet for url, shard in found.items() if shard.parquet}
        matched = _match_names(opened, urls) if match == KEY else None
        if matched is None:
            tables = {} if match == KEY else tables
            selector = cls(opened, {}, "key", opened.kept, match, tables, _sorted=every)
            selector.sorted_keys()  # refuses keys that cannot tell samples apart
            return selector
        return cls(opened, matched, "shard", sum(opened.shards[i].kept for i in matched.values()))

    def __call__(self, key: str, url: str, contents: Mapping[str, Any] | None = None) -> bool:
        """Whether the sample `key` of the tar file at `url` is kept.

        `contents` by extension are asked where a field is matched that no table has.
        """
        if self.match != KEY:
            name = self._name(key, url, contents or {})
            return name is not None and name in self.sorted_keys()
        if self.by == "key":
            return key in self.sorted_keys()
        shard = self.shard_of(url)
        if shard not in self._sets:
            _forget(self._sets)
            self._sets[shard] = frozenset(_keys_of(self.keep, shard).to_pylist())
        return key in self._sets[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sets": {}, "_names": {}, "_sorted": None}

    def _name(self, key: str, url: str, contents: Mapping[str, Any]) -> str | None:
        if url not in self._names:
            _forget(self._names)
            table = self.tables.get(url)
            self._names[url] = None if table is None else names_listed(table, self.match)
        names = self._names[url]
        return name_of(contents.get(JSON), self.match) if names is None else names.get(key)

    def shard_of(self, url: str) -> int:
        """The shard of the keep-list that a tar file belongs to."""
        try:
            return self.shards[url]
        except KeyError:
            raise InputError(
                f"{url}: not one of the {len(self.shards):,} tar files that {self.keep.path} was "
                "opened for"
            ) from None

    def sorted_keys(self) -> SortedKeys:
        """All kept keys, for matching by key."""
        if self._sorted is None:
            self._sorted = SortedKeys.of(self.keep)
        return self._sorted


def _forget(remembered: dict[Any, Any]) -> None:
    """Samples come shard by shard, so only the last few are needed again."""
    while len(remembered) >= _REMEMBERED:
        del remembered[next(iter(remembered))]


def _found(shards: Sequence[str] | Sequence[TarShard], urls: Sequence[str]) -> dict[str, TarShard]:
    """The tar files themselves, with what lies beside them; none if a name is more than a name."""
    if not all(isinstance(shard, str) for shard in shards):
        return {shard.path: shard for shard in shards if isinstance(shard, TarShard)}
    if not all(url.endswith(SUFFIX) for url in urls):
        return {}
    try:
        found = find_shards(urls)
    except (InputError, MissingDependency):  # they may be where only workers get
        return {}
    return dict(zip(urls, found, strict=True)) if len(found) == len(urls) else {}


def _plain_match(keep: KeepList, shards: Mapping[str, TarShard]) -> tuple[str, SortedKeys | None]:
    """What finds samples of the keep-list in the first shard where anything does, or else keys.

    All kept keys come along where they were needed for that.
    """
    try:
        matched = _match_names(keep, list(shards))
    except InputError:
        matched = None  # names that fit in part are refused, unless a field finds samples
    every: SortedKeys | None = None

    for url, shard in shards.items():
        if matched is not None:
            kept = frozenset(_keys_of(keep, matched[url]).to_pylist())
            if not kept:
                continue
            if not kept.isdisjoint(keys_in(shard)):
                return KEY, None
        try:
            every = every or SortedKeys.of(keep)
        except InputError:  # no field can tell samples apart; shards may
            return KEY, None
        found = fields_that_find(shard, every.count)
        if found[KEY]:
            return KEY, every
        if len(found) > 1:
            raise InputError(
                f"{shard.path}: samples of {keep.path} are found in it by several fields, "
                f"{', '.join(sorted(found))}. Say which is meant: --match {min(found)}"
            )
        if found:
            return next(iter(found)), every
    return KEY, every


def _match_names(keep: KeepList, urls: Sequence[str]) -> dict[str, int] | None:
    """The shard of each tar file; None if not a single name fits."""
    by_stem: dict[str, list[KeepShard]] = {}
    for shard in keep.shards:
        by_stem.setdefault(split_path(shard.name)[1], []).append(shard)
    found: dict[str, int] = {}
    strangers = []
    for url in urls:
        path = "/" + _path_without_suffix(url)
        fitting = [s for s in by_stem.get(split_path(path)[1], []) if path.endswith("/" + s.name)]
        if fitting:
            found[url] = max(fitting, key=lambda shard: len(shard.name)).index
        else:
            strangers.append(url)
    if not found:
        return None
    counts = Counter(found.values())
    problems = [f"{url}: the keep-list has no shard of that name" for url in strangers] + [
        f"{url}: one of {counts[index]:,} files for shard {keep.shards[index].name!r}"
        for url, index in found.items()
        if counts[index] > 1
    ]
    if problems:
        made_from = keep.manifest["store"]["path"]
        raise InputError.listing(
            f"{keep.path}, a keep-list of {made_from}, does not fit these shards:", problems
        )
    return found


def _path_without_suffix(url: str) -> str:
    """The path of a tar file, also where a URL has a query or stands in a `pipe:` command."""
    if not url.endswith(".tar"):
        found = _TAR.findall(url)
        url = found[-1] if found else url
    return url.removesuffix(".tar")


def _keys_of(keep: KeepList, shard: int) -> pa.ChunkedArray:
    """The keys of the kept rows of a shard, all of which must have one."""
    keys = keep.keys(shard)
    if keys.null_count:
        raise InputError(
            f"{keep.path}: {keys.null_count:,} of the rows kept of {keep.shards[shard].name!r} "
            "have no key, so they cannot be found in tar files. Give the store keys, or split "
            "without these rows."
        )
    return keys


def _as_bytes(keys: pa.Array) -> NDArray[np.bytes_]:
    """Keys as fixed-width bytes, without a Python object each where all have the same length."""
    lengths = pc.binary_length(keys)
    low, high = pc.min(lengths).as_py(), pc.max(lengths).as_py()
    if low == high and low:
        text = np.frombuffer(keys.buffers()[2], np.uint8)
        first = np.frombuffer(keys.buffers()[1], np.int32)[keys.offset]
        return text[first : first + low * len(keys)].view(f"S{low}")
    return np.array([key.encode() for key in keys.to_pylist()], np.bytes_)
