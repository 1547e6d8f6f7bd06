"""Samples read from tar shards: plain bytes, of extensions that are safe to decode.

A keep-list can be applied while they are read, so that no shard need be copied.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipgap.keep.lists import KeepList
from clipgap.shards.finding import TarShard, find_shards
from clipgap.shards.groups import groups
from clipgap.shards.matching import KeepSelector
from clipgap.shards.names import JSON
from clipgap.shards.options import AUTO, KEY
from clipgap.shards.problems import OnProblem, Problem, refuse
from clipgap.shards.tar import Member, TarReader

SAFE_EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp", "txt", "json", "cls"})
"""Others are never read: decoders of .pyd, .pkl or .pth members run what is in them."""

LARGEST_MEMBER = 256 << 20


@dataclass(frozen=True)
class Sample:
    """One sample of a shard."""

    key: str
    shard: str  # path or URL of the tar file
    contents: dict[str, bytes]  # by extension, in lower case and without the dot


def read_samples(
    shards: str | Path | TarShard,
    *,
    extensions: Collection[str] = SAFE_EXTENSIONS,
    largest: int = LARGEST_MEMBER,
    on_problem: OnProblem = refuse,
    empty: bool = False,
) -> Iterator[Sample]:
    """Samples in the order of the shards, each with those members that have a known extension.

    A shard that is truncated or damaged, and a member with a hostile name, is told to `on_problem`,
    which may raise; by default it does. If it returns, what is concerned is left out. A sample of
    which no member has a known extension is left out too, unless `empty` samples are wanted.
    """
    found = [shards] if isinstance(shards, TarShard) else find_shards(shards)
    for shard in found:
        for sample in _samples(shard, frozenset(extensions), largest, on_problem):
            if sample.contents or empty:
                yield sample


def kept_samples(
    shards: str | Path | Sequence[str | Path],
    keep: str | Path | KeepList,
    *,
    extensions: Collection[str] = SAFE_EXTENSIONS,
    on_problem: OnProblem = refuse,
    match: str = AUTO,
) -> Iterator[Sample]:
    """The kept samples of some shards, in their order; see `read_samples` and `KeepSelector`."""
    found = find_shards(shards)
    selector = KeepSelector.open(keep, found, match)
    asked = {*extensions, JSON} if selector.match != KEY else extensions
    for shard in found:
        for sample in read_samples(shard, extensions=asked, on_problem=on_problem):
            contents = {e: c for e, c in sample.contents.items() if e in extensions}
            if contents and selector(sample.key, sample.shard, sample.contents):
                yield replace(sample, contents=contents)


@dataclass(frozen=True)
class KeepStage:
    """A stage of a webdataset pipeline, behind the one that makes samples out of tar files.

        urls = wds.shardlists.expand_urls("shards/{00000..00099}.tar")
        stage = KeepStage(KeepSelector.open("keep", urls))
        dataset = wds.WebDataset(urls).compose(stage)

    It can be pickled, so it works with the worker processes of a data loader.
    """

    selector: KeepSelector

    def __call__(self, samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for sample in samples:
            if self.selector(sample["__key__"], sample["__url__"], sample):
                yield sample


def _samples(
    shard: TarShard, extensions: frozenset[str], largest: int, on_problem: OnProblem
) -> Iterator[Sample]:
    reader = TarReader(shard.file)

    def take(extension: str, member: Member) -> bytes | None:
        if extension not in extensions or member.size > largest:
            return None
        return bytes(reader.read(member.content, member.size))

    for group in groups(shard, reader, on_problem, take):
        oversized = [
            (extension, member.size)
            for extension, member in zip(group.contents, group.members, strict=True)
            if extension in extensions and member.size > largest
        ]
        if oversized:
            extension, size = oversized[0]
            reason = f"its .{extension} has {size:,} bytes, more than {largest:,}"
            on_problem(Problem(shard.path, "sample", group.key, reason, group.members[0].start))
            continue
        contents = {e: content for e, content in group.contents.items() if content is not None}
        yield Sample(group.key, shard.path, contents)
