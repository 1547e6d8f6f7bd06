"""Where in a shard the kept samples lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from clipgap.shards.archive import Piece, joined
from clipgap.shards.captions import captioned
from clipgap.shards.choosing import Choice, Chooser, Rows
from clipgap.shards.finding import TarShard
from clipgap.shards.groups import check_count, groups
from clipgap.shards.layout import plain_layout
from clipgap.shards.problems import Problem
from clipgap.shards.tar import Member, TarReader
from clipgap.store.files import File

_SHOWN = 5


class KeptSample(NamedTuple):
    """A sample to copy."""

    key: str
    pieces: list[Piece]


@dataclass(frozen=True)
class ShardIndex:
    """What a shard holds."""

    samples: int  # kept or not
    kept: list[KeptSample]
    places: Rows  # see Choice
    missing: list[str]  # keys that the keep-list has and a shard without damage has not
    problems: list[Problem]


def index_shard(
    shard: TarShard, file: File, chooser: Chooser, captions: Mapping[str, str]
) -> ShardIndex:
    """Read all headers of a shard; `file` is where its bytes are now."""
    layout = None if captions else plain_layout(file)
    if layout is None:
        return _index_strictly(shard, file, chooser, captions)
    problems: list[Problem] = []
    check_count(shard, len(layout.keys), problems.append)
    choice = chooser.choose(layout.keys)
    rows = np.flatnonzero(choice.kept)
    starts, stops = layout.starts[rows].tolist(), layout.stops[rows].tolist()
    kept = [
        KeptSample(layout.keys[row], [(start, stop)])
        for row, start, stop in zip(rows.tolist(), starts, stops, strict=True)
    ]
    return _judged(shard, len(layout.keys), kept, choice, problems)


def _index_strictly(
    shard: TarShard, file: File, chooser: Chooser, captions: Mapping[str, str]
) -> ShardIndex:
    """As `index_shard`, one member after the other."""
    problems: list[Problem] = []
    reader = TarReader(file)
    found = list(groups(shard, reader, problems.append, _take_nothing))
    choice = chooser.choose([group.key for group in found])
    kept = []
    headers: list[Member] = []  # global ones: they hold for all that follows
    for group, keep in zip(found, choice.kept, strict=True):
        headers += group.headers
        if keep:
            if (caption := captions.get(group.key)) is None:
                pieces: list[Piece] = [(member.start, member.stop) for member in group.members]
            else:
                pieces = captioned(reader, group, caption)
            before = [(member.start, member.stop) for member in headers]
            kept.append(KeptSample(group.key, list(joined([*before, *pieces]))))
            headers = []
    return _judged(shard, len(found), kept, choice, problems)


def _judged(
    shard: TarShard,
    samples: int,
    kept: list[KeptSample],
    choice: Choice,
    problems: list[Problem],
) -> ShardIndex:
    """What is not there is the fault of a damaged shard, or else of the keep-list."""
    for key in choice.ambiguous:
        reason = "several samples have this key and only some are kept; none is copied"
        problems.append(Problem(shard.path, "sample", key, reason))
    if not choice.missing or not any(problem.what == "shard" for problem in problems):
        return ShardIndex(samples, kept, choice.places, choice.missing, problems)
    keys = ", ".join(map(repr, choice.missing[:_SHOWN]))
    reason = f"lacks {len(choice.missing):,} of the kept samples, among them {keys}"
    problems.append(Problem(shard.path, "shard", "", reason))
    return ShardIndex(samples, kept, choice.places, [], problems)


def _take_nothing(extension: str, member: Member) -> None:
    return None
