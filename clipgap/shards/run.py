"""Runs a plan into a folder: new, on from where a run stopped, or as a repair."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from clipgap.errors import InputError, Interrupted, UsageError
from clipgap.files.volumes import LocalFile
from clipgap.machine import thread_count
from clipgap.runs.changes import changes, refuse_changes
from clipgap.runs.old_how import How
from clipgap.runs.old_lock import only_writer
from clipgap.runs.old_output import read_manifest
from clipgap.shards.folder import FORMAT, SIZES, ShardFolder
from clipgap.shards.plan import FilterPlan, Part, Unit
from clipgap.shards.problems import Problem
from clipgap.shards.quarantine import QUARANTINE, write_quarantine
from clipgap.shards.unit import Done, Worker, sums_from_json
from clipgap.version import __version__

_LABELS = {
    "settings": "setting",
    "inputs shards": "shard",
    "inputs marks": "last change of shard",
    "inputs keep manifest_sha256": "keep-list",
    "inputs captions": "captions",
}
_FREE = ("path",)
_SHOWN = 5

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Progress:
    """A moment of a filter."""

    stage: str  # "reading headers", "checking", "counting", "filtering"
    shards: int = 0  # done, earlier runs included
    total_shards: int = 0
    kept: int = 0  # samples written, earlier runs included
    new: int = 0  # of them by this run
    total_kept: int = 0  # as far as it is known
    seconds: float = 0.0  # since this run began to filter


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class FilterResult:
    """A finished folder of filtered shards."""

    path: Path
    manifest: Mapping[str, Any]
    already_complete: bool = False
    repaired: Sequence[str] = ()

    @property
    def kept(self) -> int:
        """Samples in the shards."""
        return int(self.manifest["counts"]["kept"])

    @property
    def problems(self) -> int:
        """Shards, samples and members in quarantine."""
        return int(self.manifest["counts"]["problems"])


def run(plan: FilterPlan, out: Path, how: How[Progress]) -> FilterResult:
    """Carry a plan out."""
    with only_writer(out):
        return _run(plan, ShardFolder(out), how)


def _run(plan: FilterPlan, folder: ShardFolder, how: How[Progress]) -> FilterResult:
    state = folder.state()
    if state != "empty" and not (how.resume or how.overwrite):
        raise folder.require_flag(state)
    _spare_the_inputs(plan, folder.path)
    described = plan.describe()
    if state == "finished" and not how.overwrite:
        manifest = read_manifest(folder.path, FORMAT, folder.noun, "Run the same command again.")
        old = {key: manifest[key] for key in described}
        refuse_changes(folder.path, list(changes(old, described, _LABELS, _FREE)))
        how.report(Progress("checking"))
        result = _check_finished(plan, folder, manifest, how)
        if result is not None:
            return result
    inputs = {**described["inputs"], "marks": plan.marks()}
    marked = {**described, "inputs": inputs}
    if state == "unfinished" and not how.overwrite:
        _require_same(folder, marked)
        folder.go_on(marked)
    else:
        folder.start(marked)
    worker = Worker(plan, folder.path, folder.progress)
    counts = plan.expected()
    if counts is None and plan.options.merge is not None:
        counts = _count(plan, folder, worker, how)
    units = plan.units(counts)
    folder.expect(marked, units)
    how.report(Progress("checking", total_shards=len(units)))
    done = folder.saved(units)
    watch = _Watch(how, units, done, None if counts is None else sum(counts))
    left = [unit for unit in units if unit.name not in done]
    for unit, (made, places) in _in_parallel(worker.make, left, plan.options.workers, how):
        folder.save(unit, made, places)
        done[unit.name] = made
        watch.add(made)
    return _finish(plan, folder, described, units, done)


def _finish(
    plan: FilterPlan,
    folder: ShardFolder,
    described: Mapping[str, Any],
    units: Sequence[Unit],
    done: Mapping[str, Done],
) -> FilterResult:
    """What is about all shards together, and the manifest."""
    made = [done[unit.name] for unit in units]
    problems = [problem for each in made for problem in each.problems]
    missing = sum(each.missing for each in made)
    if plan.selector.by == "key":
        missing, found = _judge_keys(plan, folder, units)
        problems += found
    files = {name: entry for each in made for name, entry in each.files.items()}
    sizes = {unit.tar: each.kept for unit, each in zip(units, made, strict=True)}
    files[SIZES] = folder.write_sizes(sizes)
    if problems:
        files[QUARANTINE] = write_quarantine(folder.path, problems)
    manifest = {
        "format": FORMAT,
        "version": 1,
        **described,
        "counts": {
            "shards": len(units),
            "samples": sum(each.samples for each in made),
            "kept": sum(each.kept for each in made),
            "missing": missing,
            "problems": len(problems),
        },
        "versions": {"clipgap": __version__, "pyarrow": pa.__version__},
        "files": {name: asdict(entry) for name, entry in sorted(files.items())},
    }
    folder.finish(manifest)
    return FilterResult(folder.path, manifest)


def _check_finished(
    plan: FilterPlan, folder: ShardFolder, manifest: Mapping[str, Any], how: How[Progress]
) -> FilterResult | None:
    """A finished folder, its damaged shards made again; None if all of it must be."""
    sums = sums_from_json(manifest["files"])
    damaged = set(folder.damaged(sums))
    if not damaged:
        folder.tidy()
        return FilterResult(folder.path, manifest, already_complete=True)
    counts = plan.expected()
    if counts is None and plan.options.merge is not None:
        return None
    units = [unit for unit in plan.units(counts) if not damaged.isdisjoint(unit.files)]
    if not damaged <= {name for unit in units for name in unit.files}:
        return None
    folder.prepare()
    worker = Worker(plan, folder.path, folder.progress)
    for unit, (made, _) in _in_parallel(worker.make, units, plan.options.workers, how):
        if any(sums.get(name) != entry for name, entry in made.files.items()):
            raise InputError(
                f"{folder.path / unit.tar}: was damaged, made again, and came out different: "
                f"another version of pyarrow wrote it (this is {pa.__version__}), or the shards "
                "were changed. Filter again with --overwrite."
            )
    folder.tidy()
    return FilterResult(folder.path, manifest, repaired=sorted(damaged))


def _count(plan: FilterPlan, folder: ShardFolder, worker: Worker, how: How[Progress]) -> list[int]:
    """Kept samples of each shard, where only the shards can tell."""
    counts = folder.saved_counts()
    if counts is None:
        counts = [0] * len(plan.shards)
        parts = [Part(shard.index) for shard in plan.shards]
        how.report(Progress("counting", total_shards=len(parts)))
        counted = _in_parallel(worker.count, parts, plan.options.workers, how)
        for done, (part, kept) in enumerate(counted, start=1):
            counts[part.shard] = kept
            how.report(Progress("counting", shards=done, total_shards=len(parts)))
        folder.save_counts(counts)
    return counts


def _judge_keys(
    plan: FilterPlan, folder: ShardFolder, units: Sequence[Unit]
) -> tuple[int, list[Problem]]:
    """Where keys are all there is: how many were not found, and what is wrong with that."""
    table = plan.selector.sorted_keys().table
    seen = np.zeros(len(table), np.uint8)
    for unit in units:
        places, times = np.unique(folder.places(unit), return_counts=True)
        seen[places] = np.minimum(seen[places] + times, 2)
    keep = str(plan.selector.keep.path)
    reason = "several samples have this key, and no shard's name tells which is meant; all copied"
    problems = [
        Problem(keep, "sample", table[place].decode(), reason) for place in np.flatnonzero(seen > 1)
    ]
    lost = np.flatnonzero(seen == 0)
    if len(lost) and plan.options.missing != "ignore":
        shown = ", ".join(repr(table[place].decode()) for place in lost[:_SHOWN])
        reason = f"{len(lost):,} of its samples are in none of the shards, among them {shown}"
        if plan.options.missing == "error":
            raise InputError(
                f"{keep}: {reason}. Is it a keep-list of other shards? --missing list with "
                "--resume notes it and finishes; --missing ignore is for a part of the shards."
            )
        problems.append(Problem(keep, "keep-list", "", reason))
    return len(lost), problems


class _Watch:
    """Reports progress."""

    def __init__(
        self, how: How[Progress], units: Sequence[Unit], done: Mapping[str, Done], total: int | None
    ) -> None:
        self._how, self._total_shards, self._total = how, len(units), total or 0
        self._shards, self._earlier = len(done), sum(each.kept for each in done.values())
        self._new = 0
        self._began = time.monotonic()
        self._report()

    def add(self, made: Done) -> None:
        self._shards += 1
        self._new += made.kept
        self._report()

    def _report(self) -> None:
        progress = Progress(
            "filtering",
            shards=self._shards,
            total_shards=self._total_shards,
            kept=self._earlier + self._new,
            new=self._new,
            total_kept=self._total,
            seconds=time.monotonic() - self._began,
        )
        self._how.report(progress)


def _in_parallel(
    function: Callable[[T], U], items: Sequence[T], workers: int | None, how: How[Progress]
) -> Iterator[tuple[T, U]]:
    """Results as they come. When asked to stop, those at hand are finished first."""
    # One more than cores, since a shard that is being flushed to the disk needs none.
    threads = workers or thread_count() + 1
    waiting = iter(items)
    left = len(items)
    running: dict[Future[U], T] = {}
    with ThreadPoolExecutor(threads) as pool:
        while left:
            while len(running) < threads and not how.is_asked_to_stop():
                item = next(waiting, None)
                if item is None:
                    break
                running[pool.submit(function, item)] = item
            if not running:
                raise Interrupted(
                    f"stopped with {left:,} of {len(items):,} shards left; --resume goes on"
                )
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                left -= 1
                yield running.pop(future), future.result()


def _require_same(folder: ShardFolder, described: Mapping[str, Any]) -> None:
    found = changes(folder.started_with(), described, _LABELS, _FREE)
    # Nothing was missing so far, or the run would have ended there.
    refuse_changes(
        folder.path, [each for each in found if each[:2] != ("setting missing", "error")]
    )


def _spare_the_inputs(plan: FilterPlan, out: Path) -> None:
    for shard in plan.shards:
        if isinstance(shard.file, LocalFile) and Path(shard.path).resolve().parent == out.resolve():
            raise UsageError(f"{shard.path} lies in the output folder; name another --out")
