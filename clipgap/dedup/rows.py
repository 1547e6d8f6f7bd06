"""The usable rows of a store, read as often as they are needed, or held if there is room."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
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
_READERS = 2

Rows = NDArray[np.float16]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Watch:
    """Who is told how far it is, and who may end it."""

    report: OnProgress = ignore
    stop: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raise if the work shall stop; cheap enough for every block."""
        if self.stop.is_set():
            raise Interrupted("stopped on request: go on with --resume")


class RowSource:
    """Rows of a store with their ids, which count through all shards; in order of the ids.

    The first pass that is not cut short holds the rows, if all of them fit into `memory` bytes.
    """

    def __init__(
        self,
        store: Store,
        bad_rows: str,
        watch: Watch,
        memory: int = 0,
        block_rows: int | None = None,
    ) -> None:
        self.store, self.watch = store, watch
        self._plan = ScanPlan("scan", store, {}, ScanOptions(1, bad_rows, False, ()))
        self._block_rows = block_rows
        self._fits = 2 * store.rows * store.dim <= memory
        self._held: tuple[Rows, Ids] | None = None

    def blocks(
        self,
        stage: str,
        figures: Callable[[int, float], dict[str, Any]] = lambda rows, seconds: {},
        suited: int = BLOCK_ROWS,
    ) -> Iterator[tuple[Rows, Ids]]:
        """All rows, block by block; `figures` adds to the report after so many rows and seconds.

        `suited` is the size of blocks unless another one was asked for.
        """
        began, done, total = time.monotonic(), 0, self.store.rows
        read = self._held_blocks if self._held else self._read_blocks
        for rows, ids, last in read(self._block_rows or suited):
            self.watch.check()
            yield rows, ids
            done += len(rows)
            seconds = time.monotonic() - began
            at = Progress(stage=stage, works=True, done=last, total=total, seconds=seconds)
            self.watch.report(replace(at, **figures(done, seconds)))

    def take(self, ids: Ids, place: NDArray[np.int64], stage: str) -> Rows:
        """Some rows, given by ascending ids, each put to its place among them."""
        taken = np.empty((len(ids), self.store.dim), np.float16)
        if self._held is not None:
            rows, held = self._held
            at = ids if len(held) == self.store.rows else np.searchsorted(held, ids)
            taken[place] = rows[at]
            return taken
        start = 0
        for rows, here in self.blocks(stage):
            stop = start + int(np.searchsorted(ids[start:], here[-1] + 1)) if len(here) else start
            taken[place[start:stop]] = rows[np.searchsorted(here, ids[start:stop])]
            start = stop
        return taken

    def _held_blocks(self, block_rows: int) -> Iterator[tuple[Rows, Ids, int]]:
        assert self._held is not None
        rows, ids = self._held
        for start in range(0, len(rows), block_rows):
            here = slice(start, start + block_rows)
            yield rows[here], ids[here], int(ids[here][-1]) + 1

    def _read_blocks(self, block_rows: int) -> Iterator[tuple[Rows, Ids, int]]:
        shape = (self.store.rows, self.store.dim)
        rows = np.empty(shape, np.float16) if self._fits else None
        ids, filled, last = np.empty(shape[0] if self._fits else 0, np.int64), 0, 0
        with BlockReader(self._plan, block_rows, _READERS) as reader:
            for block, _ in reader.blocks(range(len(self.store.shards))):
                last += len(block.status)
                if rows is not None:
                    here = slice(filled, filled + len(block.rows))
                    rows[here], ids[here] = block.rows, block.ids
                    filled = here.stop
                yield block.rows, block.ids, last
        if rows is not None:
            self._held = rows[:filled], ids[:filled]
