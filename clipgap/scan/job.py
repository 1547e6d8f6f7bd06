"""A plan with its test sets in memory, and the steps that turn it into tables."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from clipgap.files.parquet import FileSum
from clipgap.kernels.choose import fallback_note, make_scanner
from clipgap.kernels.interface import Scanner, TopK
from clipgap.kernels.options import Compute
from clipgap.runs.how import Progress
from clipgap.runs.old_how import How
from clipgap.scan import quarantine
from clipgap.scan.checkpoint import Ledger
from clipgap.scan.counts import Totals, histogram_table
from clipgap.scan.engine import Engine, Save
from clipgap.scan.inputs import LoadedTest, load_tests
from clipgap.scan.neighbours import Winners, test_tables
from clipgap.scan.plan import ScanPlan
from clipgap.scan.rows import RowLayout
from clipgap.scan.sinks import HIST, QUARANTINE, Sink, part_name, test_name
from clipgap.scan.tables import (
    HIST_SCHEMA,
    QUARANTINE_SCHEMA,
    TEST_SCHEMA,
    SetColumns,
    TrainTable,
)


@dataclass(frozen=True)
class Job:
    """A plan with its test sets in memory, ready to run into a sink."""

    plan: ScanPlan
    tests: list[LoadedTest]
    compute: Compute
    how: How[Progress]
    stop: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def load(cls, plan: ScanPlan, compute: Compute, how: How[Progress]) -> Job:
        how.report(Progress(stage="reading test sets", total=plan.train.rows))
        return cls(plan, load_tests(plan), compute, how, how.stop or threading.Event())

    @cached_property
    def layout(self) -> RowLayout:
        sets = tuple(SetColumns(test.name, test.gap is not None) for test in self.tests)
        return RowLayout(
            TrainTable(sets, self.plan.settings.above),
            tuple(test.mapped for test in self.tests),
        )

    def new_ledger(self) -> Ledger:
        return Ledger(Totals.zero(self.layout.table))

    def new_scanner(self) -> Scanner:
        columns = [test.columns() for test in self.tests]
        if (note := fallback_note(self.compute.kernel, self.compute.device)) is not None:
            self.how.report(Progress(stage="reading test sets", note=note))
        return make_scanner(columns, self.plan.settings.k, compute=self.compute)

    def scan_shards(
        self,
        shards: Iterable[int],
        scanner: Scanner,
        sink: Sink,
        ledger: Ledger,
        save: Save | None = None,
    ) -> None:
        Engine(
            plan=self.plan,
            layout=self.layout,
            scanner=scanner,
            sink=sink,
            ledger=ledger,
            save=save,
            block_rows=self.compute.block_rows or scanner.block_rows,
            on_progress=self.how.report,
            stop=self.stop,
        ).run(list(shards))

    def write_tables(
        self, topk: Sequence[TopK], sink: Sink, ledger: Ledger
    ) -> dict[str, FileSum | None]:
        """All tables but the training table; returns the sums of all files, parts included."""
        files = {part_name(shard): unit.file for shard, unit in ledger.units.items()}
        self._report("keys")
        winners = Winners.look_up(self.plan, topk)
        self._report("writing")
        for test, lists in zip(self.tests, topk, strict=True):
            tables = test_tables(self.plan, test, lists, winners)
            files[test_name(test.name)] = sink.table(test_name(test.name), TEST_SCHEMA, tables)
        hist = histogram_table(ledger.totals)
        files[HIST] = sink.table(HIST, HIST_SCHEMA, [hist])
        bad_shards = [shard for shard, unit in sorted(ledger.units.items()) if unit.quarantined]
        if bad_shards or any(test.mapped is not None for test in self.tests):
            bad_rows = quarantine.gathered(sink, bad_shards, self.tests)
            files[QUARANTINE] = sink.table(QUARANTINE, QUARANTINE_SCHEMA, bad_rows)
        return files

    def _report(self, stage: str) -> None:
        rows, shards = self.plan.train.rows, len(self.plan.train.shards)
        progress = Progress(stage=stage, done=rows, total=rows, part=shards, parts=shards)
        self.how.report(progress)
