"""The pass itself: blocks are read ahead in threads, scanned here, and written behind in others.

A unit is a shard of the training store. All of a shard is written by one thread, in the order it
was told. The lists that are handed over with finished shards are those of after their last blocks
were scanned, so they have seen all of those shards' rows.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from clipgap.errors import InputError
from clipgap.files.parquet import Put
from clipgap.files.sums import FileSum
from clipgap.kernels.admit import Status
from clipgap.kernels.choose import make_scanner
from clipgap.kernels.interface import Scanner, TopK
from clipgap.kernels.options import Compute
from clipgap.machine import thread_count
from clipgap.runs.units import Event, Made, Slot, Step
from clipgap.scan import quarantine
from clipgap.scan.counts import Totals
from clipgap.scan.inputs import Block, BlockReader, LoadedTest, load_tests
from clipgap.scan.options import Caching
from clipgap.scan.plan import ScanPlan
from clipgap.scan.rows import Found, RowGroups, RowLayout, Scoring
from clipgap.scan.sinks import Sink, part_name
from clipgap.scan.tables import QUARANTINE_SCHEMA, SetColumns, TrainTable

_WAITING_WRITES = 3
# Lists are handed over when computing since the last time took this many times what saving takes.
_PATIENCE = 20.0
_DISK = 100e6  # bytes a second, of a slow one
_FLUSH = 0.05  # seconds


@dataclass(frozen=True)
class ShardUnit:
    """A shard to be scanned."""

    index: int
    size: int  # rows

    @property
    def name(self) -> str:
        return part_name(self.index)


@dataclass(frozen=True)
class ScanWork:
    """Scans shards of a plan into a sink.

    Each shard's record holds the sums of its files and its `Totals`; the state of a worker are the
    lists of all test sets, of which other workers are told the `bounds`. `given` are test sets that
    are in memory already.
    """

    plan: ScanPlan
    compute: Compute
    sink: Sink
    given: list[LoadedTest] | None = None
    caching: Caching = field(default_factory=Caching)

    def __getstate__(self) -> dict[str, Any]:
        """What is loaded stays where it is; a copy of this elsewhere loads it again."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @cached_property
    def tests(self) -> list[LoadedTest]:
        if self.given is not None:
            return self.given
        return load_tests(self.plan, self.caching.folder)

    @cached_property
    def layout(self) -> RowLayout:
        sets = tuple(SetColumns(test.name, test.gap is not None) for test in self.tests)
        return RowLayout(
            TrainTable(
                sets, self.plan.settings.above, self.plan.added(thread_count(self.compute.threads))
            ),
            tuple(test.mapped for test in self.tests),
        )

    def new_scanner(self, device: str = "cpu") -> Scanner:
        """Where it runs on GPUs: on one of them, or on all."""
        return make_scanner(
            [test.columns() for test in self.tests],
            self.plan.settings.k,
            gpu=device if device.startswith("cuda") else None,
            kernel=self.compute.kernel,
            device=self.compute.device,
            threads=self.compute.threads,
        )

    def do(self, units: Iterable[ShardUnit], slot: Slot) -> Iterator[Event]:
        """Scan these shards, in this order; any order gives the same tables and lists."""
        scanner = self.new_scanner(slot.device)
        block_rows = self.compute.block_rows or scanner.block_rows
        readers = max(1, min(4, thread_count() // 4))
        shards = (unit.index for unit in units)
        counted = _Counted(scanner)
        with (
            BlockReader(
                self.plan, block_rows, readers, scanner.lock_pages, scanner.writers
            ) as reader,
            _Writer(self, scanner, slot) as writer,
        ):
            try:
                for block, last, found in self._results(scanner, reader.blocks(shards), slot):
                    writer.add(block, found, last)
                    yield counted.step(len(block.status), last)
                    yield from writer.made()
            except InputError:
                yield from writer.made_at_last()
                raise
            yield from writer.made_at_last()

    def _results(
        self, scanner: Scanner, blocks: Iterable[tuple[Block, bool]], slot: Slot
    ) -> Iterator[tuple[Block, bool, Found]]:
        """Blocks and whether they are the last of their shard, with their results."""
        begun: deque[tuple[Block, bool, Scoring]] = deque()
        told = None
        for block, last in blocks:
            if slot.stop():
                return
            if (news := slot.news()) is not told:
                scanner.raise_bounds(news)
                told = news
            pending = scanner.start(block.rows, block.ids)
            scoring = Scoring(pending, self.layout.alone(block.rows))
            begun.append((block.without_rows(), last, scoring))
            del block  # its rows, before the next one is read
            if len(begun) > scanner.ahead:
                earlier, was_last, under_way = begun.popleft()
                yield earlier, was_last, under_way.result()
        for earlier, was_last, under_way in begun:
            yield earlier, was_last, under_way.result()


_T = TypeVar("_T")
_Record = tuple[str, dict[str, Any]]
"""Of a finished shard, with its name."""


class _Counted:
    """What a scanner has done, in steps."""

    def __init__(self, scanner: Scanner) -> None:
        self._scanner = scanner
        self._survivors = self._refined = 0

    def step(self, rows: int, last: bool) -> Step:
        counters = self._scanner.counters
        survivors, refined = counters.survivors - self._survivors, counters.refined - self._refined
        self._survivors, self._refined = counters.survivors, counters.refined
        more = {"survivors": survivors, "refined": refined, "means": self._scanner.name}
        return Step(rows, {"parts": int(last), **more})


class _Writer:
    """The writing threads, seen from the computing one."""

    def __init__(self, work: ScanWork, scanner: Scanner, slot: Slot) -> None:
        self._work, self._scanner, self._worker = work, scanner, slot.number
        self._threads = [
            ThreadPoolExecutor(1, thread_name_prefix="clipgap-write")
            for _ in range(scanner.writers)
        ]
        self._thread_of: dict[int, ThreadPoolExecutor] = {}  # of shards that are under way
        self._units: dict[int, _OpenUnit] = {}  # of the same, each touched by its thread alone
        self._waiting: deque[Future[Any]] = deque()
        self._finished: list[Future[_Record | None]] = []  # and not yet handed over
        self._making: deque[Future[Made]] = deque()
        self._failed = False
        points = sum(len(test.rows) for test in work.tests)
        self._between = seconds_between(points, work.plan.settings.k, slot.of)
        # In turn: the driver never has to deal with all at once, and each hears of others early.
        turn = (slot.number % slot.of + 1) / slot.of
        self._handed_over = time.monotonic() - (1 - turn) * self._between

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        for thread in self._threads:
            thread.shutdown(wait=True)
        for unit in self._units.values():
            unit.abandon(InputError("the shard is left"))

    def add(self, block: Block, found: Found, last: bool) -> None:
        """Queue the writing of a block; raise here what went wrong there."""
        shard = block.shard
        thread = self._thread_of.setdefault(shard, self._idlest())
        self._waiting.append(
            thread.submit(self._on_unit, shard, lambda unit: unit.add(block, found))
        )
        if last:
            del self._thread_of[shard]
            finished = thread.submit(self._on_unit, shard, self._finish)
            self._waiting.append(finished)
            self._finished.append(finished)
            if self._is_due():
                self._hand_over()
        while len(self._waiting) > _WAITING_WRITES * len(self._threads):
            self._waiting.popleft().result()

    def made(self) -> Iterator[Made]:
        """Shards that are written, now and then, with the lists that know them."""
        while self._making and self._making[0].done():
            yield self._making.popleft().result()

    def made_at_last(self) -> Iterator[Made]:
        """All shards that are left, when all is written; raises what went wrong."""
        if self._finished:
            self._hand_over()
        while self._waiting:
            self._waiting.popleft().result()
        while self._making:
            yield self._making.popleft().result()

    def _is_due(self) -> bool:
        return time.monotonic() - self._handed_over >= self._between

    def _idlest(self) -> ThreadPoolExecutor:
        busy = Counter(self._thread_of.values())
        return min(self._threads, key=busy.__getitem__)

    def _hand_over(self) -> None:
        # Always by the first thread: it waits for the others, and none of them for it.
        made = self._threads[0].submit(self._made, self._finished, self._scanner.topk_later())
        self._making.append(made)
        self._finished, self._handed_over = [], time.monotonic()

    # The rest runs in the writing threads.

    def _on_unit(self, shard: int, task: Callable[[_OpenUnit], _T]) -> _T | None:
        # What was queued behind a failed write must not complete a file that lacks it.
        if self._failed:
            return None
        try:
            if shard not in self._units:
                self._units[shard] = _OpenUnit(shard, self._work)
            return task(self._units[shard])
        except BaseException as error:
            if self._failed:  # in another thread, which has said so
                return None
            self._failed = True
            if shard in self._units:
                self._units.pop(shard).abandon(error)
            raise

    def _finish(self, unit: _OpenUnit) -> _Record:
        record = unit.finish()
        del self._units[unit.shard]
        return record

    def _made(
        self, finished: list[Future[_Record | None]], lists: Callable[[], list[TopK]]
    ) -> Made:
        written = [one.result() for one in finished if one.exception() is None]
        return Made(dict(one for one in written if one is not None), lists(), self._worker)


class _OpenUnit:
    """A training shard on its way to files, which appear when it is finished, or never."""

    def __init__(self, shard: int, work: ScanWork) -> None:
        self.shard, self._sink = shard, work.sink
        self._groups = RowGroups(shard, work.layout)
        self._files, self._sums = ExitStack(), dict[str, FileSum]()
        self._put: Put | None = None
        self._put_bad: Put | None = None
        if work.plan.settings.train_table:
            part = self._sink.part(shard, work.layout.table.schema, self._sums)
            self._put = self._files.enter_context(part)

    def add(self, block: Block, found: Found) -> None:
        for group in self._groups.add(block.ok, block.keys, found):
            self._write(group)
        self._groups.totals.of("rows")[1] += np.count_nonzero(block.status == Status.NORMALISED)
        if not block.ok.all():
            if self._put_bad is None:
                bad_rows = self._sink.bad_rows(self.shard, QUARANTINE_SCHEMA, self._sums)
                self._put_bad = self._files.enter_context(bad_rows)
            self._put_bad(quarantine.of_block(block))

    def finish(self) -> _Record:
        """Complete the files; the record that says what the shard has become."""
        for group in self._groups.finish():
            self._write(group)
        self._files.close()
        return part_name(self.shard), {
            "rows": int(self._groups.totals.of("rows")[0]),
            "quarantined": int(self._groups.totals.of("rows")[2]),
            "totals": self._groups.totals.to_json(),
            "files": {name: asdict(entry) for name, entry in self._sums.items()},
        }

    def abandon(self, error: BaseException) -> None:
        """Close the files without any of them appearing; an error in writing one names it."""
        self._files.__exit__(type(error), error, error.__traceback__)

    def _write(self, group: Any) -> None:
        if self._put is not None:
            self._put(group)


def seconds_between(points: int, k: int, workers: int) -> float:
    """How often a worker hands its lists over: of many one driver has to keep up with them."""
    return (_FLUSH + points * k * 16 / _DISK) * max(_PATIENCE, 2 * workers)


def bounds(lists: list[TopK]) -> list[NDArray[np.float64]]:
    """The k-th best score of each point. With k = 10 lists are twenty times as large.

    The rows behind it end up in the tables, or better ones do: these lists are merged into the
    final ones, and a unit that was lost half done is done again, or the run fails.
    """
    return [held.sim[:, -1].copy() for held in lists]


def add_up(table: TrainTable, records: Iterable[dict[str, Any]]) -> Totals:
    """The totals of all shards."""
    whole = Totals.zero(table)
    for record in records:
        whole.add(Totals.from_json(table, record["totals"]))
    return whole
