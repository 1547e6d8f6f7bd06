"""A store scored anew, for those who do not believe its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clipgap.kernels.choose import make_scanner
from clipgap.kernels.interface import BlockResult
from clipgap.kernels.options import Compute
from clipgap.runs.how import OnProgress, Progress, ignore
from clipgap.scan.inputs import Block, BlockReader, LoadedTest
from clipgap.scan.options import ScanOptions
from clipgap.scan.plan import ScanPlan
from clipgap.store.base import Store

Ids = NDArray[np.int64]
Look = Callable[[Ids, BlockResult], None]
"""Takes the training ids of some rows, ascending, and their results."""

_BLOCK = 16_384


@dataclass(frozen=True)
class Means:
    """How rows are scored; no result depends on it."""

    compute: Compute
    on_progress: OnProgress = ignore


class Feed:
    """Gathers rows to blocks of a size that suits a kernel, and hands their results on."""

    def __init__(self, tests: Sequence[LoadedTest], means: Means, look: Look) -> None:
        columns = [test.columns() for test in tests]
        self._scanner = make_scanner(columns, 1, compute=means.compute)
        self._block_rows = means.compute.block_rows or _BLOCK
        self._look = look
        self._rows: list[NDArray[np.float16]] = []
        self._ids: list[Ids] = []

    def add(self, rows: NDArray[np.float16], ids: Ids) -> None:
        if len(ids):
            self._rows.append(rows)
            self._ids.append(ids)
        if sum(map(len, self._ids)) >= self._block_rows:
            self.flush()

    def flush(self) -> None:
        if self._ids:
            rows, ids = np.concatenate(self._rows), np.concatenate(self._ids)
            self._rows, self._ids = [], []
            self._look(ids, self._scanner.scan(rows, ids))

    def best(self) -> list[NDArray[np.float64]]:
        """The highest score that each test point has with any row; -inf if there was none."""
        self.flush()
        return [lists.sim[:, 0] for lists in self._scanner.topk()]


def read_blocks(store: Store, bad_rows: str, means: Means, stage: str) -> Iterator[Block]:
    """All rows of a store in order, admitted as a scan admits them."""
    plan = ScanPlan("scan", store, {}, ScanOptions(1, bad_rows, False, ()))
    shards, done = len(store.shards), 0
    with BlockReader(plan, means.compute.block_rows or _BLOCK, workers=1) as reader:
        for block, _ in reader.blocks(range(shards)):
            yield block
            done += len(block.status)
            means.on_progress(
                Progress(stage=stage, done=done, total=store.rows, part=block.shard, parts=shards)
            )


def best_scores(
    store: Store, tests: Sequence[LoadedTest], bad_rows: str, means: Means
) -> list[NDArray[np.float64]]:
    """The highest score that each test point has with any row of a store."""
    feed = Feed(tests, means, lambda ids, result: None)
    for block in read_blocks(store, bad_rows, means, "verifying the reference"):
        feed.add(block.rows, block.ids)
    return feed.best()
