"""From shards and a keep-list to shards of what is kept."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from clipgap.keep.lists import KeepList
from clipgap.shards.plan import FilterPlan, plan_filter
from clipgap.shards.run import FilterHow, FilterResult, OnProgress, Progress, run


def filter_shards(
    shards: str | Path | Sequence[str | Path],
    keep: str | Path | KeepList,
    out: str | Path,
    *,
    merge: int | None = None,
    captions: str | Path | None = None,
    missing: str = "error",
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
    stop: threading.Event | None = None,
) -> FilterResult:
    """Copy the kept samples of webdataset shards, byte for byte and in their order.

    Each shard becomes one of the same name, or with `merge=N` they become shards of at most N
    samples, as even as can be. `captions` (a parquet file of key and caption, or a folder with one
    a shard) replaces the captions of the samples it names. `missing` says what to do about kept
    samples that an undamaged shard does not have: "error", "list" or "ignore". What is damaged or
    hostile is left out and listed in `quarantine.parquet`. When `stop` is set, the shards at hand
    are finished and the run ends with `Interrupted`; `resume=True` goes on from there.
    """
    plan = plan_filter(shards, keep, merge=merge, captions=captions, missing=missing)
    return run_filter(
        plan,
        out,
        workers=workers,
        resume=resume,
        overwrite=overwrite,
        on_progress=on_progress,
        stop=stop,
    )


def run_filter(
    plan: FilterPlan,
    out: str | Path,
    *,
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
    stop: threading.Event | None = None,
) -> FilterResult:
    """Carry out what `plan_filter` has planned; see `filter_shards`."""
    how = FilterHow(
        workers=workers, resume=resume, overwrite=overwrite, on_progress=on_progress, stop=stop
    )
    how.report(Progress("reading headers"))
    return run(plan, Path(out), how)
