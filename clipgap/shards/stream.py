"""A keep-list applied while samples are read, so that no shard need be copied."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipgap.keep.lists import KeepList
from clipgap.shards.finding import find_shards
from clipgap.shards.matching import KeepSelector
from clipgap.shards.problems import OnProblem, refuse
from clipgap.shards.samples import SAFE_EXTENSIONS, Sample, read_samples


def kept_samples(
    shards: str | Path | Sequence[str | Path],
    keep: str | Path | KeepList,
    *,
    extensions: Collection[str] = SAFE_EXTENSIONS,
    on_problem: OnProblem = refuse,
) -> Iterator[Sample]:
    """The kept samples of some shards, in their order; see `read_samples`."""
    found = find_shards(shards)
    selector = KeepSelector.open(keep, [shard.path for shard in found])
    for shard in found:
        for sample in read_samples(shard, extensions=extensions, on_problem=on_problem):
            if selector(sample.key, sample.shard):
                yield sample


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
            if self.selector(sample["__key__"], sample["__url__"]):
                yield sample
