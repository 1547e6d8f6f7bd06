"""Counts over the training rows of a scan, kept as plain integers that can be added up."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.scan import tables
from clipgap.scan.outputs.base import Column, Output, RowOutput, SetOutput
from clipgap.scan.tables import HIST_SCHEMA, TRAIN, TrainTable

# Hundredths from -1.05 to 1.05, and one open bin at each end for margins that leave that range.
EDGES: NDArray[np.float64] = np.arange(-105, 106) / 100.0
LOW: NDArray[np.float64] = np.concatenate([[-np.inf], EDGES])
HIGH: NDArray[np.float64] = np.concatenate([EDGES, [np.inf]])
BINS = len(LOW)
# A value of +inf belongs to the last bin, so that one has no upper end to step over.
_STEP = np.concatenate([EDGES, [np.nan]])

Bins = Callable[[NDArray[Any]], NDArray[np.int64]]


# So many values at a time stay in a core's cache, and in memory that is not given back in between.
_AT_ONCE = 8192


def count_bins(values: NDArray[Any]) -> NDArray[np.int64]:
    """How many values lie in each bin, low <= value < high, compared in float64."""
    counts = np.zeros(BINS, np.int64)
    for start in range(0, len(values), _AT_ONCE):
        exact = values[start : start + _AT_ONCE].astype(np.float64)
        bins = np.clip(exact * 100.0 + 106.0, 0, BINS - 1).astype(np.intp)
        # The estimate may be off by one beside an edge; the edges themselves decide.
        bins -= exact < LOW[bins]
        bins += exact >= _STEP[bins]
        counts += np.bincount(bins, minlength=BINS)
    return counts


@dataclass(frozen=True)
class Totals:
    """Everything that a scan counts, for some rows or for all: one line of integers.

    Totals of the same table add up, exactly and in any order.
    """

    table: TrainTable
    counts: NDArray[np.int64]

    @classmethod
    def zero(cls, table: TrainTable) -> Totals:
        return cls(table, np.zeros(sum(size for _, size in _entries(table)), np.int64))

    @cached_property
    def _places(self) -> dict[tuple[str, str], slice]:
        entries = _entries(self.table)
        ends = np.cumsum([size for _, size in entries]).tolist()
        return {
            entry: slice(end - size, end) for (entry, size), end in zip(entries, ends, strict=True)
        }

    def of(self, kind: str, name: str = "") -> NDArray[np.int64]:
        """Some of the counts, to read or to add to."""
        return self.counts[self._places[kind, name]]

    def add(self, other: Totals) -> None:
        self.counts.__iadd__(other.counts)

    def add_rows(self, values: Mapping[str, NDArray[Any]], bins: Bins = count_bins) -> None:
        """Count rows that have results, by their columns as the table holds them."""
        anywhere: dict[str, NDArray[np.bool_]] = {}
        for field in self.table.fields:
            column, name = values[field.name], field.name
            if field.column.histogram:
                self.of("histogram", name)[:] += bins(column)
            if field.column.above:
                above = self.of("above", name)
                for i, threshold in enumerate(self.table.above):
                    above[i] += np.count_nonzero(column > np.float64(threshold))
            if field.column.is_flag:
                self.of("flag", name)[0] += np.count_nonzero(column)
                if field.test is not None:
                    stem = field.column.stem
                    anywhere[stem] = anywhere.get(stem, False) | column
        for stem, flags in anywhere.items():
            self.of("any", stem)[0] += np.count_nonzero(flags)
        for output in _sorting(self.table):
            cell = output.cell(tuple(values[column.of(None)] for column in output.columns))
            self.of("cells", type(output).__name__)[:] += np.bincount(cell, minlength=output.cells)

    def to_json(self) -> str:
        """As text, of some hundred letters a test set."""
        return base64.b64encode(zlib.compress(self.counts.astype("<i8").tobytes(), 9)).decode()

    @classmethod
    def from_json(cls, table: TrainTable, text: Any) -> Totals:
        """What `to_json` made for the same table; ValueError if it is anything else."""
        zero = cls.zero(table)
        try:
            packed = base64.b64decode(text, validate=True)
            counts = np.frombuffer(zlib.decompressobj().decompress(packed, 1 << 24), "<i8")
        except (TypeError, ValueError, zlib.error) as error:
            raise ValueError(f"these are not the counts of a scan: {error}") from error
        if counts.shape != zero.counts.shape or (counts < 0).any():
            raise ValueError("these are not the counts of this scan")
        return cls(table, counts.astype(np.int64))

    def described(self) -> dict[str, Any]:
        """The entry `counts` of a manifest."""
        rows, normalised, quarantined = self.of("rows").tolist()
        found = {"rows": rows, "normalised": normalised, "quarantined": quarantined}
        for output, column in _flags():
            if isinstance(output, SetOutput):
                names = [columns.name for columns in self.table.sets]
                found[column.stem] = {name: self._flag(column.of(name)) for name in names}
                found[f"{column.stem}_by_any"] = int(self.of("any", column.stem)[0])
            else:
                found[column.stem] = self._flag(column.stem)
        for output in _sorting(self.table):
            found |= output.counted(self.of("cells", type(output).__name__))
        return found

    def _flag(self, name: str) -> int:
        """Zero for a column that the table lacks."""
        return int(self.of("flag", name)[0]) if ("flag", name) in self._places else 0


def _entries(table: TrainTable) -> list[tuple[tuple[str, str], int]]:
    """Kind and name of all that is counted, with how many numbers each of them has."""
    entries = [(("rows", ""), 3)]  # all, normalised, quarantined
    for field in table.fields:
        if field.column.histogram:
            entries.append((("histogram", field.name), BINS))
        if field.column.above:
            entries.append((("above", field.name), len(table.above)))
        if field.column.is_flag:
            entries.append((("flag", field.name), 1))
    entries += [
        (("any", column.stem), 1) for output, column in _flags() if isinstance(output, SetOutput)
    ]
    entries += [(("cells", type(output).__name__), output.cells) for output in _sorting(table)]
    return entries


def _sorting(table: TrainTable) -> list[RowOutput]:
    """The outputs that sort rows into cells."""
    outputs = (part.output for part in table.parts)
    return [output for output in outputs if isinstance(output, RowOutput) and output.cells]


def _flags() -> list[tuple[Output, Column]]:
    return [
        (output, column) for output in tables.OUTPUTS for column in output.columns if column.is_flag
    ]


def histogram_table(totals: Totals) -> Any:
    """`hist.parquet`."""
    table, parts = totals.table, []
    low, high = np.asarray(table.above, np.float64), np.full(len(table.above), np.inf)
    for test in [*(columns.name for columns in table.sets), None]:
        fields = [field for field in table.fields if field.test == test]
        parts += [
            (test or TRAIN, f.column.stem, LOW, HIGH, totals.of("histogram", f.name))
            for f in fields
            if f.column.histogram
        ]
        parts += [
            (test or TRAIN, f.column.above, low, high, totals.of("above", f.name))
            for f in fields
            if f.column.above and table.above
        ]
    return pa.table(
        [
            pa.array([name for name, _, low, _, _ in parts for _ in low], pa.string()),
            pa.array([kind for _, kind, low, _, _ in parts for _ in low], pa.string()),
            pa.array(np.concatenate([low for _, _, low, _, _ in parts])),
            pa.array(np.concatenate([high for _, _, _, high, _ in parts])),
            pa.array(np.concatenate([counts for _, _, _, _, counts in parts])),
        ],
        schema=HIST_SCHEMA,
    )
