"""A finished scan, on disk or in memory: its manifest and its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.errors import InputError, UsageError
from clipgap.files.parquet import FileSum, check_file, read_table
from clipgap.files.remote import RemotePath, path_of
from clipgap.scan.manifest import read_manifest
from clipgap.scan.outputs.domain import Domain
from clipgap.scan.sinks import HIST, QUARANTINE, part_name, test_name
from clipgap.scan.tables import QUARANTINE_SCHEMA, SetColumns, TrainTable
from clipgap.sheets import html


@dataclass(frozen=True)
class TrainingRows:
    """The training table on disk, in row order: it need not fit into memory.

    pandas gets it by `to_pandas()`; Polars, DuckDB and Arrow take it as it is. All else that a
    `pyarrow.dataset.Dataset` can do it can, too.
    """

    dataset: Any

    def to_pandas(self) -> Any:
        return self.dataset.to_table().to_pandas()

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.dataset.scanner().to_reader().__arrow_c_stream__(requested_schema)

    def __getattr__(self, name: str) -> Any:
        if name == "dataset" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.dataset, name)


@dataclass(frozen=True)
class ScanResult:
    """Tables are read when asked for; `docs/scan-tables.md` explains their columns."""

    manifest: Mapping[str, Any]
    path: Path | None = None  # None: in memory
    tables: Mapping[str, Any] = field(default_factory=dict, repr=False)
    repaired: Sequence[str] = ()  # files that a resumed run found damaged and computed again
    already_complete: bool = False  # True: a resumed run found nothing to do

    def __repr__(self) -> str:
        tests = ", ".join(f"{t['name']} {t['rows']:,}" for t in self.manifest["inputs"]["tests"])
        counts = self.manifest["counts"]
        pruned = f"; {counts['pruned_by_any']:,} pruned" if "pruned_by_any" in counts else ""
        kind = self.manifest["kind"]
        return f"<{kind} {self.label}: {self.rows:,} rows against {tests}{pruned}>"

    def _repr_html_(self) -> str:
        """A notebook's view: a line a test set."""
        counts = self.manifest["counts"].get("pruned", {})
        rows = (
            (
                one.name,
                f"{self.test_input(one.name)['rows']:,}",
                f"{counts[one.name]:,}" if one.has_gap else "–",
            )
            for one in self.set_columns
        )
        return html(repr(self), ("test set", "points", "rows pruned"), rows)

    @property
    def label(self) -> str:
        """The scan as a message names it."""
        return "<memory>" if self.path is None else str(self.path)

    @property
    def test_names(self) -> tuple[str, ...]:
        return tuple(test["name"] for test in self.manifest["inputs"]["tests"])

    @property
    def rows(self) -> int:
        return int(self.manifest["counts"]["rows"])

    @property
    def quarantined(self) -> int:
        """Rows without a score, of the training store and of the test sets."""
        tests = sum(test["quarantined"] for test in self.manifest["inputs"]["tests"])
        return int(self.manifest["counts"]["quarantined"] + tests)

    @property
    def set_columns(self) -> tuple[SetColumns, ...]:
        gap = self.manifest["inputs"]["gap"]
        with_gap = () if gap is None else gap["sets"]
        return tuple(SetColumns(name, name in with_gap) for name in self.test_names)

    @property
    def columns(self) -> TrainTable:
        """What the training table says of a row, and what was counted of it."""
        added = (Domain(),) if self.manifest["inputs"].get("heads") else ()
        return TrainTable(self.set_columns, tuple(self.manifest["settings"]["above"]), added)

    @property
    def train_schema(self) -> Any:
        return self.columns.schema

    def test_input(self, name: str) -> Mapping[str, Any]:
        """What the manifest says of a test set."""
        for test in self.manifest["inputs"]["tests"]:
            if test["name"] == name:
                return dict(test)
        raise UsageError(
            f"{self.label} has no test set {name!r}; it has {', '.join(self.test_names)}"
        )

    def train(self) -> TrainingRows:
        """The training table, which need not fit into memory.

        Its files are held against their checksums first, each once.
        """
        import pyarrow.dataset as ds  # brings pandas, which no command waits for

        names = self._parts()
        if self.path is None:
            parts = [self.tables[name] for name in names]
            whole = pa.concat_tables([self.train_schema.empty_table(), *parts])
            return TrainingRows(ds.dataset(whole))
        for name in names:
            check_file(self.path / name, self.sum_of(name), self.train_schema)
        disk, files = None, [str(self.path / name) for name in names]
        if isinstance(self.path, RemotePath):
            disk, files = self.path.arrow(), [file.removeprefix("s3://") for file in files]
        return TrainingRows(ds.dataset(files, self.train_schema, "parquet", filesystem=disk))

    def pruned(self, name: str) -> Any:
        """The training rows that a test set prunes, with their margins and witnesses."""
        self.test_input(name)
        (own,) = (columns for columns in self.set_columns if columns.name == name)
        if not own.has_gap:
            raise UsageError(
                f"{self.label} prunes nothing for {name!r}: it was made without a gap for it"
            )
        import pyarrow.dataset as ds

        columns = ["shard", "row", "key", own.sim, own.margin, own.witness]
        return self.train().to_table(columns=columns, filter=ds.field(own.pruned))

    def train_table(self) -> Any:
        """The whole training table in memory."""
        return pa.concat_tables([self.train_schema.empty_table(), *map(self._table, self._parts())])

    def _parts(self) -> list[str]:
        if not self.manifest["settings"]["train_table"]:
            raise UsageError(f"{self.label} was made without a training table")
        return [
            part_name(shard) for shard in range(len(self.manifest["inputs"]["train"]["shards"]))
        ]

    def test(self, name: str, columns: Sequence[str] | None = None) -> Any:
        """The table of one test set, or some of its columns."""
        self.test_input(name)
        return self._table(test_name(name), columns)

    def hist(self) -> Any:
        """Histograms and counts above thresholds."""
        return self._table(HIST)

    def quarantine(self) -> Any:
        """The rows without a score; empty if there are none."""
        return self._table(QUARANTINE) if self.quarantined else QUARANTINE_SCHEMA.empty_table()

    def tau(self, name: str) -> NDArray[np.float64]:
        """The threshold that this scan gives each point of a test set when it is used as a gap:
        the highest score of any training row, -inf where there is none.
        """
        return np.concatenate([np.zeros(0), *map(_highest, self.test(name, ["nn_sim"])[0].chunks)])

    def sum_of(self, name: str) -> FileSum:
        """What the manifest says of a file in the folder of the scan."""
        entry = self.manifest["files"].get(name)
        if entry is None:
            raise InputError(f"{self.label}: the manifest does not name {name}")
        return FileSum(**entry)

    def _table(self, name: str, columns: Sequence[str] | None = None) -> Any:
        if self.path is None:
            table = self.tables[name]
            return table if columns is None else table.select(columns)
        return read_table(self.path / name, self.sum_of(name), columns)


def _highest(lists: Any) -> NDArray[np.float64]:
    """The first entry of each list; -inf where there is none."""
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    starts = lists.offsets.to_numpy()[:-1]
    highest = np.full(len(lists), -np.inf)
    highest[lengths > 0] = lists.values.to_numpy()[starts[lengths > 0]]
    return highest


def open_scan(path: str | Path) -> ScanResult:
    """Open a finished scan folder."""
    folder = path_of(path)
    return ScanResult(read_manifest(folder), folder)
