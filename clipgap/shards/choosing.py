"""Which of the samples found in one shard are kept, and what of the keep-list was not found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from clipgap.files.volumes import File
from clipgap.shards.finding import TarShard
from clipgap.shards.matching import KeepSelector, SortedKeys
from clipgap.shards.names import Names, names_in
from clipgap.shards.options import KEY

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Choice:
    """The decision about the samples of one shard."""

    kept: NDArray[np.bool_]  # one a sample, in order
    missing: list[str]  # keys that should be kept and are not there
    ambiguous: list[str]  # keys of several samples of which not all are kept, nobody knows which
    places: Rows  # by key: where in the sorted keys each kept sample stands


class Chooser(Protocol):
    """What a keep-list says about one shard."""

    def choose(self, keys: Sequence[str]) -> Choice:
        """Decide about samples with these keys, all that the shard has, in order."""
        ...

    def guess(self, keys: Sequence[bytes]) -> NDArray[np.bool_]:
        """Which keys are likely to be kept, without knowledge of the others in the shard."""
        ...


@dataclass(frozen=True)
class ByShard:
    """The kept rows of the shard of the store that belongs to a tar file."""

    rows: int  # kept or not
    kept_rows: Rows
    kept_keys: list[str]

    def choose(self, keys: Sequence[str]) -> Choice:
        present, once = frozenset(keys), frozenset(self.kept_keys)
        if len(present) == len(keys) and len(once) == len(self.kept_keys):
            kept = np.fromiter((key in once for key in keys), np.bool_, len(keys))
            missing = [key for key in self.kept_keys if key not in present]
            return Choice(kept, missing, [], np.zeros(0, np.int64))
        return self._choose_among_namesakes(keys)

    def guess(self, keys: Sequence[bytes]) -> NDArray[np.bool_]:
        return np.fromiter((key in self._encoded for key in keys), np.bool_, len(keys))

    @cached_property
    def _encoded(self) -> frozenset[bytes]:
        return frozenset(key.encode() for key in self.kept_keys)

    def _choose_among_namesakes(self, keys: Sequence[str]) -> Choice:
        wanted = Counter(self.kept_keys)
        found = Counter(key for key in keys if key in wanted)
        missing = list((wanted - found).elements())
        unclear = {key for key, count in found.items() if count > wanted[key]}
        if unclear and self._is_aligned(keys):
            kept = np.zeros(len(keys), np.bool_)
            kept[self.kept_rows] = True
            return Choice(kept, missing, [], np.zeros(0, np.int64))
        chosen = (key in wanted and key not in unclear for key in keys)
        kept = np.fromiter(chosen, np.bool_, len(keys))
        return Choice(kept, missing, sorted(unclear), np.zeros(0, np.int64))

    def _is_aligned(self, keys: Sequence[str]) -> bool:
        """Whether the n-th sample is the n-th row, as far as anyone can tell."""
        return len(keys) == self.rows and self.kept_keys == [keys[row] for row in self.kept_rows]


@dataclass(frozen=True)
class ByKey:
    """All kept keys of the store; what is missing can only be said when all shards are done."""

    table: SortedKeys

    def choose(self, keys: Sequence[str]) -> Choice:
        places = self.table.places([key.encode() for key in keys])
        kept = places >= 0
        return Choice(kept, [], [], places[kept])

    def guess(self, keys: Sequence[bytes]) -> NDArray[np.bool_]:
        return self.table.places(keys) >= 0


@dataclass(frozen=True)
class ByName:
    """Samples are known by other names than their keys; one without a name is not kept."""

    names: Names
    chooser: ByKey

    def choose(self, keys: Sequence[str]) -> Choice:
        return self.chooser.choose([self.names.get(key, "") for key in keys])

    def guess(self, keys: Sequence[bytes]) -> NDArray[np.bool_]:
        names = [self.names.get(key.decode(errors="replace"), "") for key in keys]
        return self.chooser.guess([name.encode() for name in names])


def chooser_for(selector: KeepSelector, shard: TarShard, file: File) -> Chooser:
    """What is to be kept of a tar file, whose content is at hand as `file`."""
    if selector.match != KEY:
        names = names_in(replace(shard, file=file), selector.match)
        return ByName(names, ByKey(selector.sorted_keys()))
    if selector.by == "key":
        return ByKey(selector.sorted_keys())
    index = selector.shard_of(shard.path)
    table = selector.keep.table(index)
    rows = table["row"].to_numpy()
    return ByShard(selector.keep.shards[index].rows, rows, table["key"].to_pylist())
