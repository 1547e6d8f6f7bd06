"""From shards and a keep-list to shards of what is kept.

NAME.tar, NAME_stats.json    one a unit; NAME.parquet too where the input has one
sizes.json                   samples of each tar file, as open_clip reads it
quarantine.parquet           what could not be used; only if there is any
manifest.json                written last
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from clipgap.errors import InputError
from clipgap.files.documents import FILES, MANIFEST, Each, Form, is_count, write_json
from clipgap.files.identity import sampled_since
from clipgap.files.sums import AnySum, damaged, sums_from_json
from clipgap.keep.lists import KeepList
from clipgap.machine import thread_count
from clipgap.options import takes_options
from clipgap.runs.changes import Change
from clipgap.runs.executors import Threads
from clipgap.runs.how import How, Progress, Tally
from clipgap.runs.output import Complete, Damaged, Kind, Output, open_output, spare
from clipgap.runs.run import run_units
from clipgap.runs.units import Event, Executor, Ledger, Made
from clipgap.shards.lookup import Findings
from clipgap.shards.options import FilterOptions
from clipgap.shards.plan import FilterPlan, Unit, plan_filter
from clipgap.shards.problems import PROBLEM, QUARANTINE, Problem, write_quarantine
from clipgap.shards.work import PLACES, FilterWork, FindWork, load_found
from clipgap.version import __version__

SIZES = "sizes.json"

_FILE = {"name": str, "bytes": is_count, "fingerprint": str}
_FOUND = {"kept": is_count, "missing": [str], "files": FILES}
_COUNTS = ("shards", "samples", "kept", "missing", "problems")

KIND = Kind(
    Form(
        "clipgap-shards",
        "folder of filtered shards",
        {
            "kind": "shards",
            "inputs": {
                "shards": [_FILE],
                "beside": (None, [_FILE]),
                "keep": {"path": str, "manifest_sha256": str},
                "captions": (None, {"files": [{"name": str, "sha256": str}]}),
            },
            "settings": {"merge": (None, is_count), "missing": str, "match": (None, str)},
            "counts": dict.fromkeys(_COUNTS, is_count),
            "versions": Each(str),
            "files": FILES,
        },
    ),
    owns=(SIZES, QUARANTINE),
    inner=(PLACES,),
    labels={
        "settings": "setting",
        "inputs shards": "shard",
        "inputs beside": "file beside the shards",
        "inputs keep manifest_sha256": "keep-list",
        "inputs captions": "captions",
        "marks shards": "last change of shard",
        "marks beside": "last change of",
        "marks captions": "last change of captions",
    },
    free=("path",),
    record={
        **dict.fromkeys(("samples", "kept", "missing"), is_count),
        "problems": [PROBLEM],
        "files": FILES,
    },
)


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


@takes_options
def filter_shards(
    shards: str | Path | Sequence[str | Path],
    keep: str | Path | KeepList,
    out: str | Path,
    *,
    options: FilterOptions,
    how: How,
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
def run_filter(plan: FilterPlan, out: str | Path, *, how: How) -> FilterResult:
    """Carry out what `plan_filter` has planned; see `filter_shards`."""
    how.tell("reading headers")
    spare(Path(out), plan.local_files(), how)
    # One more than cores, since a shard that is being flushed to the disk needs none.
    executor = how.executor or Threads(plan.options.workers or thread_count() + 1)
    with open_output(out, KIND, how) as output:
        return _run(plan, output, executor)


def _run(plan: FilterPlan, output: Output, executor: Executor) -> FilterResult:
    how, described = output.how, plan.describe()
    work = FilterWork(plan, output.path)
    answer = output.begin(described, marks=plan.marks(), may_change=_may_change)
    if isinstance(answer, Complete | Damaged):
        if doubt := sampled_since(plan.files(), output.path / MANIFEST):
            how.note(doubt)
        if isinstance(answer, Complete):
            return FilterResult(output.path, answer.manifest, already_complete=True)
        if _mend(work, output, answer, executor):
            return FilterResult(output.path, answer.manifest, repaired=answer.files)
        output.start()
    findings = _find(plan, output, executor)
    plan.check(findings)
    units = plan.units(plan.expected() or findings.kept)
    output.expect(name for unit in units for name in unit.files)
    done = output.ledger.records
    tally = Tally(
        how,
        Progress(
            stage="filtering",
            done=sum(record["kept"] for record in done.values()),
            total=sum(plan.expected() or findings.kept),
            noun="samples",
            part=len(done),
            parts=len(units),
        ),
    )
    for event in run_units(work, units, output.ledger, executor, how):
        tally.add(sum(record["kept"] for record in _records(event)), parts=1)
    entries, files = _finish(plan, output, units, findings)
    return FilterResult(output.path, output.finish({**described, **entries}, files))


def _may_change(change: Change) -> bool:
    """No sample has been missing so far, or the run would have ended there."""
    return change[:2] == ("setting missing", "error")


def _find(plan: FilterPlan, output: Output, executor: Executor) -> Findings:
    """What the shards hold, where they are to be asked before anything is written."""
    how, ledger = output.how, Ledger(output.progress / "found.jsonl", _FOUND)
    ledger.load()
    ledger.forget([name for name, it in ledger.records.items() if damaged(output.path, _sums(it))])
    work, units = FindWork(plan, output.path), plan.questions()
    begin = Progress(stage="counting", part=len(ledger.records), parts=len(units))
    tally = Tally(how, begin)
    for _ in run_units(work, units, ledger, executor, how.undivided):
        tally.add(parts=1)
    found = (load_found(output.path, unit, ledger.records[unit.name]) for unit in units)
    return Findings.of(plan.selector, found)


def _finish(
    plan: FilterPlan, output: Output, units: Sequence[Unit], findings: Findings
) -> tuple[dict[str, Any], dict[str, AnySum]]:
    """What is about all shards together; what the manifest says of them, and all sums."""
    records = [output.ledger.records[unit.name] for unit in units]
    problems = [Problem(**entry) for record in records for entry in record["problems"]]
    missing = sum(record["missing"] for record in records)
    if plan.selector.by == "key":
        missing = findings.missing
        problems += _of_keys(plan, findings)
    files = {name: entry for record in records for name, entry in _sums(record).items()}
    files[SIZES] = write_json(
        output.path / SIZES,
        {unit.tar: record["kept"] for unit, record in zip(units, records, strict=True)},
    )
    if problems:
        files[QUARANTINE] = write_quarantine(output.path, problems)
    counts = {
        "shards": len(units),
        "samples": sum(record["samples"] for record in records),
        "kept": sum(record["kept"] for record in records),
        "missing": missing,
        "problems": len(problems),
    }
    versions = {"clipgap": __version__, "pyarrow": pa.__version__}
    return {"counts": counts, "versions": versions}, files


def _mend(work: FilterWork, output: Output, answer: Damaged, executor: Executor) -> bool:
    """Make damaged shards again; False if more than those is damaged, or they need all others."""
    spoilt, plan, how = set(answer.files), work.plan, output.how
    counts = plan.expected()
    if counts is None and plan.options.merge is not None:
        return False
    units = [unit for unit in plan.units(counts) if not spoilt.isdisjoint(unit.files)]
    if not spoilt <= {name for unit in units for name in unit.files}:
        return False
    output.prepare()
    for event in run_units(work, units, Ledger(None), executor, how):
        for record in _records(event):
            for name, entry in _sums(record).items():
                if answer.sums.get(name) != entry:
                    raise InputError(
                        f"{output.path / name}: was damaged, made again, and came out different: "
                        "another version of pyarrow wrote it (this is "
                        f"{pa.__version__}), or the shards were changed. Filter again with "
                        "--overwrite."
                    )
    output.tidy()
    return True


def _records(event: Event) -> list[Mapping[str, Any]]:
    return list(event.records.values()) if isinstance(event, Made) else []


def _sums(record: Mapping[str, Any]) -> dict[str, AnySum]:
    return sums_from_json(record["files"])


def _of_keys(plan: FilterPlan, findings: Findings) -> list[Problem]:
    """What is wrong where names are all there is, of all shards together."""
    keep = str(plan.selector.keep.path)
    reason = "several samples have this key, and no shard's name tells which is meant; all copied"
    problems = [Problem(keep, "sample", name, reason) for name in findings.twice]
    if findings.missing and plan.options.missing != "ignore":
        problems.append(Problem(keep, "keep-list", "", findings.lacking(plan.selector)))
    return problems
