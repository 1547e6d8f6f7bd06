"""What a filter would do: which shards come out, and of what they are made."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from clipgap.errors import InputError
from clipgap.files.documents import checksum
from clipgap.files.identity import digest_of
from clipgap.files.volumes import FILE_THREADS, File, LocalFile
from clipgap.keep.lists import KeepList
from clipgap.options import takes_options
from clipgap.shards.captions import CaptionSource
from clipgap.shards.finding import SUFFIX, TarShard, find_shards
from clipgap.shards.lookup import Findings, find_kept
from clipgap.shards.matching import KeepSelector
from clipgap.shards.options import KEY, FilterOptions


@dataclass(frozen=True)
class Part:
    """Some of the kept samples of one shard, counted from 0; `stop` None means all the rest."""

    shard: int
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True)
class Unit:
    """One shard to be written."""

    name: str
    parts: tuple[Part, ...]
    size: int = 1  # bytes that are read, where units are not equal

    @property
    def tar(self) -> str:
        return self.name + SUFFIX

    @property
    def parquet(self) -> str:
        return f"{self.name}.parquet"

    @property
    def stats(self) -> str:
        return f"{self.name}_stats.json"

    @property
    def files(self) -> tuple[str, ...]:
        return (self.tar, self.parquet, self.stats)


@dataclass(frozen=True)
class FilterPlan:
    """Everything that is known before a shard is read."""

    source: str
    shards: list[TarShard]
    selector: KeepSelector
    captions: CaptionSource | None
    options: FilterOptions

    @property
    def bytes(self) -> int:
        return sum(shard.file.size for shard in self.shards)

    @property
    def rows(self) -> int | None:
        """Samples that the shards should have by the keep-list; None if only keys match."""
        selector = self.selector
        if selector.by == "key":
            return None
        return sum(selector.keep.shards[index].rows for index in selector.shards.values())

    def expected(self) -> list[int] | None:
        """Kept samples of each shard by the keep-list; None if only keys match."""
        selector = self.selector
        if selector.by == "key":
            return None
        return [selector.keep.shards[selector.shard_of(shard.path)].kept for shard in self.shards]

    def looked_into(self) -> list[TarShard]:
        """Shards that are asked what they hold before anything is written.

        Where shards of the keep-list have no tables beside them, each is asked when it is copied;
        they would have to be read twice otherwise.
        """
        if self.selector.by == "key":
            return self.shards
        if self.options.missing != "error":
            return []
        return [shard for shard in self.shards if shard.parquet and shard.stats]

    def questions(self) -> list[Unit]:
        """Each of those shards as a unit."""
        return [Unit(shard.name, (Part(shard.index),)) for shard in self.looked_into()]

    def findings(self) -> Findings:
        """What those shards hold of the keep-list; refused if that is not enough."""
        with ThreadPoolExecutor(FILE_THREADS) as pool:
            found = pool.map(partial(find_kept, self.selector), self.looked_into())
            findings = Findings.of(self.selector, found)
        self.check(findings)
        return findings

    def check(self, findings: Findings) -> None:
        """Refuse a keep-list that the shards do not have all of."""
        if findings.missing and self.options.missing == "error":
            raise InputError(
                f"{self.selector.keep.path}: {findings.lacking(self.selector)}. Is it a keep-list "
                "of other shards? --missing list notes it and finishes; --missing ignore is for a "
                f"part of the shards{_other_match(self.selector)}."
            )

    def units(self, kept: Sequence[int] | None) -> list[Unit]:
        """The shards to write; `kept` samples of each shard must be known if they are merged."""
        if self.options.merge is None:
            names = file_names(
                [shard.name for shard in self.shards],
                "Filter them into several folders, or give --merge, which numbers them anew",
            )
            sizes = [shard.file.size for shard in self.shards]
            return [Unit(name, (Part(i),), sizes[i]) for i, name in enumerate(names)]
        if kept is None:
            raise ValueError("merging needs the number of kept samples of each shard")
        return list(_even(kept, self.options.merge))

    @property
    def _beside(self) -> dict[str, File]:
        """What lies beside the shards and has a say in what comes out."""
        named = {
            f"{shard.name}{end}": file
            for shard in self.shards
            for end, file in (("_stats.json", shard.stats), (".parquet", shard.parquet))
        }
        return {name: file for name, file in named.items() if file is not None}

    def files(self) -> list[File]:
        """All that is read but the keep-list, and captions, which are compared to the last byte."""
        return [*(shard.file for shard in self.shards), *self._beside.values()]

    def local_files(self) -> list[Path]:
        """What must not lie where the output shall be."""
        captions = [] if self.captions is None else self.captions.files.values()
        found = [*self.files(), *captions]
        return [Path(file.path) for file in found if isinstance(file, LocalFile)]

    def describe(self) -> dict[str, Any]:
        """What the output follows from."""
        beside = _identities(self._beside)
        return {
            "kind": "shards",
            "inputs": {
                "shards": _identities({shard.name: shard.file for shard in self.shards}),
                **({"beside": beside} if beside else {}),
                "keep": {
                    "path": str(self.selector.keep.path),
                    "manifest_sha256": checksum(self.selector.keep.manifest),
                },
                "captions": self.captions and self.captions.describe(),
            },
            "settings": {
                "merge": self.options.merge,
                "missing": self.options.missing,
                **({} if self.selector.match == KEY else {"match": self.selector.match}),
            },
        }

    def marks(self) -> dict[str, dict[str, str]]:
        """What tells that a file was edited in place while a filter was unfinished."""
        captions = {} if self.captions is None else self.captions.files
        return {
            "shards": {shard.name: shard.file.modified for shard in self.shards},
            "beside": {name: file.modified for name, file in self._beside.items()},
            "captions": {name: file.modified for name, file in captions.items()},
        }


def _other_match(selector: KeepSelector) -> str:
    return "; --match says by which field samples are called" if selector.by == "key" else ""


def _identities(files: Mapping[str, File]) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(FILE_THREADS) as pool:
        digests = list(pool.map(digest_of, files.values()))
    return [
        {"name": name, "bytes": file.size, "fingerprint": digest}
        for (name, file), digest in zip(files.items(), digests, strict=True)
    ]


@takes_options
def plan_filter(
    shards: str | Path | Sequence[str | Path],
    keep: str | Path | KeepList,
    *,
    options: FilterOptions,
) -> FilterPlan:
    """What `filter_shards` would do; reads names, the keep-list, and as few shards as will do."""
    found = find_shards(shards)
    selector = KeepSelector.open(keep, found, options.match)
    source = "::".join(map(str, [shards] if isinstance(shards, str | Path) else shards))
    captions = None if options.captions is None else CaptionSource.open(options.captions)
    return FilterPlan(source, found, selector, captions, options)


def file_names(names: Sequence[str], advice: str) -> list[str]:
    """Names of shards as names of files in one folder; `advice` is for names that clash."""
    flat = [re.sub(r"[^\w.=@+-]", "_", name).lstrip(".") for name in names]
    counts = Counter(name.lower() for name in flat)
    clashes = [name for name, file in zip(names, flat, strict=True) if counts[file.lower()] > 1]
    if clashes:
        raise InputError.listing(
            f"these shards would get the same name in the output folder. {advice}:",
            clashes,
        )
    return flat


def _even(kept: Sequence[int], size: int) -> Iterator[Unit]:
    """As few shards of at most `size` samples as possible, equal in number but for one sample.

    Every shard that is read belongs to some unit, even if nothing of it is kept.
    """
    total = sum(kept)
    count = max(1, math.ceil(total / size))
    width = max(5, len(str(count - 1)))
    parts: list[Part] = []
    unit, taken = 0, 0  # samples taken by this unit and those before it
    for shard, samples in enumerate(kept):
        start = 0
        while True:
            end = total * (unit + 1) // count
            stop = min(samples, start + end - taken)
            parts.append(Part(shard, start, stop if stop < samples else None))
            taken += stop - start
            start = stop
            if taken == end and unit < count - 1:
                yield Unit(f"{unit:0{width}d}", tuple(parts))
                parts, unit = [], unit + 1
            if start == samples:
                break
    yield Unit(f"{unit:0{width}d}", tuple(parts))
