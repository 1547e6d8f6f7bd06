"""Evaluate checkpoints on sets.

EVAL/summary.parquet                   accuracies with intervals
EVAL/paired.parquet                    differences between checkpoints
EVAL/subsets.parquet, subsets_paired.parquet
                                       both of subsets and pools; only if there are any
EVAL/samples/CHECKPOINT/SET.parquet    what each checkpoint made of each sample
EVAL/quarantine.parquet                what could not be used; only if there is any
EVAL/manifest.json                     written last
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from clipgap.clip.eval.options import EvalOptions
from clipgap.clip.eval.plan import EvalPlan, plan_evaluation
from clipgap.clip.eval.subset_tables import (
    SUBSETS,
    SUBSETS_PAIRED,
    as_files,
    subset_tables,
)
from clipgap.clip.eval.tables import PAIRED_SCHEMA, SUMMARY_SCHEMA, as_table, compare, summarise
from clipgap.clip.eval.work import SAMPLES, EvalWork, Unit, units_of
from clipgap.clip.models import fetch
from clipgap.clip.passes import do_passes
from clipgap.clip.train.api import MACHINE
from clipgap.errors import UsageError
from clipgap.files.documents import FILES, Each, Form, is_count, read_manifest
from clipgap.files.folders import is_inside, remove
from clipgap.files.parquet import read_table, write_tables
from clipgap.files.remote import path_of
from clipgap.files.sums import FileSum
from clipgap.options import takes_options
from clipgap.runs.how import How
from clipgap.runs.output import Complete, Damaged, Kind, Output, open_output
from clipgap.shards.problems import PROBLEM, QUARANTINE, Problem, write_quarantine
from clipgap.version import __version__

SUMMARY, PAIRED = "summary.parquet", "paired.parquet"

_SUM = {"sha256": str, "size": is_count}
_TEXT = (None, str)
_RECORD = {"samples": is_count, "problems": [PROBLEM]}

KIND = Kind(
    Form(
        "clipgap-eval",
        "evaluation",
        {
            "kind": "eval",
            "checkpoints": [
                {
                    "name": str,
                    "model": _TEXT,
                    "pretrained": _TEXT,
                    "sha256": _TEXT,
                    "config_sha256": _TEXT,
                    "trained": (None, {"seed": is_count, **MACHINE}),
                }
            ],
            "sets": [
                {
                    "name": str,
                    "path": str,
                    "identity": str,
                    **{key: [str] for key in ("classes", "keys", "templates", "groups")},
                    **dict.fromkeys(("border", "samples", "quarantined"), is_count),
                    "subsets": (None, [{"name": str, "classes": [is_count], "keys_sha256": _TEXT}]),
                }
            ],
            "pools": (None, Each([str])),
            "settings": {"precision": str, "draws": is_count, "seed": is_count},
            "units": Each({"file": _SUM, **_RECORD}),
            "versions": Each(str),
            "files": FILES,
        },
    ),
    owns=(SUMMARY, PAIRED, SUBSETS, SUBSETS_PAIRED, f"{SAMPLES}/*/*.parquet", QUARANTINE),
    inner=(SAMPLES,),
    labels={
        "settings": "setting",
        "checkpoints": "checkpoint",
        "sets": "set",
        "pools": "pool",
    },
    free=("path", "samples", "groups", "quarantined", "trained"),
    record={"files": Each(_SUM, name=is_inside), **_RECORD},
)


@dataclass(frozen=True)
class EvalResult:
    """A finished evaluation; its tables are checked when they are read."""

    path: Path
    manifest: Mapping[str, Any]
    already_complete: bool = False
    repaired: Sequence[str] = ()

    @property
    def summary(self) -> pa.Table:
        """Accuracies with intervals, one row a checkpoint, set, group and metric."""
        return self._table(SUMMARY)

    @property
    def paired(self) -> pa.Table:
        """Differences between checkpoints with intervals."""
        return self._table(PAIRED)

    @property
    def has_subsets(self) -> bool:
        return SUBSETS in self.manifest["files"]

    @property
    def subsets(self) -> pa.Table:
        """Accuracies of subsets, of checkpoints and pools; if there are any."""
        return self._table(SUBSETS)

    @property
    def subsets_paired(self) -> pa.Table:
        """Differences of the same between checkpoints, and between pools."""
        return self._table(SUBSETS_PAIRED)

    def samples(self, checkpoint: str, name: str) -> pa.Table:
        """What a checkpoint made of each sample of a set."""
        return self._table(Unit(checkpoint, name).file)

    @property
    def problems(self) -> int:
        """Images, samples and shards in quarantine."""
        return sum(int(entry["quarantined"]) for entry in self.manifest["sets"])

    def _table(self, name: str) -> pa.Table:
        if name in (SUBSETS, SUBSETS_PAIRED) and not self.has_subsets:
            raise UsageError(f"{self.path} was made without --subsets and --pool")
        return read_table(self.path / name, FileSum(**self.manifest["files"][name]))


def open_evaluation(path: str | Path) -> EvalResult:
    """A finished evaluation."""
    unfinished = "Run the same command again with --resume."
    folder = path_of(path)
    return EvalResult(folder, read_manifest(folder, KIND.form, unfinished))


@takes_options
def evaluate(
    checkpoints: str | Sequence[str],
    data: str | Sequence[str],
    out: str | Path,
    *,
    options: EvalOptions,
    how: How,
) -> EvalResult:
    """Top-1 and top-5 accuracy of checkpoints on sets, and what they made of each sample.

    `checkpoints` are files (`path` or `name=path`) or pretrained tags of `model`; classifiers that
    clipgap trained name their own network. `data` are `name=path`; the names of `clipgap data list`
    bring their classes and prompts along, all other sets take them from the files `classnames` and
    `templates`. With `group_by="celeba=Eyeglasses"` accuracies come by the values of a column of
    the set's table too, with `subsets="imagenet-val=FILE.toml"` those of subsets, and with
    `pool="NAME=a,b"` those of several checkpoints together. Images that cannot be decoded are left
    out and listed in `quarantine.parquet`. When `stop` is set, the run ends with `Interrupted`;
    `resume=True` goes on after the last finished checkpoint and set.
    """
    how.tell("reading headers")
    plan = plan_evaluation(_listed(checkpoints), _listed(data), options=options)
    with open_output(out, KIND, how) as output:
        return _fill(output, plan)


def _listed(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value


def _fill(output: Output, plan: EvalPlan) -> EvalResult:
    if output.wants_work:
        output.how.tell("loading")
        for each in plan.checkpoints:
            if each.model is not None:
                fetch(each.model, each.pretrained)
    output.how.tell("reading sets")
    described = plan.describe()
    answer = output.begin(described)
    repaired: list[str] = []
    if isinstance(answer, Complete):
        return EvalResult(output.path, answer.manifest, already_complete=True)
    if isinstance(answer, Damaged):
        repaired = answer.files
        whole = [unit for unit in units_of(plan) if unit.file not in repaired]
        done = answer.manifest["units"]
        output.reopen({unit.name: _record(unit, done[unit.name]) for unit in whole})
    remove(
        output.path, [SUMMARY, PAIRED, SUBSETS, SUBSETS_PAIRED, QUARANTINE]
    )  # they are about all units together
    _evaluate(output, plan)
    output.how.tell("summing up", works=True)
    return EvalResult(output.path, _finish(output, plan, described), repaired=repaired)


def _evaluate(output: Output, plan: EvalPlan) -> None:
    """Do all units that the ledger does not have."""
    units, sizes = units_of(plan), {data.name: data.images.samples for data in plan.sets}
    images = [sizes[unit.data] for unit in units]
    work = EvalWork(output.path, plan)
    do_passes(output, work, units, images, plan.options.device, "evaluation")


def _finish(output: Output, plan: EvalPlan, described: Mapping[str, Any]) -> dict[str, Any]:
    """What is about all units together, and the manifest."""
    records, units = output.ledger.records, units_of(plan)
    files = {unit.file: FileSum(**records[unit.name]["files"][unit.file]) for unit in units}
    summary: list[dict[str, Any]] = []
    paired: list[dict[str, Any]] = []
    subsets: list[dict[str, Any]] = []
    subsets_paired: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = []
    quarantined: list[Problem] = []
    for data, entry in zip(plan.sets, described["sets"], strict=True):
        of_set = [Unit(checkpoint.name, data.name) for checkpoint in plan.checkpoints]
        tables = {
            unit.checkpoint: read_table(output.path / unit.file, files[unit.file])
            for unit in of_set
        }
        for name, table in tables.items():
            summary += summarise(name, data.name, len(data.classes), table)
        paired += compare(data.name, tables, plan.options.draws, plan.options.seed)
        of_subsets = subset_tables(entry, tables, plan.pools, plan.options.draws, plan.options.seed)
        subsets += of_subsets[0]
        subsets_paired += of_subsets[1]
        first = tables[of_set[0].checkpoint]
        problems = records[of_set[0].name]["problems"]
        quarantined += [Problem(**problem) for problem in problems]
        entries.append(
            {
                **entry,
                "samples": first.num_rows,
                "groups": sorted(first["group"].drop_null().unique().to_pylist()),
                "quarantined": len(problems),
            }
        )
    for file, schema, rows in (
        (SUMMARY, SUMMARY_SCHEMA, summary),
        (PAIRED, PAIRED_SCHEMA, paired),
        *(as_files(subsets, subsets_paired) if subsets else ()),
    ):
        files[file] = write_tables(output.path / file, schema, [as_table(rows, schema)])
    if quarantined:
        files[QUARANTINE] = write_quarantine(output.path, quarantined)
    return output.finish(
        {
            "kind": "eval",
            **described,
            "sets": entries,
            "units": {unit.name: _entry(unit, records[unit.name]) for unit in units},
            "versions": {"clipgap": __version__, "pyarrow": pa.__version__},
        },
        files,
    )


def _entry(unit: Unit, record: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest says of a unit with this record."""
    return {
        "file": record["files"][unit.file],
        "samples": record["samples"],
        "problems": record["problems"],
    }


def _record(unit: Unit, entry: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a unit of which the manifest says this."""
    return {
        "files": {unit.file: entry["file"]},
        "samples": entry["samples"],
        "problems": entry["problems"],
    }
