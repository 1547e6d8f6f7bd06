"""Members of an archive put together into samples, as webdataset does it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from clipgap.files.documents import is_count
from clipgap.files.volumes import File, read_bytes
from clipgap.shards.finding import TarShard
from clipgap.shards.problems import OnProblem, Problem
from clipgap.shards.tar import DataAfterEnd, Member, TarDamage, TarReader

_SAMPLE = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
_META = re.compile(r"__[^/]*__(?:$|/)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LARGEST_STATS = 1 << 20

T = TypeVar("T")


@dataclass
class Group(Generic[T]):
    """A sample: neighbouring members with the same key and different extensions."""

    key: str
    headers: list[Member]  # global headers since the sample before
    members: list[Member] = field(default_factory=list)
    contents: dict[str, T] = field(default_factory=dict)  # by extension, in the same order


def groups(
    shard: TarShard,
    reader: TarReader,
    report: OnProblem,
    take: Callable[[str, Member], T],
) -> Iterator[Group[T]]:
    """The samples of a shard in order; everything else in it is reported.

    `take(extension, member)` is called for each member while the reader is there. When an archive
    is damaged, the samples before the damage are good, but for the last one: more members of it
    may have been lost.
    """
    current: Group[T] | None = None
    headers: list[Member] = []
    count = 0
    try:
        for member in reader:
            if member.kind == "global":
                headers.append(member)
                continue
            named = _sample_of(member, shard, report)
            if named is None:
                continue
            key, extension = named
            # Like open_clip, take an extension that comes again as another sample of that key.
            if current is None or key != current.key or extension in current.contents:
                if current is not None:
                    count += 1
                    yield current
                current, headers = Group(key, headers), []
            current.members.append(member)
            current.contents[extension] = take(extension, member)
    except DataAfterEnd as damage:
        report(Problem(shard.path, "shard", "", damage.reason, damage.offset))
    except TarDamage as damage:
        report(Problem(shard.path, "shard", "", damage.reason, damage.offset))
        if current is not None:
            reason = "may be incomplete, since the shard is damaged after it"
            report(Problem(shard.path, "sample", current.key, reason, current.members[0].start))
        return
    if current is not None:
        count += 1
        yield current
    check_count(shard, count, report)


def split_name(name: str) -> tuple[str, str] | None:
    """Key and extension of a member as webdataset sees them; None if it is part of no sample."""
    match = _SAMPLE.fullmatch(name)
    if match is None or (name.startswith("__") and _META.match(name)):
        return None
    return match[1], match[2].lower()


def _sample_of(member: Member, shard: TarShard, report: OnProblem) -> tuple[str, str] | None:
    if member.kind == "folder":
        return None
    try:
        name = member.name.decode()
        reason = unsafe(name)
    except UnicodeDecodeError:
        name = member.name.decode("utf-8", "backslashreplace")
        reason = "its name is not UTF-8"
    if member.kind == "other":
        reason = "a link or device, not a file"
    if reason is None:
        return split_name(name)
    report(Problem(shard.path, "member", name, reason, member.start))
    return None


def unsafe(name: str) -> str | None:
    """Why a member could do harm when it is unpacked, if it could."""
    if name.startswith("/") or "\\" in name or name[1:3] == ":/":
        return "an absolute path, or one of another system"
    if ".." in name and ".." in name.split("/"):
        return "a path that leads outside"
    if not name.isprintable() and _CONTROL.search(name):
        return "control characters in its name"
    return None


def check_count(shard: TarShard, count: int, report: OnProblem) -> None:
    """Compare with what img2dataset noted when it had written the shard."""
    if shard.stats is None:
        return
    try:
        said = promised(shard.stats)
    except ValueError as error:
        report(Problem(shard.stats.path, "shard", "", f"not the statistics of a shard: {error}"))
        return
    if said != count:
        reason = f"holds {count:,} samples, but {shard.stats.path} says {said:,}"
        report(Problem(shard.path, "shard", "", reason))


def promised(stats: File) -> int:
    """How many samples a shard has by the statistics beside it; ValueError if they do not say."""
    if stats.size > _LARGEST_STATS:
        raise ValueError("too large")
    try:
        successes = json.loads(read_bytes(stats, 0, stats.size))["successes"]
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if not is_count(successes):
        raise ValueError(f"its successes are {successes!r:.60}")
    return int(successes)
