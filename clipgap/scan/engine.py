"""The pass itself: blocks are read ahead in threads, scanned here, and written behind in another.

One thread does all the writing and keeps the ledger, in the order it was told; so a checkpoint
asked for after a shard's last block holds that shard, and the lists handed over with it have seen
all of that shard's rows.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipgap.errors import InputError, Interrupted
from clipgap.files.parquet import Put
from clipgap.kernels.admit import Status
from clipgap.kernels.interface import Scanner, TopK
from clipgap.machine import thread_count
from clipgap.runs.how import OnProgress, Progress
from clipgap.scan import quarantine
from clipgap.scan.checkpoint import Ledger, Unit
from clipgap.scan.inputs import Block, BlockReader
from clipgap.scan.plan import ScanPlan
from clipgap.scan.rows import Found, RowGroups, RowLayout, Scoring
from clipgap.scan.sinks import Sink
from clipgap.scan.tables import QUARANTINE_SCHEMA

_WAITING_WRITES = 3
# A checkpoint is due when computing since the last one took this many times what writing it takes.
CHECKPOINT_RATIO = 20.0

Save = Callable[[Ledger, list[TopK]], None]


@dataclass(frozen=True)
class Engine:
    """Scans shards of a plan into a sink; calls `save`, if given, now and then to checkpoint."""

    plan: ScanPlan
    layout: RowLayout
    scanner: Scanner
    sink: Sink
    ledger: Ledger
    save: Save | None
    block_rows: int
    on_progress: OnProgress
    stop: threading.Event

    def run(self, shards: Sequence[int]) -> None:
        """Scan these shards, in this order; any order gives the same tables and lists."""
        watch = _Watch(self)
        readers = max(1, min(4, thread_count() // 4))
        with (
            BlockReader(self.plan, self.block_rows, readers) as reader,
            _Writer(self) as writer,
        ):
            try:
                for block, last, found in self._results(reader.blocks(shards)):
                    writer.add(block, found, last)
                    watch.report(len(block.status), last)
            except (InputError, Interrupted):
                writer.checkpoint()
                raise
            writer.checkpoint()
            writer.wait()

    def _results(self, blocks: Iterable[tuple[Block, bool]]) -> Iterator[tuple[Block, bool, Found]]:
        """Blocks and whether they are the last of their shard, with their results."""
        begun: deque[tuple[Block, bool, Scoring]] = deque()
        for block, last in blocks:
            self._check_stop()
            pending = self.scanner.start(block.rows, block.ids)
            scoring = Scoring(pending, self.layout.alone(block.rows))
            begun.append((block.without_rows(), last, scoring))
            del block  # its rows, before the next one is read
            if len(begun) > self.scanner.ahead:
                earlier, was_last, under_way = begun.popleft()
                yield earlier, was_last, under_way.result()
        for earlier, was_last, under_way in begun:
            yield earlier, was_last, under_way.result()

    def _check_stop(self) -> None:
        if self.stop.is_set():
            kept = ", finished shards are kept: go on with --resume" if self.save else ""
            raise Interrupted(f"stopped on request{kept}")


class _Writer:
    """The writing thread, seen from the computing one."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="clipgap-write")
        self._waiting: deque[Future[None]] = deque()
        self._unit: OpenUnit | None = None
        self._failed = self._unsaved = False
        self._saved_at, self._save_seconds = time.monotonic(), 0.0
        self._save_future: Future[None] | None = None

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._pool.shutdown(wait=True)
        if self._unit is not None and error is not None:
            self._unit.abandon(error)

    def add(self, block: Block, found: Found, last: bool) -> None:
        """Queue the writing of a block; raise here what went wrong there."""
        self._submit(self._add, block, found)
        if last:
            self._submit(self._finish)
            self._unsaved = True
            if self._checkpoint_is_due():
                self.checkpoint()
        while len(self._waiting) > _WAITING_WRITES:
            self._waiting.popleft().result()

    def checkpoint(self) -> None:
        """Queue a checkpoint of the shards finished so far, unless the last one has them all."""
        if self._engine.save is not None and self._unsaved:
            self._unsaved = False
            self._saved_at = time.monotonic()
            topk = self._engine.scanner.topk()
            self._save_future = self._submit(self._save, topk, time.monotonic() - self._saved_at)

    def wait(self) -> None:
        """Return when all is written; raise what went wrong."""
        while self._waiting:
            self._waiting.popleft().result()

    def _checkpoint_is_due(self) -> bool:
        if self._save_future is not None and not self._save_future.done():
            return False
        return time.monotonic() - self._saved_at >= CHECKPOINT_RATIO * self._save_seconds

    def _submit(self, task: Callable[..., None], *arguments: Any) -> Future[None]:
        future = self._pool.submit(self._run, task, *arguments)
        self._waiting.append(future)
        return future

    # The rest runs in the writing thread.

    def _run(self, task: Callable[..., None], *arguments: Any) -> None:
        # What was queued behind a failed write must not complete a file that lacks it.
        if self._failed:
            return
        try:
            task(*arguments)
        except BaseException:
            self._failed = True
            raise

    def _add(self, block: Block, found: Found) -> None:
        if self._unit is None:
            self._unit = OpenUnit(block.shard, self._engine)
        self._unit.add(block, found)

    def _finish(self) -> None:
        assert self._unit is not None
        self._unit.finish(self._engine.ledger)
        self._unit = None

    def _save(self, topk: list[TopK], seconds_so_far: float) -> None:
        assert self._engine.save is not None
        began = time.monotonic()
        self._engine.save(self._engine.ledger, topk)
        self._save_seconds = seconds_so_far + time.monotonic() - began


class OpenUnit:
    """A training shard on its way to files, which appear when it is finished, or never."""

    def __init__(self, shard: int, engine: Engine) -> None:
        self._shard, self._sink = shard, engine.sink
        self._groups = RowGroups(shard, engine.layout)
        self._files = ExitStack()
        self._put: Put | None = None
        self._put_bad: Put | None = None
        if engine.plan.settings.train_table:
            self._put = self._files.enter_context(
                engine.sink.part(shard, engine.layout.table.schema)
            )

    def add(self, block: Block, found: Found) -> None:
        for group in self._groups.add(block.ok, block.keys, found):
            self._write(group)
        self._groups.totals.of("rows")[1] += np.count_nonzero(block.status == Status.NORMALISED)
        if not block.ok.all():
            if self._put_bad is None:
                files = self._sink.bad_rows(self._shard, QUARANTINE_SCHEMA)
                self._put_bad = self._files.enter_context(files)
            self._put_bad(quarantine.of_block(block))

    def finish(self, ledger: Ledger) -> None:
        """Complete the files; only then does the ledger know the shard."""
        for group in self._groups.finish():
            self._write(group)
        self._files.close()
        totals = self._groups.totals
        rows, _, quarantined = totals.of("rows").tolist()
        unit = Unit(
            rows=rows,
            quarantined=quarantined,
            file=self._sink.part_sum(self._shard) if self._put else None,
        )
        ledger.totals.add(totals)
        ledger.units[self._shard] = unit

    def abandon(self, error: BaseException) -> None:
        self._files.__exit__(type(error), error, error.__traceback__)

    def _write(self, group: Any) -> None:
        if self._put is not None:
            self._put(group)


class _Watch:
    """Turns blocks done into `Progress`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._began = time.monotonic()
        self._earlier = self._rows = engine.ledger.rows
        self._shards = len(engine.ledger.units)

    def report(self, rows: int, last: bool) -> None:
        self._rows += rows
        self._shards += last
        plan, counters = self._engine.plan, self._engine.scanner.counters
        new, seconds = self._rows - self._earlier, time.monotonic() - self._began
        operations = 2.0 * new * plan.test_rows * plan.train.dim
        self._engine.on_progress(
            Progress(
                stage="scanning",
                works=True,
                done=self._rows,
                total=plan.train.rows,
                earlier=self._earlier,
                part=self._shards,
                parts=len(plan.train.shards),
                seconds=seconds,
                figures=counters.figures(new, operations, seconds),
                means=self._engine.scanner.name,
            )
        )
