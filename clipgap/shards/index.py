"""Where in a shard the kept samples lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from clipgap.shards.archive import Piece, joined
from clipgap.shards.captions import captioned
from clipgap.shards.choosing import Chooser, Rows
from clipgap.shards.finding import TarShard
from clipgap.shards.groups import groups
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
    problems: list[Problem] = []
    reader = TarReader(file)
    found = list(groups(shard, reader, problems.append, _take_nothing))
    damaged = any(problem.what == "shard" for problem in problems)
    choice = chooser.choose([group.key for group in found])
    for key in choice.ambiguous:
        reason = "several samples have this key and only some are kept; none is copied"
        problems.append(Problem(shard.path, "sample", key, reason))
    if damaged and choice.missing:
        keys = ", ".join(map(repr, choice.missing[:_SHOWN]))
        reason = f"lacks {len(choice.missing):,} of the kept samples, among them {keys}"
        problems.append(Problem(shard.path, "shard", "", reason))
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
    missing = [] if damaged else choice.missing
    return ShardIndex(len(found), kept, choice.places, missing, problems)


def _take_nothing(extension: str, member: Member) -> None:
    return None
