"""`dedup`: from a store to keep-lists without its near duplicates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.dedup.notes import Notes
from clipgap.dedup.options import DedupOptions
from clipgap.dedup.plan import DedupPlan, DedupSettings
from clipgap.dedup.rows import RowSource, Watch
from clipgap.dedup.run import Run
from clipgap.dedup.semdedup import require_written, write_semdedup
from clipgap.errors import UsageError
from clipgap.keep.lists import KeepList
from clipgap.keep.writing import KeepWriter
from clipgap.kernels.choose import fallback_note, resolve
from clipgap.kernels.options import Compute
from clipgap.machine import memory_bytes
from clipgap.options import takes_options
from clipgap.runs.how import How, Progress
from clipgap.store.opening import open_store
from clipgap.store.options import Gaps

PLACE = "{epsilon}"


@dataclass(frozen=True)
class Deduplicated:
    """What came of one epsilon."""

    epsilon: float
    rule: Mapping[str, Any]
    sizes: Mapping[str, Any]
    audit: Mapping[str, Any] | None  # how much clustering missed
    flips: Mapping[str, Any] | None  # what rounded scores would decide otherwise
    keep: KeepList | None  # None: only counted, nothing was written
    mask: Callable[[int], NDArray[np.bool_]] = field(repr=False)
    """Which rows of a shard are kept."""


@dataclass(frozen=True)
class Dedup:
    """What a deduplication came to."""

    lists: tuple[Deduplicated, ...]  # by epsilon, ascending
    clustering: Mapping[str, Any] | None  # None: all rows were compared with all
    already_complete: bool = False  # True: a resumed run found nothing to do


@takes_options
def plan_dedup(
    store: Any, epsilon: float | Sequence[float], *, options: DedupOptions, gaps: Gaps
) -> DedupPlan:
    """What `dedup` would do; reads headers, computes nothing."""
    settings = DedupSettings(tuple(np.atleast_1d(epsilon).tolist()), options)
    plan = DedupPlan(open_store(gaps.named(store)), settings)
    plan.require_rows()
    return plan


@takes_options
def dedup(
    store: Any,
    epsilon: float | Sequence[float],
    *,
    out: str | Path | None = None,
    semdedup: str | Path | None = None,
    memory: int | None = None,
    options: DedupOptions,
    gaps: Gaps,
    compute: Compute,
    how: How,
) -> Dedup:
    """Drop rows whose similarity to another row of their cluster exceeds 1 - epsilon.

    `clusters` is their number; `exact` compares all rows with all instead. The keep-list goes to
    the folder `out`; with several epsilons its name holds `{epsilon}`. Without it rows are only
    counted. `semdedup` is a folder for SemDeDup's own files. `memory` is how many bytes rows may
    take, a quarter of the machine's by default; neither it nor kernel, device, threads and
    block_rows change a result.
    """
    resolve(compute.kernel, compute.device)  # what is missing is said before anything is written
    how.report(Progress(stage="reading headers"))
    how.note(fallback_note(compute.kernel, compute.device))
    plan = plan_dedup(store, epsilon, options=options, gaps=gaps)
    room = memory_bytes() // 4 if memory is None else memory
    if room < 1:
        raise UsageError(f"memory is {room:,} bytes; it must be at least 1")
    watch = Watch(how.report, how.is_asked_to_stop)
    source = RowSource(plan.store, options.bad_rows, watch, room // 2, compute.block_rows)
    task = _Task(
        plan, compute, how, source, room // 2, None if semdedup is None else Path(semdedup)
    )
    if out is not None:
        return task.into(str(out))
    how.without_folder()
    return task.in_memory()


def folder_of(out: str, epsilon: float) -> Path:
    """Where the keep-list of one epsilon goes."""
    return Path(out.replace(PLACE, repr(epsilon)))


def common_name(out: str) -> Path:
    """What belongs to all epsilons is named after this."""
    return Path(out.replace(PLACE, "all"))


@dataclass(frozen=True)
class _Task:
    plan: DedupPlan
    compute: Compute
    how: How
    source: RowSource
    memory: int
    semdedup: Path | None

    def in_memory(self) -> Dedup:
        run = self._run(Notes())
        run.decide()
        self._extras(run)
        lists = [
            self._found(run, number, run.sizes(number), None)
            for number in range(len(self.plan.settings.epsilons))
        ]
        return Dedup(tuple(lists), run.clustering)

    def into(self, out: str) -> Dedup:
        settings = self.plan.settings
        if len(settings.epsilons) > 1 and PLACE not in out:
            raise UsageError(
                f"several epsilons make several keep-lists: let the output's name hold {PLACE}, "
                f"as in '{out}-{PLACE}'"
            )
        if len(settings.epsilons) > 1 and PLACE not in (self.how.upload or PLACE):
            raise UsageError(f"several epsilons make several keep-lists: --upload needs {PLACE}")
        identity = self.plan.store.identity()
        if self.how.share is not None:
            return self._write(common_name(out), identity, [])
        with ExitStack() as opened:
            writers = [
                opened.enter_context(
                    KeepWriter(
                        folder_of(out, epsilon),
                        identity,
                        settings.rule(epsilon),
                        how=self._uploading(repr(epsilon)),
                    )
                )
                for epsilon in settings.epsilons
            ]
            return self._write(common_name(out), identity, writers)

    def _uploading(self, epsilon: str) -> How:
        """How it is carried out, with --upload as named for one epsilon, or for all."""
        if self.how.upload is None:
            return self.how
        return replace(self.how, upload=self.how.upload.replace(PLACE, epsilon))

    def _write(self, work: Path, identity: Mapping[str, Any], writers: list[KeepWriter]) -> Dedup:
        settings = self.plan.settings
        finished = [writer.finished for writer in writers if writer.finished is not None]
        if finished and len(finished) == len(writers):
            if self.semdedup is not None:
                require_written(self.semdedup, settings.epsilons)
            Notes.discard(work)
            return _from_lists(finished)
        store = self.plan.store
        marks = {shard.name: store.modified(shard.index) for shard in store.shards}
        described = {"store": identity, "settings": settings.described()}
        with Notes.beside(work, described, marks, self._uploading("all")) as notes:
            run = self._run(notes)
            run.decide()
            self._extras(run)
            lists = []
            for number, writer in enumerate(writers):
                if writer.finished is None:
                    sizes = run.write(number, writer)
                    noted = self._noted(run, number)
                    if run.clustering is not None:
                        noted["clustering"] = run.clustering
                    writer.note(sizes=sizes, **noted)
                keep = writer.finish()
                lists.append(self._found(run, number, keep.sizes, keep))
            return Dedup(tuple(lists), run.clustering)

    def _run(self, notes: Notes) -> Run:
        return Run(self.plan, self.source, self.compute, self.memory, notes, self.how)

    def _extras(self, run: Run) -> None:
        if self.semdedup is not None:
            write_semdedup(self.semdedup, run, self.how.overwrite or self.how.resume)

    def _noted(self, run: Run, number: int) -> dict[str, Any]:
        """What was asked for besides the list of one epsilon."""
        epsilon = str(run.plan.settings.epsilons[number])
        return {name: found[epsilon] for name, found in run.found.items()}

    def _found(
        self, run: Run, number: int, sizes: Mapping[str, Any], keep: KeepList | None
    ) -> Deduplicated:
        epsilon = run.plan.settings.epsilons[number]
        mask = run.mask(number) if keep is None else keep.bits
        rule, noted = run.plan.settings.rule(epsilon), self._noted(run, number)
        return Deduplicated(
            epsilon, rule, sizes, noted.get("audit"), noted.get("flips"), keep, mask
        )


def _from_lists(finished: Sequence[KeepList]) -> Dedup:
    """What finished keep-lists say of the run that made them."""
    lists = [
        Deduplicated(
            keep.manifest["rule"]["epsilon"],
            keep.manifest["rule"],
            keep.sizes,
            keep.manifest.get("audit"),
            keep.manifest.get("flips"),
            keep,
            keep.bits,
        )
        for keep in finished
    ]
    return Dedup(tuple(lists), finished[0].manifest.get("clustering"), already_complete=True)
