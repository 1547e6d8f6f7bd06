"""Carries a plan out: each image is decoded once for several checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from clipgap.clip.eval.classifier import load_classifier
from clipgap.clip.eval.contenders import Contender, Trained, preprocesses, zero_shot
from clipgap.clip.eval.folder import FORMAT, PAIRED, SUMMARY, Done, EvalFolder, Unit
from clipgap.clip.eval.loading import batches
from clipgap.clip.eval.plan import Checkpoint, EvalPlan
from clipgap.clip.eval.scores import SAMPLES_SCHEMA, samples_table, score
from clipgap.clip.eval.sets import EvalSet
from clipgap.clip.eval.summary import PAIRED_SCHEMA, SUMMARY_SCHEMA, as_table, compare, summarise
from clipgap.clip.models import load, resolve_device
from clipgap.errors import InputError, Interrupted
from clipgap.files.parquet import FileSum, read_table, write_tables
from clipgap.machine import thread_count
from clipgap.runs.changes import changes, refuse_changes
from clipgap.runs.old_how import How
from clipgap.runs.old_lock import only_writer
from clipgap.runs.old_output import read_manifest
from clipgap.shards.problems import Problem
from clipgap.shards.quarantine import QUARANTINE, write_quarantine
from clipgap.version import __version__

TOGETHER = 4
"""Checkpoints in memory at a time, for which an image is decoded once."""

_LABELS = {"settings": "setting", "checkpoints": "checkpoint", "sets": "set"}
_FREE = ("path", "samples", "groups", "quarantined")


@dataclass(frozen=True)
class Progress:
    """A moment of an evaluation."""

    stage: str  # "checking", "loading", "evaluating", "summing up"
    note: str = ""  # the set at hand
    done: int = 0  # images times checkpoints, of this run
    total: int = 0  # as far as it is known
    seconds: float = 0.0


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class EvalResult:
    """A finished evaluation."""

    path: Path
    manifest: Mapping[str, Any]
    already_complete: bool = False
    repaired: Sequence[str] = ()

    @property
    def summary(self) -> pa.Table:
        """Accuracies with intervals, one row a checkpoint, set, group and metric."""
        return read_table(self.path / SUMMARY)

    @property
    def paired(self) -> pa.Table:
        """Differences between checkpoints with intervals."""
        return read_table(self.path / PAIRED)

    def samples(self, checkpoint: str, name: str) -> pa.Table:
        """What a checkpoint made of each sample of a set."""
        return EvalFolder(self.path).read_samples((checkpoint, name))

    @property
    def problems(self) -> int:
        """Images, samples and shards in quarantine."""
        return sum(int(entry["quarantined"]) for entry in self.manifest["sets"])


def open_evaluation(path: str | Path) -> EvalResult:
    """A finished evaluation."""
    folder = EvalFolder(Path(path))
    unfinished = "Run the same command again with --resume."
    return EvalResult(folder.path, read_manifest(folder.path, FORMAT, folder.noun, unfinished))


def run(plan: EvalPlan, out: Path, how: How[Progress]) -> EvalResult:
    """Carry a plan out."""
    with only_writer(out):
        return _run(plan, EvalFolder(out), how)


def _run(plan: EvalPlan, folder: EvalFolder, how: How[Progress]) -> EvalResult:
    out, described = folder.path, plan.describe()
    units = [(checkpoint.name, data.name) for checkpoint in plan.checkpoints for data in plan.sets]
    state = folder.state()
    if state == "unfinished" and not folder.has_units():
        state = "empty"  # it ended before it had made anything, as with a wrong checkpoint
    if state != "empty" and not (how.resume or how.overwrite):
        raise folder.require_flag(state)
    repaired: list[str] = []
    if state == "empty" or how.overwrite:
        folder.start(described)
    elif state == "unfinished":
        refuse_changes(out, list(changes(folder.started_with(), described, _LABELS, _FREE)))
        folder.go_on(described)
    else:
        how.report(Progress("checking"))
        manifest = open_evaluation(out).manifest
        old = {key: manifest[key] for key in described}
        refuse_changes(out, list(changes(old, described, _LABELS, _FREE)))
        repaired = folder.damaged({n: FileSum(**sum_) for n, sum_ in manifest["files"].items()})
        if not repaired:
            folder.tidy()
            return EvalResult(out, manifest, already_complete=True)
        done = {unit: Done.from_json(manifest["units"]["/".join(unit)]) for unit in units}
        folder.reopen(described, done)
    done = folder.saved(units)
    for unit, made in _Runner(plan, folder, how).make(set(units) - set(done)):
        folder.save(unit, made)
        done[unit] = made
    how.report(Progress("summing up"))
    return EvalResult(out, _finish(plan, folder, described, done), repaired=repaired)


@dataclass
class _Runner:
    """Makes units, those of one set together."""

    plan: EvalPlan
    folder: EvalFolder
    how: How[Progress]
    _count: int = 0
    _total: int = 0
    _began: float = field(default_factory=time.monotonic)

    def make(self, todo: set[Unit]) -> Iterator[tuple[Unit, Done]]:
        """Units as they are finished."""
        import torch

        sizes = {data.name: data.images.samples for data in self.plan.sets}
        known = [sizes[name] for _, name in todo]
        self._total = 0 if None in known else sum(size or 0 for size in known)
        wanted = {name for name, _ in todo}
        left = [checkpoint for checkpoint in self.plan.checkpoints if checkpoint.name in wanted]
        options = self.plan.options
        device = resolve_device(options.device)
        for first in range(0, len(left), TOGETHER):
            self.how.report(Progress("loading"))
            together = left[first : first + TOGETHER]
            loaded = {each.name: _load(each, device, options.precision) for each in together}
            for data in self.plan.sets:
                contenders = {n: each for n, each in loaded.items() if (n, data.name) in todo}
                if not contenders:
                    continue
                try:
                    yield from self._evaluate(data, contenders)
                except torch.OutOfMemoryError as error:
                    raise InputError(
                        f"{device} has not enough memory for {len(loaded):,} checkpoints and "
                        f"batches of {options.batch_size:,} images. Choose a smaller --batch-size "
                        "or fewer checkpoints, and go on with --resume."
                    ) from error

    def _evaluate(
        self, data: EvalSet, contenders: Mapping[str, Contender]
    ) -> Iterator[tuple[Unit, Done]]:
        """One pass over a set."""
        self._report(data)
        problems: list[Problem] = []
        tables: dict[str, list[pa.Table]] = {name: [] for name in contenders}
        different = preprocesses(contenders)
        place = {prepared_as: index for index, prepared_as in enumerate(different)}
        heads = {name: each.head(data.classes) for name, each in contenders.items()}
        row = 0
        for batch in batches(
            data,
            list(different.values()),
            self.plan.options.batch_size,
            self.plan.options.workers or thread_count(),
            problems.append,
        ):
            for name, each in contenders.items():
                logits = heads[name](batch.images[place[each.prepared_as]])
                if not np.isfinite(logits).all():
                    bad = batch.keys[int(np.flatnonzero(~np.isfinite(logits).all(axis=1))[0])]
                    raise InputError(
                        f"{name}: gives logits that are no numbers for {bad!r} of {data.name}. "
                        "Its weights are broken, or --precision is too low for them."
                    )
                scored = score(logits, batch.labels)
                tables[name].append(
                    samples_table(row, batch.keys, batch.groups, batch.labels, scored)
                )
            row += len(batch.keys)
            self._count += len(batch.keys) * len(contenders)
            self._report(data)
            if self.how.is_asked_to_stop():
                raise Interrupted("stopped; finished sets are kept, and --resume goes on")
        if row == 0:
            reasons = f": {problems[0]}" if problems else ""
            raise InputError(f"{data.path}: holds no sample that can be evaluated{reasons}")
        for name in contenders:
            unit = (name, data.name)
            file = self.folder.write_samples(unit, SAMPLES_SCHEMA, tables[name])
            yield unit, Done(file, row, tuple(problems))

    def _report(self, data: EvalSet) -> None:
        seconds = time.monotonic() - self._began
        self.how.report(Progress("evaluating", data.name, self._count, self._total, seconds))


def _load(checkpoint: Checkpoint, device: str, precision: str) -> Contender:
    if checkpoint.classes is not None:
        path = Path(str(checkpoint.pretrained))
        return Trained(checkpoint.name, load_classifier(path, device, precision))
    assert checkpoint.model is not None
    loaded = load(checkpoint.model, checkpoint.pretrained, device, precision)
    return zero_shot(loaded, checkpoint.name)


def _finish(
    plan: EvalPlan,
    folder: EvalFolder,
    described: Mapping[str, Any],
    done: Mapping[Unit, Done],
) -> dict[str, Any]:
    """What is about all units together, and the manifest."""
    summary: list[dict[str, Any]] = []
    paired: list[dict[str, Any]] = []
    entries: list[dict[str, Any]] = []
    quarantined: list[Problem] = []
    for data, entry in zip(plan.sets, described["sets"], strict=True):
        tables = {
            checkpoint.name: folder.read_samples((checkpoint.name, data.name))
            for checkpoint in plan.checkpoints
        }
        for name, table in tables.items():
            summary += summarise(name, data.name, len(data.classes), table)
        paired += compare(data.name, tables, plan.options.draws, plan.options.seed)
        first = plan.checkpoints[0].name
        groups = tables[first]["group"].drop_null().unique().to_pylist()
        problems = done[first, data.name].problems
        quarantined += problems
        entries.append(
            {
                **entry,
                "samples": tables[first].num_rows,
                "groups": sorted(groups),
                "quarantined": len(problems),
            }
        )
    files = {folder.file(unit): each.file for unit, each in done.items()}
    for file, schema, rows in (
        (SUMMARY, SUMMARY_SCHEMA, summary),
        (PAIRED, PAIRED_SCHEMA, paired),
    ):
        files[file] = write_tables(folder.path / file, schema, [as_table(rows, schema)])
    if quarantined:
        files[QUARANTINE] = write_quarantine(folder.path, quarantined)
    manifest = {
        "format": FORMAT,
        "version": 1,
        "kind": "eval",
        **described,
        "sets": entries,
        "units": {"/".join(unit): each.to_json() for unit, each in sorted(done.items())},
        "versions": {"clipgap": __version__, "pyarrow": pa.__version__},
        "files": {name: asdict(entry) for name, entry in sorted(files.items())},
    }
    folder.finish(manifest)
    return manifest
