"""`label_domains`: the scores and domains of all rows of a store.

DOMAINS/manifest.json              store, heads, counts; written last
DOMAINS/train/part-00000.parquet   a row for each row of one shard of the store: shard, row, key,
                                   the score of each head, and the domain at each of its points

A row is natural if the natural head accepts it and the other does not, a rendition if it is the
other way round, and else ambiguous. Rows that are zero, NaN or infinite have no scores: null.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clipgap.domains.options import LabelOptions
from clipgap.files.documents import FILES, Each, Form, is_count
from clipgap.files.parquet import FileSum, write_tables
from clipgap.heads.heads import (
    CELLS,
    CITED,
    COUNTS,
    DOMAIN_COLUMNS,
    HEADS,
    LABELS,
    Heads,
    cells,
    counts_of,
    open_heads,
    require_model,
)
from clipgap.kernels.admit import admit
from clipgap.kernels.options import Compute
from clipgap.machine import thread_count
from clipgap.options import Only, takes_options
from clipgap.runs.executors import Threads
from clipgap.runs.how import How, Progress, Tally
from clipgap.runs.output import Complete, Damaged, Kind, Output, open_output, spare
from clipgap.runs.run import run_units
from clipgap.runs.units import Event, Made, Slot, Step
from clipgap.scan.inputs import refuse_bad_rows
from clipgap.scan.manifest import STORE
from clipgap.scan.sinks import part_name
from clipgap.store.base import Store
from clipgap.store.opening import open_store
from clipgap.version import __version__

SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("row", pa.int64()),
        ("key", pa.string()),
        *((name, pa.float32()) for name in HEADS),
        *((column, pa.string()) for column in DOMAIN_COLUMNS),
    ]
)

KIND = Kind(
    Form(
        "clipgap-domains",
        "folder of domains",
        {
            "kind": "domains",
            "inputs": {
                "store": STORE,
                "heads": CITED,
            },
            "settings": {"bad_rows": str},
            "counts": {"rows": is_count, "quarantined": is_count, **COUNTS},
            "versions": Each(str),
            "files": FILES,
        },
    ),
    owns=("train/part-*.parquet",),
    inner=("train",),
    labels={
        "inputs store": "store",
        "inputs store shards": "shard",
        "inputs heads": "heads",
        "settings": "setting",
        "marks": "last change of shard",
    },
    free=("path", "format"),
)

_ROWS = 4096


@dataclass(frozen=True)
class Domains:
    """A folder of domains."""

    path: Path
    manifest: Mapping[str, Any]
    already_complete: bool = False

    @property
    def quarantined(self) -> int:
        return int(self.manifest["counts"]["quarantined"])


@takes_options
def label_domains(
    store: Any,
    heads: str | Path | Heads,
    *,
    out: str | Path,
    options: LabelOptions,
    compute: Annotated[Compute, Only("threads")],
    how: How,
) -> Domains:
    """Score all rows of a store by heads, and say the domain of each.

    The folder `out` is what `mix` takes as labels. Results depend on rows and heads alone.
    """
    opened, loaded = open_store(store), open_heads(heads)
    require_model(loaded, opened, options.model)
    spare(Path(out), [Path(opened.path), loaded.path], how)
    described = {
        "kind": "domains",
        "inputs": {
            "store": opened.identity(),
            "heads": loaded.cite(),
        },
        "settings": {"bad_rows": options.bad_rows},
    }
    marks = {shard.name: opened.modified(shard.index) for shard in opened.shards}
    with open_output(out, KIND, how) as output:
        answer = output.begin(described, marks=marks)
        if isinstance(answer, Complete):
            return Domains(output.path, answer.manifest, already_complete=True)
        work = LabelWork(output.path, opened, loaded, options.bad_rows)
        if isinstance(answer, Damaged):
            how.note(f"{len(answer.files):,} damaged files, so all is labelled again")
            output.start()
        return Domains(output.path, _fill(output, work, described, compute.threads))


@takes_options
def plan_labels(store: Any, heads: str | Path | Heads, *, options: LabelOptions) -> dict[str, Any]:
    """What `label_domains` would do; reads headers and heads, labels nothing."""
    opened, loaded = open_store(store), open_heads(heads)
    require_model(loaded, opened, options.model)
    shards = len(opened.shards)
    return {"store": opened.path, "shards": shards, "rows": opened.rows, "model": loaded.model}


def _fill(
    output: Output, work: LabelWork, described: Mapping[str, Any], threads: int | None
) -> dict[str, Any]:
    how, ledger = output.how, output.ledger
    units = [Unit(shard.index, shard.rows) for shard in work.store.shards]
    tally = Tally(
        how,
        Progress(
            stage="labelling",
            total=work.store.rows,
            done=sum(record["counts"]["rows"] for record in ledger.records.values()),
            part=len(ledger.records),
            parts=len(units),
        ),
    )
    executor = how.executor or Threads(thread_count(threads))
    for event in run_units(work, units, ledger, executor, how):
        if isinstance(event, Step):
            tally.add(event.done)
        else:
            tally.add(parts=len(event.records))
    records = [ledger.records[unit.name] for unit in units]
    counts = zero()
    for record in records:
        add(counts, record["counts"])
    files = {name: FileSum(**entry) for r in records for name, entry in r["files"].items()}
    versions = {"clipgap": __version__, "pyarrow": pa.__version__}
    return output.finish({**described, "counts": counts, "versions": versions}, files)


@dataclass(frozen=True)
class Unit:
    """A shard to be labelled."""

    index: int
    size: int  # rows

    @property
    def name(self) -> str:
        return part_name(self.index)


class _Left(Exception):
    """The shard at hand is left, and its file never appears."""


@dataclass(frozen=True)
class LabelWork:
    """Labels shards into the folder `out`; each record has the shard's counts."""

    out: Path
    store: Store
    heads: Heads
    bad_rows: str
    one_core: ClassVar = True

    def do(self, units: Iterable[Unit], slot: Slot) -> Iterator[Event]:
        for unit in units:
            counts = zero()
            pieces = self._pieces(unit.index, counts, slot)
            try:
                entry = write_tables(self.out / unit.name, SCHEMA, pieces, plain=["key", *HEADS])
            except _Left:
                return
            yield Step(counts["rows"])
            yield Made(
                {unit.name: {"counts": counts, "files": {unit.name: asdict(entry)}}},
                worker=slot.number,
            )

    def _pieces(self, shard: int, counts: dict[str, Any], slot: Slot) -> Iterator[pa.Table]:
        rows = self.store.shards[shard].rows
        for start in range(0, rows, _ROWS):
            if slot.stop():
                raise _Left
            table = self.table(shard, start, min(start + _ROWS, rows))
            add(counts, count(table))
            yield table

    def table(self, shard: int, start: int, stop: int) -> pa.Table:
        """What is said of some rows of a shard."""
        admitted = admit(self.store.read(shard, start, stop))
        refuse_bad_rows(self.bad_rows, self.store, shard, start, admitted)
        scores, bad = self.heads.scores(admitted.rows), ~admitted.ok
        keys = self.store.keys(shard, start, stop)
        n = stop - start
        columns = [
            pa.array(np.full(n, shard, np.int32)),
            pa.array(np.arange(start, stop)),
            pa.nulls(n, pa.string()) if keys is None else keys,
        ]
        columns += [pa.array(column, mask=bad) for column in scores.astype(np.float32).T]
        for said in self.heads.domains(scores):
            columns.append(pa.array(np.array(LABELS, object)[said], mask=bad))
        return pa.Table.from_arrays(columns, schema=SCHEMA)


def zero() -> dict[str, Any]:
    """The counts of no rows."""
    return _counts(0, np.zeros((len(DOMAIN_COLUMNS), 0), np.int64))


def add(counts: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, value in more.items():
        if isinstance(value, Mapping):
            add(counts[name], value)
        else:
            counts[name] += value


def count(table: pa.Table, kept: NDArray[np.bool_] | None = None) -> dict[str, Any]:
    """The counts of a table's rows, or of those that are kept."""
    said = np.stack([_places(table[column]) for column in DOMAIN_COLUMNS])
    if kept is not None:
        said = said[:, kept]
    return _counts(said.shape[1], said[:, said[0] >= 0])


def _places(said: pa.ChunkedArray) -> NDArray[np.int64]:
    """Places in LABELS; -1 where nothing is said."""
    places: NDArray[np.int64] = (
        pc.index_in(said, pa.array(LABELS)).fill_null(-1).to_numpy().astype(np.int64)
    )
    return places


def _counts(rows: int, said: NDArray[np.int64]) -> dict[str, Any]:
    """The counts of so many rows, of which some have domains."""
    counts = np.bincount(cells(*said), minlength=CELLS)
    return {"rows": rows, "quarantined": rows - said.shape[1], **counts_of(counts)}
