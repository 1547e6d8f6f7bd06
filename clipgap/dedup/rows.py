"""The usable rows of a store, read as often as they are needed, or held if there is room."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.errors import Interrupted
from clipgap.runs.how import OnProgress, Progress, ignore
from clipgap.scan.inputs import BlockReader
from clipgap.scan.options import ScanOptions
from clipgap.scan.plan import ScanPlan
from clipgap.store.base import Store

BLOCK_ROWS = 16_384
_HELD_ROWS = 65_536  # of a block that takes no memory of its own
_READERS = 2

Rows = NDArray[np.float16]
Ids = NDArray[np.int64]


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Watch:
    """Who is told how far it is, and who may end it."""

    report: OnProgress = ignore
    stop: Callable[[], bool] = _never

    def check(self) -> None:
        """Raise if the work shall stop; cheap enough for every block."""
        if self.stop():
            raise Interrupted("stopped on request: go on with --resume")


@dataclass(frozen=True)
class RowSource:
    """Rows of a store with their ids, which count through all shards; in order of the ids.

    The first pass that is not cut short holds the rows, if all of them fit into `memory` bytes.
    """

    store: Store
    bad_rows: str
    watch: Watch
    memory: int = 0
    block_rows: int | None = None
    held: list[tuple[Rows, Ids]] = field(default_factory=list)
    """All rows, once they are; shared by those that differ in who watches."""

    def __getstate__(self) -> dict[str, Any]:
        """A copy elsewhere is not watched, and reads the store again."""
        return {**self.__dict__, "watch": Watch(), "held": []}

    def blocks(
        self,
        stage: str,
        figures: Callable[[int, float], dict[str, Any]] = lambda rows, seconds: {},
        suited: int = BLOCK_ROWS,
    ) -> Iterator[tuple[Rows, Ids]]:
        """All rows, block by block; `figures` adds to the report after so many rows and seconds.

        `suited` is the size of blocks unless another one was asked for.
        """
        began, done = time.monotonic(), 0
        for rows, ids, last in self.read(suited):
            yield rows, ids
            done += len(rows)
            seconds = time.monotonic() - began
            self._report(stage, last, seconds, **figures(done, seconds))

    def take(self, ids: Ids, stage: str) -> Rows:
        """Some rows, given by ascending ids."""
        rows, began = np.empty((len(ids), self.store.dim), np.float16), time.monotonic()
        for last in self.fill(rows, ids, np.arange(len(ids))):
            self._report(stage, last, time.monotonic() - began)
        return rows

    def fill(self, rows: Rows, ids: Ids, place: NDArray[np.int64]) -> Iterator[int]:
        """Put some rows, given by ascending ids, each to its place in `rows`.

        Unless they are held, that takes a pass over the store; after each block comes how far.
        """
        if self.held:
            every, known = self.held[0]
            at = ids if len(known) == self.store.rows else known.searchsorted(ids)
            row_at = np.empty_like(at)
            row_at[place] = at
            np.take(every, row_at, axis=0, out=rows, mode="clip")  # which needs no copy in between
            return
        start = 0
        for block, here, last in self.read():
            stop = start + int(np.searchsorted(ids[start:], last))
            rows[place[start:stop]] = block[np.searchsorted(here, ids[start:stop])]
            start = stop
            yield last

    def read(self, suited: int = BLOCK_ROWS) -> Iterator[tuple[Rows, Ids, int]]:
        """All rows, block by block, with how many rows of the store come up to a block's end."""
        if self.held:
            blocks = self._held_blocks(self.block_rows or max(suited, _HELD_ROWS))
        else:
            blocks = self._read_blocks(self.block_rows or suited)
        for block in blocks:
            self.watch.check()
            yield block

    def _held_blocks(self, block_rows: int) -> Iterator[tuple[Rows, Ids, int]]:
        rows, ids = self.held[0]
        for start in range(0, len(rows), block_rows):
            here = slice(start, start + block_rows)
            yield rows[here], ids[here], int(ids[here][-1]) + 1

    def _read_blocks(self, block_rows: int) -> Iterator[tuple[Rows, Ids, int]]:
        shape = (self.store.rows, self.store.dim)
        fits = 2 * self.store.rows * self.store.dim <= self.memory
        rows = np.empty(shape, np.float16) if fits else None
        ids, filled, last = np.empty(shape[0] if fits else 0, np.int64), 0, 0
        plan = ScanPlan("scan", self.store, {}, ScanOptions(1, self.bad_rows, False, ()))
        with BlockReader(plan, block_rows, _READERS) as reader:
            for block, _ in reader.blocks(range(len(self.store.shards))):
                last += len(block.status)
                if rows is not None:
                    here = slice(filled, filled + len(block.rows))
                    rows[here], ids[here] = block.rows, block.ids
                    filled = here.stop
                yield block.rows, block.ids, last
        if rows is not None:
            self.held[:] = [(rows[:filled], ids[:filled])]

    def _report(self, stage: str, done: int, seconds: float, **more: Any) -> None:
        total = self.store.rows
        at = Progress(stage=stage, works=True, done=done, total=total, seconds=seconds, **more)
        self.watch.report(at)
