"""Where in a shard the kept samples lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain, compress

import numpy as np

from clipgap.files.volumes import File
from clipgap.shards.archive import ArchiveWriter, Piece, joined
from clipgap.shards.captions import captioned
from clipgap.shards.choosing import Choice, Chooser, Rows
from clipgap.shards.finding import TarShard
from clipgap.shards.groups import check_count, groups
from clipgap.shards.layout import Members, Offsets, plain_layout
from clipgap.shards.problems import Problem
from clipgap.shards.tar import Member, TarReader, Window

_SHOWN = 5


@dataclass(frozen=True)
class ShardIndex:
    """What a shard holds, and where."""

    samples: int  # kept or not
    keys: list[str]  # of the kept samples, in order
    layout: PlainPieces | ListedPieces
    places: Rows  # see Choice
    missing: list[str]  # keys that the keep-list has and a shard without damage has not
    problems: list[Problem]

    def pieces(self, start: int, stop: int | None) -> Iterable[Piece]:
        """The bytes of some of the kept samples."""
        return self.layout.of(slice(start, stop))


@dataclass(frozen=True)
class PlainPieces:
    """Samples of which each is one range of bytes."""

    starts: Offsets
    stops: Offsets

    def of(self, samples: slice) -> Iterable[tuple[int, int]]:
        """As few pieces as possible for these samples."""
        starts, stops = self.starts[samples], self.stops[samples]
        if not len(starts):
            return []
        apart = np.flatnonzero(starts[1:] != stops[:-1])
        firsts, lasts = np.append(0, apart + 1), np.append(apart, len(starts) - 1)
        return zip(starts[firsts].tolist(), stops[lasts].tolist(), strict=True)


@dataclass(frozen=True)
class ListedPieces:
    """Samples with pieces of any kind."""

    pieces: list[list[Piece]]

    def of(self, samples: slice) -> Iterable[Piece]:
        """The pieces of these samples, one after another."""
        return joined(chain.from_iterable(self.pieces[samples]))


class Draft:
    """A copy made while headers are read, of what is likely to be kept.

    The bytes are at hand then, and need not be read again. Whether the guess was right is known
    when all of the shard has been seen.
    """

    def __init__(self, archive: ArchiveWriter, chooser: Chooser) -> None:
        self._archive, self._chooser = archive, chooser
        self._pieces: list[Piece] = []

    def __call__(self, window: Window, members: Members) -> None:
        """Copy members of one window."""
        names = members.names.view(f"S{members.names.shape[1]}")[:, 0].tolist()
        kept = self._chooser.guess([name.partition(b".")[0] for name in names])
        pieces = PlainPieces(members.starts[kept], members.stops[kept]).of(slice(None))
        for start, stop in pieces:
            self._archive.copy_range(window, start, stop)
            self._pieces.append((start, stop))

    def is_what(self, pieces: Iterable[Piece]) -> bool:
        """Whether these pieces were copied and nothing else."""
        return list(joined(self._pieces)) == list(pieces)


def index_shard(
    shard: TarShard,
    file: File,
    chooser: Chooser,
    captions: Mapping[str, str],
    draft: Draft | None = None,
) -> ShardIndex:
    """Read all headers of a shard; `file` is where its bytes are now."""
    layout = None if captions else plain_layout(file, draft)
    if layout is None:
        return _index_strictly(shard, file, chooser, captions)
    problems: list[Problem] = []
    check_count(shard, len(layout.keys), problems.append)
    choice = chooser.choose(layout.keys)
    pieces = PlainPieces(layout.starts[choice.kept], layout.stops[choice.kept])
    return _judged(shard, layout.keys, pieces, choice, problems)


def _index_strictly(
    shard: TarShard, file: File, chooser: Chooser, captions: Mapping[str, str]
) -> ShardIndex:
    """As `index_shard`, one member after the other."""
    problems: list[Problem] = []
    reader = TarReader(file)
    found = list(groups(shard, reader, problems.append, _take_nothing))
    keys = [group.key for group in found]
    choice = chooser.choose(keys)
    kept: list[list[Piece]] = []
    headers: list[Member] = []  # global ones: they hold for all that follows
    for group, keep in zip(found, choice.kept, strict=True):
        headers += group.headers
        if keep:
            if (caption := captions.get(group.key)) is None:
                pieces: list[Piece] = [(member.start, member.stop) for member in group.members]
            else:
                pieces = captioned(reader, group, caption)
            before = [(member.start, member.stop) for member in headers]
            kept.append([*before, *pieces])
            headers = []
    return _judged(shard, keys, ListedPieces(kept), choice, problems)


def _judged(
    shard: TarShard,
    keys: list[str],
    pieces: PlainPieces | ListedPieces,
    choice: Choice,
    problems: list[Problem],
) -> ShardIndex:
    """What is not there is the fault of a damaged shard, or else of the keep-list."""
    for key in choice.ambiguous:
        reason = "several samples have this key and only some are kept; none is copied"
        problems.append(Problem(shard.path, "sample", key, reason))
    missing = choice.missing
    if missing and any(problem.what == "shard" for problem in problems):
        shown = ", ".join(map(repr, missing[:_SHOWN]))
        reason = f"lacks {len(missing):,} of the kept samples, among them {shown}"
        problems.append(Problem(shard.path, "shard", "", reason))
        missing = []
    kept = list(compress(keys, choice.kept))
    return ShardIndex(len(keys), kept, pieces, choice.places, missing, problems)


def _take_nothing(extension: str, member: Member) -> None:
    return None
