"""Which samples of which tar files a keep-list keeps.

A keep-list names rows of a store of embeddings. Where each shard of that store was made from one
tar file and bears its name, a sample is found by the name of its shard and its key. Where
one array covers many tar files (as in LAION), only keys are left to go by, and a keep-list that has
a key twice is refused, since nothing would tell the two samples apart.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipgap.errors import InputError
from clipgap.files.naming import split_path
from clipgap.keep.lists import KeepList, KeepShard, open_keep

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
            width = max(width, pc.max(pc.binary_length(keep.keys(shard))).as_py())
        if width > _WIDEST_KEY:
            raise InputError(
                f"{keep.path}: a key has {width:,} bytes; keys longer than {_WIDEST_KEY} bytes can "
                "only be found shard by shard"
            )
        table = np.empty(keep.kept, f"S{width}")
        done = 0
        for shard in shards:
            for chunk in keep.keys(shard).chunks:
                table[done : done + len(chunk)] = _as_bytes(chunk)
                done += len(chunk)
        table.sort()
        twice = np.flatnonzero(table[1:] == table[:-1])
        if len(twice):
            raise InputError(
                f"{keep.path}: {len(twice):,} keys are kept more than once, the first is "
                f"{table[twice[0]].decode()!r}. No tar file is called like a shard of the store "
                f"({keep.shards[0].name!r}, …), so keys alone would have to tell samples apart."
            )
        return cls(table)

    def __contains__(self, key: str) -> bool:
        wanted = key.encode()
        place = bisect_left(self.table, wanted)
        return place < len(self.table) and bool(self.table[place] == wanted)

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
    _sets: dict[int, frozenset[str]] = field(default_factory=dict, repr=False)
    _sorted: SortedKeys | None = field(default=None, repr=False)

    @classmethod
    def open(cls, keep: str | Path | KeepList, shard_urls: Sequence[str]) -> KeepSelector:
        """Match tar files with the shards of a keep-list: by name, or if no name fits, by key."""
        opened = open_keep(keep)
        if opened.kept and not opened.has_keys:
            raise InputError(
                f"{opened.path}: has no keys, so its rows cannot be found in tar files. Split a "
                "store that has keys: see docs/formats.md for where each format holds them."
            )
        matched = _match_names(opened, shard_urls)
        if matched is None:
            selector = cls(opened, {}, "key", opened.kept)
            selector.sorted_keys()  # refuses keys that cannot tell samples apart
            return selector
        return cls(opened, matched, "shard", sum(opened.shards[i].kept for i in matched.values()))

    def __call__(self, key: str, url: str) -> bool:
        """Whether the sample `key` of the tar file at `url` is kept."""
        if self.by == "key":
            return key in self.sorted_keys()
        shard = self.shard_of(url)
        if shard not in self._sets:
            # Samples come shard by shard, so only the last few are needed again.
            while len(self._sets) >= _REMEMBERED:
                del self._sets[next(iter(self._sets))]
            self._sets[shard] = frozenset(self.keep.keys(shard).to_pylist())
        return key in self._sets[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_sets": {}, "_sorted": None}

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


def _as_bytes(keys: pa.Array) -> NDArray[np.bytes_]:
    """Keys as fixed-width bytes, without a Python object each where all have the same length."""
    lengths = pc.binary_length(keys)
    low, high = pc.min(lengths).as_py(), pc.max(lengths).as_py()
    if low == high and low:
        text = np.frombuffer(keys.buffers()[2], np.uint8)
        first = np.frombuffer(keys.buffers()[1], np.int32)[keys.offset]
        return text[first : first + low * len(keys)].view(f"S{low}")
    return np.array([key.encode() for key in keys.to_pylist()], np.bytes_)
