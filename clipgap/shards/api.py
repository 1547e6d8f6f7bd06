"""From shards and a keep-list to shards of what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clipgap.keep.lists import KeepList
from clipgap.options import takes_options
from clipgap.runs.old_how import How
from clipgap.shards.options import FilterOptions
from clipgap.shards.plan import FilterPlan, plan_filter
from clipgap.shards.run import FilterResult, Progress, run


@takes_options
def filter_shards(
    shards: str | Path | Sequence[str | Path],
    keep: str | Path | KeepList,
    out: str | Path,
    *,
    options: FilterOptions,
    how: How[Progress],
) -> FilterResult:
    """Copy the kept samples of webdataset shards, byte for byte and in their order.

    Each shard becomes one of the same name, or with `merge=N` they become shards of at most N
    samples, as even as can be. `captions` (a parquet file of key and caption, or a folder with one
    a shard) replaces the captions of the samples it names. `missing` says what to do about kept
    samples that an undamaged shard does not have: "error", "list" or "ignore". What is damaged or
    hostile is left out and listed in `quarantine.parquet`. When `stop` is set, the shards at hand
    are finished and the run ends with `Interrupted`; `resume=True` goes on from there.
    """
    return run_filter(plan_filter(shards, keep, options=options), out, how=how)


@takes_options
def run_filter(plan: FilterPlan, out: str | Path, *, how: How[Progress]) -> FilterResult:
    """Carry out what `plan_filter` has planned; see `filter_shards`."""
    how.report(Progress("reading headers"))
    return run(plan, Path(out), how)
