"""The tables of a scan folder and their columns; `docs/scan-tables.md` explains them to people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.scan.outputs.base import Column, Output, RowOutput, SetOutput
from clipgap.scan.outputs.margin import MARGIN, PRUNED, WITNESS, Margin
from clipgap.scan.outputs.nearest import NN, SIM, Nearest

TABLES_VERSION = 1
"""Raised when a column changes its name, type or meaning."""

OUTPUTS: tuple[Output, ...] = (Nearest(), Margin())
"""Everything that each scan says of a training row, in the order of the columns."""

TRAIN = "train"
"""What tables call the training rows where they name a test set, so no set may be called that."""


@dataclass(frozen=True)
class SetColumns:
    """A test set and what its columns in the training table are called."""

    name: str
    has_gap: bool

    @property
    def sim(self) -> str:
        return SIM.of(self.name)

    @property
    def nn(self) -> str:
        return NN.of(self.name)

    @property
    def margin(self) -> str:
        return MARGIN.of(self.name)

    @property
    def witness(self) -> str:
        return WITNESS.of(self.name)

    @property
    def pruned(self) -> str:
        return PRUNED.of(self.name)


@dataclass(frozen=True)
class Field:
    """A column where it stands in the training table."""

    column: Column
    test: str | None  # None: of the row alone

    @property
    def name(self) -> str:
        return self.column.of(self.test)


@dataclass(frozen=True)
class Part:
    """An output where it stands: of which test set, if of any."""

    output: Output
    place: int | None
    test: str | None

    @property
    def fields(self) -> tuple[Field, ...]:
        return tuple(Field(column, self.test) for column in self.output.columns)

    def violations(
        self, values: dict[str, NDArray[Any]], points: int
    ) -> Iterator[tuple[NDArray[np.bool_], str]]:
        """Rows whose columns cannot be right, whatever was scanned, and what is wrong."""
        names = {field.column.stem: field.name for field in self.fields}
        own = tuple(values[field.name] for field in self.fields)
        for wrong, words in self.output.contradictions(own):
            yield wrong, words.format(**names)
        for field, column in zip(self.fields, own, strict=True):
            if field.column.is_point:
                yield (
                    (column < 0) | (column >= points),
                    f"{field.name} is not a row of the test set",
                )


@dataclass(frozen=True)
class TrainTable:
    """`train/part-*.parquet`: one row a training row, null results where it is quarantined."""

    sets: tuple[SetColumns, ...]
    above: tuple[float, ...] = ()  # thresholds above which rows are counted
    added: tuple[RowOutput, ...] = ()  # outputs of this scan, behind those of each

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The outputs: those of each test set, then those of the row alone."""
        of_sets = [
            Part(output, place, columns.name)
            for place, columns in enumerate(self.sets)
            for output in OUTPUTS
            if isinstance(output, SetOutput) and (columns.has_gap or not output.needs_gap)
        ]
        alone = [output for output in OUTPUTS if isinstance(output, RowOutput)]
        of_rows = [Part(output, None, None) for output in (*alone, *self.added)]
        return (*of_sets, *of_rows)

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        return tuple(field for part in self.parts for field in part.fields)

    @property
    def schema(self) -> Any:
        placed = [("shard", pa.int32()), ("row", pa.int64()), ("key", pa.string())]
        return pa.schema([*placed, *((field.name, field.column.type) for field in self.fields)])


TEST_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("key", pa.string()),
        ("gap", pa.float64()),
        ("nn_sim", pa.list_(pa.float64())),
        ("nn_shard", pa.list_(pa.int32())),
        ("nn_row", pa.list_(pa.int64())),
        ("nn_key", pa.list_(pa.string())),
    ]
)

HIST_SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("kind", pa.string()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("count", pa.int64()),
    ]
)

QUARANTINE_SCHEMA = pa.schema(
    [
        ("set", pa.string()),
        ("shard", pa.int32()),
        ("row", pa.int64()),
        ("key", pa.string()),
        ("reason", pa.string()),
    ]
)
