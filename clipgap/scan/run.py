"""Runs a plan: in memory, into a new folder, on from where a run stopped, or as a repair."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from clipgap.errors import InputError, UsageError
from clipgap.files.parquet import FileSum
from clipgap.kernels.interface import Scanner
from clipgap.kernels.options import Compute
from clipgap.memory import arrow_from_system
from clipgap.runs.how import Progress
from clipgap.runs.old_how import How
from clipgap.runs.old_lock import only_writer
from clipgap.runs.old_output import State
from clipgap.scan.checkpoint import Ledger
from clipgap.scan.folder import ScanFolder
from clipgap.scan.job import Job
from clipgap.scan.manifest import complete, describe_inputs, read_manifest
from clipgap.scan.plan import ScanPlan
from clipgap.scan.result import ScanResult
from clipgap.scan.resume import require_same, with_marks
from clipgap.scan.sinks import MemorySink, part_name


@arrow_from_system()
def run_plan(
    plan: ScanPlan, out: str | Path | None, compute: Compute, how: How[Progress]
) -> ScanResult:
    """Carry a plan out."""
    for note in plan.notes:
        how.report(Progress(stage="reading headers", note=note))
    if out is None:
        if how.resume or how.overwrite:
            raise UsageError("--resume and --overwrite need an output folder")
        return _run_in_memory(Job.load(plan, compute, how))
    folder = ScanFolder(Path(out))
    with only_writer(folder.path):
        state = folder.state()
        if state != "empty" and not (how.resume or how.overwrite):
            raise folder.require_flag(state)
        _spare_the_gap(plan, folder)
        return _run_in_folder(
            Job.load(plan, compute, how), folder, "empty" if how.overwrite else state
        )


def _run_in_memory(job: Job) -> ScanResult:
    sink, ledger, scanner = MemorySink(), job.new_ledger(), job.new_scanner()
    job.scan_shards(range(len(job.plan.train.shards)), scanner, sink, ledger)
    job.write_tables(scanner.topk(), sink, ledger)
    described = describe_inputs(job.plan, job.tests)
    manifest = complete(described, ledger.totals, {})
    return ScanResult(manifest, None, sink.tables)


def _run_in_folder(job: Job, folder: ScanFolder, state: State) -> ScanResult:
    described = describe_inputs(job.plan, job.tests)
    if state == "finished":
        manifest = read_manifest(folder.path)
        require_same(folder.path, {key: manifest[key] for key in described}, described)
        result = _check_finished(job, folder, manifest)
        if result is not None:
            return result
    marked = with_marks(described, job.plan)
    scanner, ledger = job.new_scanner(), job.new_ledger()
    if state == "unfinished":
        require_same(folder.path, folder.started_with(), marked)
        folder.go_on(marked)
        if (saved := folder.load(job.layout.table)) is not None:
            ledger, topk = saved
            scanner.load_topk(topk)
            _recompute(job, folder, scanner, folder.damaged_parts(_part_sums(ledger)))
    else:
        folder.start(marked)
    todo = [shard.index for shard in job.plan.train.shards if shard.index not in ledger.units]
    job.scan_shards(todo, scanner, folder, ledger, folder.save)
    files = job.write_tables(scanner.topk(), folder, ledger)
    sums = {name: entry for name, entry in files.items() if entry is not None}
    manifest = complete(described, ledger.totals, sums)
    folder.finish(manifest)
    return ScanResult(manifest, folder.path)


def _check_finished(job: Job, folder: ScanFolder, manifest: Mapping[str, Any]) -> ScanResult | None:
    """A finished scan, its damaged parts computed again; None if all of it must be.

    The training table has a part for each shard, and each can be computed alone. The other tables
    need all shards.
    """
    sums = {name: FileSum(**entry) for name, entry in manifest["files"].items()}
    damaged = folder.damaged(sums)
    if not damaged:
        folder.tidy()
        return ScanResult(manifest, folder.path, already_complete=True)
    note = f"{len(damaged):,} damaged files are computed again, the first is {damaged[0]}"
    job.how.report(Progress(stage="reading headers", note=note))
    parts = {part_name(shard.index): shard.index for shard in job.plan.train.shards}
    if not all(name in parts for name in damaged):
        return None
    folder.prepare()
    expected = {parts[name]: sums[name] for name in damaged}
    _recompute(job, folder, job.new_scanner(), expected)
    folder.tidy()
    return ScanResult(manifest, folder.path, repaired=damaged)


def _recompute(
    job: Job, folder: ScanFolder, scanner: Scanner, expected: Mapping[int, FileSum]
) -> None:
    """Write these parts again; what comes out must be what was there before."""
    scratch = job.new_ledger()
    job.scan_shards(sorted(expected), scanner, folder, scratch)
    problems = [
        f"{part_name(shard)}: SHA-256 {unit.file.sha256} now, {expected[shard].sha256} before"
        for shard, unit in sorted(scratch.units.items())
        if unit.file and unit.file != expected[shard]
    ]
    if problems:
        raise InputError.listing(
            f"{folder.path}: damaged parts were computed again and came out different. They were "
            f"probably written by another version of pyarrow (this one is {pa.__version__}). "
            "Scan again with --overwrite.",
            problems,
        )


def _part_sums(ledger: Ledger) -> dict[int, FileSum]:
    return {shard: unit.file for shard, unit in ledger.units.items() if unit.file}


def _spare_the_gap(plan: ScanPlan, folder: ScanFolder) -> None:
    gap = plan.gap
    if gap is not None and gap.path is not None and gap.path.resolve() == folder.path.resolve():
        raise UsageError(f"{folder.path} is both gap and output; name another output folder")
