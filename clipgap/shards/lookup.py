"""What of a keep-list some shards hold, known before anything is made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from clipgap.files.volumes import File
from clipgap.shards.choosing import Rows, chooser_for
from clipgap.shards.finding import TarShard
from clipgap.shards.index import index_shard
from clipgap.shards.matching import KeepSelector
from clipgap.shards.names import keys_listed
from clipgap.shards.options import KEY

_SHOWN = 5


@dataclass(frozen=True)
class Found:
    """What of a keep-list a shard holds."""

    kept: int
    missing: list[str]  # by shard: keys that should be kept and are not there
    places: Rows  # by key: where in the sorted keys each kept sample stands


def _where_it_lies(shard: TarShard) -> AbstractContextManager[File]:
    return nullcontext(shard.file)


def find_kept(
    selector: KeepSelector,
    shard: TarShard,
    at_hand: Callable[[TarShard], AbstractContextManager[File]] = _where_it_lies,
) -> Found:
    """Look for what is kept, in the table beside the shard if that can be trusted.

    Where it lists less than it should, and where there is none, the shard itself is asked, which
    `at_hand` may bring nearer.
    """
    if (listed := keys_listed(shard)) is not None:
        choice = chooser_for(selector, shard, shard.file).choose(listed)
        if not choice.missing:
            return Found(int(choice.kept.sum()), [], choice.places)
    with at_hand(shard) as file:
        index = index_shard(shard, file, chooser_for(selector, shard, file), {})
    return Found(len(index.keys), index.missing, index.places)


@dataclass(frozen=True)
class Findings:
    """What all shards together hold."""

    kept: list[int]  # by each of them
    missing: int  # kept samples that none of them holds
    shown: list[str]  # some of those
    twice: list[str]  # by key: names that several samples have

    @classmethod
    def of(cls, selector: KeepSelector, found: Iterable[Found]) -> Findings:
        """Add up what was found in shards, each of which was looked into."""
        kept: list[int] = []
        shown: list[str] = []
        missing = 0
        seen = np.zeros(selector.kept if selector.by == "key" else 0, np.uint8)
        for each in found:
            kept.append(each.kept)
            missing += len(each.missing)
            shown += each.missing[: _SHOWN - len(shown)]
            places, times = np.unique(each.places, return_counts=True)
            seen[places] = np.minimum(seen[places] + times, 2)
        if selector.by == "shard":
            return cls(kept, missing, shown, [])
        table = selector.sorted_keys().table
        lost = np.flatnonzero(seen == 0)
        shown = [table[place].decode() for place in lost[:_SHOWN]]
        twice = [table[place].decode() for place in np.flatnonzero(seen > 1)]
        return cls(kept, len(lost), shown, twice)

    def lacking(self, selector: KeepSelector) -> str:
        """What is missing, as a sentence."""
        shown = ", ".join(map(repr, self.shown))
        how = "" if selector.match == KEY else f", matched by {selector.match!r},"
        if selector.by == "shard":
            where = "in none of the shards that they should be in"
        else:
            where = "in none of the shards"
        return f"{self.missing:,} of its samples{how} are {where}, among them {shown}"
