"""`scan` and `gap`: from stores to tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from clipgap.errors import InputError, UsageError
from clipgap.files.atomic import write_atomic
from clipgap.files.documents import MANIFEST
from clipgap.files.identity import sampled_since
from clipgap.files.remote import source_of
from clipgap.files.sums import FileSum
from clipgap.heads.options import ByHeads
from clipgap.kernels.choose import fallback_note, gpus
from clipgap.kernels.interface import Counters, TopK
from clipgap.kernels.options import Compute
from clipgap.machine import thread_count
from clipgap.memory import arrow_from_system
from clipgap.options import takes_options
from clipgap.runs.executors import Here, Processes
from clipgap.runs.how import How, Progress, Tally
from clipgap.runs.lock import PROGRESS
from clipgap.runs.output import Complete, Damaged, Output, open_output, spare
from clipgap.runs.run import run_units
from clipgap.runs.units import Executor, Ledger, StateFile, Step
from clipgap.scan import quarantine
from clipgap.scan.counts import histogram_table
from clipgap.scan.inputs import describe_inputs, marks
from clipgap.scan.manifest import FORMAT, KIND, may_change, versions
from clipgap.scan.neighbours import Winners, test_tables
from clipgap.scan.options import Caching, ScanOptions
from clipgap.scan.plan import ScanPlan, make_plan
from clipgap.scan.result import ScanResult, open_scan
from clipgap.scan.sinks import HIST, QUARANTINE, FolderSink, MemorySink, part_name, test_name
from clipgap.scan.tables import HIST_SCHEMA, QUARANTINE_SCHEMA, TEST_SCHEMA
from clipgap.scan.work import ScanWork, ShardUnit, add_up, bounds
from clipgap.store.options import Gaps, Mixing


@takes_options
def scan(
    train: Any,
    tests: Mapping[str, Any],
    *,
    gap: str | Path | ScanResult | None = None,
    out: str | Path | None = None,
    options: ScanOptions,
    by: ByHeads,
    mixing: Mixing,
    gaps: Gaps,
    compute: Compute,
    caching: Caching,
    how: How,
) -> ScanResult:
    """Score every row of `train` against every test set, exactly, in one pass.

    `train` and the values of `tests` are whatever `open_store` takes: paths, arrays, tensors,
    stores. `gap` is a scan of a reference set; its scores become the thresholds of the columns
    margin, witness and pruned. `heads` say the domain of each training row. Without `out` the
    tables stay in memory. Results depend on the inputs, `k`, `bad_rows`, `train_table` and `above`,
    and on nothing else. When `stop` is set the scan ends with `Interrupted` after the current
    block; `resume=True` goes on from there.
    """
    how.tell("reading headers")
    plan = plan_scan(train, tests, gap=gap, options=options, by=by, mixing=mixing, gaps=gaps)
    return run_plan(plan, out, compute, caching, how)


@takes_options
def gap(
    reference: Any,
    tests: Mapping[str, Any],
    *,
    out: str | Path | None = None,
    options: ScanOptions,
    mixing: Mixing,
    gaps: Gaps,
    compute: Compute,
    caching: Caching,
    how: How,
) -> ScanResult:
    """Scan a reference set: the highest score of each test point becomes its threshold.

    The result is what `scan` takes as `gap`. Arguments are those of `scan`.
    """
    how.tell("reading headers")
    plan = plan_scan(reference, tests, kind="gap", options=options, mixing=mixing, gaps=gaps)
    return run_plan(plan, out, compute, caching, how)


@takes_options
def plan_scan(
    train: Any,
    tests: Mapping[str, Any],
    *,
    kind: str = "scan",
    gap: str | Path | ScanResult | None = None,
    options: ScanOptions,
    by: ByHeads,
    mixing: Mixing,
    gaps: Gaps,
) -> ScanPlan:
    """What `scan` (or, with kind="gap", `gap`) would do; reads headers, computes nothing."""
    if gap is not None and not isinstance(gap, ScanResult):
        gap = open_scan(gap)
    if not isinstance(tests, Mapping):
        raise UsageError(
            f"tests is a {type(tests).__name__}; give stores by name, as in "
            "{'val': 'val-embeddings'}"
        )
    named = {name: gaps.named(test) for name, test in tests.items()}
    return make_plan(kind, gaps.named(train), named, gap, options, mixing, by)


# --- carrying a plan out


@arrow_from_system()
def run_plan(
    plan: ScanPlan, out: str | Path | None, compute: Compute, caching: Caching, how: How
) -> ScanResult:
    """Carry a plan out: in memory, into a new folder, on from where it stopped, or as a repair."""
    for note in plan.notes:
        how.note(note)
    if out is None:
        how.without_folder()
        sink = MemorySink()
        entries = scan_into(ScanWork(plan, compute, sink, caching=caching), how)
        return ScanResult({"format": FORMAT, "version": 1, **entries}, None, sink.tables)
    gap = None if plan.gap is None else plan.gap.path
    spare(Path(out), [gap, None if plan.heads is None else plan.heads.path], how)
    with open_output(out, KIND, how) as output:
        work = ScanWork(plan, compute, FolderSink(output.path), caching=caching)
        return _run_in_folder(work, output, how)


def scan_into(work: ScanWork, how: How) -> dict[str, Any]:
    """Put all tables into the sink of `work`; what a manifest would say of them."""
    described, ledger = _describe(work, how), Ledger(None)
    ledger.gather(_merge, tell=bounds)
    now = _scan(work, ledger, how, how.executor or Here())
    entries, _ = _finish(work, ledger, how, now)
    return {**described, **entries, "files": {}}


def _run_in_folder(work: ScanWork, output: Output, how: How) -> ScanResult:
    described = _describe(work, how)
    sets = len(work.tests)
    kept = StateFile("lists.npz", _save_lists, lambda path: _load_lists(path, sets))
    output.ledger.gather(_merge, kept, tell=bounds)
    answer = output.begin(described, marks=marks(work.plan), may_change=may_change)
    if isinstance(answer, Complete):
        doubt = sampled_since(work.plan.train.files(), output.path / MANIFEST)
        if doubt is not None:
            how.note(doubt)
        return ScanResult(answer.manifest, output.path, already_complete=True)
    if isinstance(answer, Damaged):
        how.note(
            f"{len(answer.files):,} damaged files are computed again, the first is "
            f"{answer.files[0]}"
        )
        if _mend(work, output, answer, how):
            return ScanResult(answer.manifest, output.path, repaired=answer.files)
        output.start()
    now = _scan(work, output.ledger, how, how.executor or _executor(work))
    entries, files = _finish(work, output.ledger, how, now)
    manifest = output.finish({**described, **entries}, files)
    return ScanResult(manifest, output.path)


def _describe(work: ScanWork, how: How) -> dict[str, Any]:
    """Read the test sets, by whose content a scan is known."""
    how.tell("reading test sets", total=work.plan.train.rows)
    how.note(fallback_note(work.compute.kernel, work.compute.device))
    return describe_inputs(work.plan, work.tests)


def _executor(work: ScanWork) -> Executor:
    """A process for each GPU where there are several: one process could not feed them all."""
    found = gpus(work.compute.kernel, work.compute.device)
    if len(found) < 2 or not any(work.plan.train.files()):  # rows in memory stay in this process
        return Here()
    return Processes(found, max(1, thread_count() // len(found)))


def _scan(work: ScanWork, ledger: Ledger, how: How, executor: Executor) -> Progress:
    """Scan all shards that the ledger does not have; how fast that went."""
    plan, counters = work.plan, Counters()
    units = [ShardUnit(shard.index, shard.rows) for shard in plan.train.shards]
    tally = Tally(
        how,
        Progress(
            stage="scanning",
            done=sum(record["rows"] for record in ledger.records.values()),
            total=plan.train.rows,
            part=len(ledger.records),
            parts=len(units),
        ),
    )

    def figures(now: Progress) -> dict[str, float]:
        operations = 2.0 * now.new * plan.test_rows * plan.train.dim
        return counters.figures(round(now.new), operations, now.seconds)

    for event in run_units(work, units, ledger, executor, how):
        if isinstance(event, Step):
            counters.survivors += event.more["survivors"]
            counters.refined += event.more["refined"]
            tally.add(event.done, event.more["parts"], figures, means=event.more["means"])
    return tally.now


def _finish(
    work: ScanWork, ledger: Ledger, how: How, now: Progress
) -> tuple[dict[str, Any], dict[str, FileSum]]:
    """Write all tables but the training table; what the manifest says of them, and all sums."""
    plan, sink = work.plan, work.sink
    shards = len(plan.train.shards)
    topk = ledger.state
    if topk is None:  # a store without shards
        topk = work.new_scanner().topk()
    try:
        totals = add_up(work.layout.table, ledger.records.values())
    except ValueError as error:
        raise InputError(
            f"{ledger.path} is damaged: {error}. Scan again with --overwrite."
        ) from error
    files: dict[str, FileSum | None] = {
        name: FileSum(**entry)
        for record in ledger.records.values()
        for name, entry in record["files"].items()
        if not name.startswith(PROGRESS)
    }
    how.report(replace(now, stage="keys"))
    winners = Winners.look_up(plan, topk)
    how.report(replace(now, stage="writing"))
    for test, lists in zip(work.tests, topk, strict=True):
        name, tables = test_name(test.name), test_tables(plan, test, lists, winners)
        files[name] = sink.table(name, TEST_SCHEMA, tables)
    files[HIST] = sink.table(HIST, HIST_SCHEMA, [histogram_table(totals)])
    bad_shards = [
        shard
        for shard in range(shards)
        if ledger.records.get(part_name(shard), {}).get("quarantined")
    ]
    if bad_shards or any(test.mapped is not None for test in work.tests):
        bad_rows = quarantine.gathered(sink, bad_shards, work.tests)
        files[QUARANTINE] = sink.table(QUARANTINE, QUARANTINE_SCHEMA, bad_rows)
    sums = {name: entry for name, entry in files.items() if entry is not None}
    return {"counts": totals.described(), "versions": versions()}, sums


def _mend(work: ScanWork, output: Output, answer: Damaged, how: How) -> bool:
    """Compute damaged parts of the training table again; False if more than those is damaged.

    The training table has a part for each shard, and each can be computed alone. The other tables
    need all shards.
    """
    damaged = set(answer.files)
    units = [ShardUnit(shard.index, shard.rows) for shard in work.plan.train.shards]
    units = [unit for unit in units if unit.name in damaged]
    if len(units) < len(damaged):
        return False
    output.prepare()
    scratch = Ledger(None)
    scratch.gather(_merge)
    for _ in run_units(work, units, scratch, how.executor or Here(), how):
        pass
    problems = [
        f"{name}: SHA-256 {record['files'][name]['sha256']} now, "
        f"{answer.manifest['files'][name]['sha256']} before"
        for name, record in sorted(scratch.records.items())
        if record["files"][name] != answer.manifest["files"][name]
    ]
    if problems:
        raise InputError.listing(
            f"{output.path}: damaged parts were computed again and came out different. They were "
            f"probably written by another version of pyarrow (this one is {pa.__version__}). "
            "Scan again with --overwrite.",
            problems,
        )
    output.tidy()
    return True


def _merge(ours: list[TopK], theirs: list[TopK]) -> list[TopK]:
    """The lists of two workers as one; an id that is in both counts once."""
    return [one.merge(other) for one, other in zip(ours, theirs, strict=True)]


def _save_lists(path: Path, topk: list[TopK]) -> None:
    """Lists may already know rows of shards that are not done: their ids are added again on
    resume, and a list holds an id once.
    """
    arrays: dict[str, Any] = {}
    for i, lists in enumerate(topk):
        arrays |= {f"sim_{i}": lists.sim, f"id_{i}": lists.id}
    with write_atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def _load_lists(path: Path, sets: int) -> list[TopK]:
    """What `_save_lists` wrote; the archive's own checksums tell a damaged file."""
    try:
        with np.load(source_of(path), allow_pickle=False) as arrays:
            return [TopK(arrays[f"sim_{i}"], arrays[f"id_{i}"]) for i in range(sets)]
    except (MemoryError, InputError):
        raise
    except Exception as error:  # of damage the parsers of archives and headers raise what they will
        raise InputError(
            f"the lists {path} are damaged ({error}). Start again with --overwrite."
        ) from error
