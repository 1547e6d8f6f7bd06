"""One scanner a device; blocks go to whichever has the fewest under way.

Each device keeps its own lists of the k best. They are merged when they are asked for, by the rule
for ties, so the result does not depend on who saw which block. From time to time the devices tell
each other how high their bounds have risen, which only saves work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from clipgap.kernels.gpu.scanner import GpuScanner
from clipgap.kernels.interface import (
    BlockResult,
    Counters,
    Pending,
    Scanner,
    SomeAhead,
    TestSet,
    TopK,
)
from clipgap.kernels.oracle import merge_topk

_BLOCKS_BETWEEN_TALKS = 4


class SeveralGpus(SomeAhead):
    """`Scanner` on all devices of a node."""

    block_rows = GpuScanner.block_rows
    writers = GpuScanner.writers

    def __init__(
        self, tests: Sequence[TestSet], k: int, devices: Sequence[torch.device], kind: str = "int8"
    ) -> None:
        self._scanners = [GpuScanner(tests, k, device, kind) for device in devices]
        self._under_way = [0] * len(devices)
        self._since_talk = 0
        self.k = max(1, k)
        self.lock_pages = self._scanners[0].lock_pages
        self.name = f"{self._scanners[0].name} on {len(devices)} GPUs"
        self.ahead = sum(scanner.ahead for scanner in self._scanners)

    @property
    def counters(self) -> Counters:
        total = Counters()
        for one in (scanner.counters for scanner in self._scanners):
            total.rows += one.rows
            total.pairs += one.pairs
            total.survivors += one.survivors
            total.refined += one.refined
        return total

    def begin_like(self, other: Scanner) -> None:
        if isinstance(other, SeveralGpus):
            for mine, before in zip(self._scanners, other._scanners, strict=True):
                mine.begin_like(before)

    def start(self, rows: NDArray[np.float16], ids: NDArray[np.int64]) -> Pending:
        if self._since_talk == _BLOCKS_BETWEEN_TALKS * len(self._scanners):
            self._since_talk = 0
            self._share_bounds()
        self._since_talk += 1
        free = min(range(len(self._scanners)), key=self._under_way.__getitem__)
        self._under_way[free] += 1
        return _OnOne(self, free, self._scanners[free].start(rows, ids))

    def ended(self, index: int) -> None:
        """A block of this scanner was fetched."""
        self._under_way[index] -= 1

    def topk_later(self) -> Callable[[], list[TopK]]:
        asked = [scanner.topk_later() for scanner in self._scanners]

        def merged() -> list[TopK]:
            return [
                TopK(
                    *merge_topk(
                        np.hstack([held.sim for held in lists]),
                        np.hstack([held.id for held in lists]),
                        self.k,
                    )
                )
                for lists in zip(*(fetch() for fetch in asked), strict=True)
            ]

        return merged

    def load_topk(self, lists: list[TopK]) -> None:
        for scanner in self._scanners:
            scanner.load_topk(lists)

    def raise_bounds(self, kth: list[NDArray[np.float64]]) -> None:
        for scanner in self._scanners:
            scanner.raise_bounds(kth)

    def _share_bounds(self) -> None:
        # Going round once tells the last what all others know; the next talk spreads it. A copy
        # between devices waits for the streams of both, and lets the host go on.
        takers = self._scanners[1:] + self._scanners[:1]
        for giver, taker in zip(self._scanners, takers, strict=True):
            taker.raise_kth(giver.kth())


class _OnOne:
    """A block under way on one of the devices."""

    def __init__(self, owner: SeveralGpus, index: int, pending: Pending) -> None:
        self._owner, self._index, self._pending = owner, index, pending

    def result(self) -> BlockResult:
        result = self._pending.result()
        self._owner.ended(self._index)
        return result
