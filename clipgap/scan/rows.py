"""Results of blocks in, row groups of the training table out.

Blocks have the size that suits the machine; row groups always have the same. In between lie plain
arrays, one a column, that are filled and handed on: nothing is done per row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.files.parquet import ROW_GROUP
from clipgap.kernels.interface import BlockResult, Pending
from clipgap.memory import blank
from clipgap.scan.counts import Totals
from clipgap.scan.outputs.base import RowOutput, SetOutput, Values
from clipgap.scan.tables import TrainTable


@dataclass(frozen=True)
class Found:
    """What is known of the usable rows of a block: by a kernel, and of each row by itself."""

    result: BlockResult
    alone: tuple[Values, ...]  # one entry a `RowOutput` of the table


@dataclass(frozen=True)
class RowLayout:
    """A training table and how the columns of a kernel become test rows in it."""

    table: TrainTable
    test_rows: tuple[NDArray[np.int32] | None, ...]  # None if they are the same

    def alone(self, rows: NDArray[np.float16]) -> tuple[Values, ...]:
        """What outputs say of rows by themselves, taken while the rows are in memory."""
        outputs = (part.output for part in self.table.parts)
        return tuple(output.fill(rows) for output in outputs if isinstance(output, RowOutput))

    def columns(self, found: Found) -> Values:
        """All columns of the table, of usable rows, as outputs fill them."""
        columns: list[NDArray[Any]] = []
        for part in self.table.parts:
            if isinstance(part.output, SetOutput):
                assert part.place is not None
                columns += part.output.fill(found.result, part.place)
        return (*columns, *(column for values in found.alone for column in values))


@dataclass(frozen=True)
class Scoring:
    """A block that a scanner has begun, and what was known of its rows before they were dropped."""

    pending: Pending
    alone: tuple[Values, ...]

    def result(self) -> Found:
        return Found(self.pending.result(), self.alone)


class RowGroups:
    """Cuts the results of one shard into row groups and counts what they hold."""

    def __init__(self, shard: int, layout: RowLayout) -> None:
        self.totals = Totals.zero(layout.table)
        self._shard, self._layout, self._schema = shard, layout, layout.table.schema
        self._start = self._filled = 0
        self._keys: list[Any] = []
        self._ok = np.zeros(ROW_GROUP, np.bool_)
        self._columns: list[NDArray[Any]] = []  # of the row group that is being filled
        self._mapped = [
            layout.test_rows[part.place] if column.is_point and part.place is not None else None
            for part in layout.table.parts
            for column in part.output.columns
        ]

    def add(self, ok: NDArray[np.bool_], keys: Any | None, found: Found) -> Iterator[Any]:
        """Take the next rows, of which those that are `ok` have results; yield full row groups."""
        columns = self._layout.columns(found)
        used = done = 0
        while done < len(ok):
            n = min(len(ok) - done, ROW_GROUP - self._filled)
            part = ok[done : done + n]
            scanned = int(np.count_nonzero(part))
            self._fill(part, columns, slice(used, used + scanned))
            if keys is not None:
                self._keys.append(keys.slice(done, n))
            self._filled, used, done = self._filled + n, used + scanned, done + n
            if self._filled == ROW_GROUP:
                yield self._flush()

    def finish(self) -> Iterator[Any]:
        """Yield the last row group, if it holds anything."""
        if self._filled:
            yield self._flush()

    def _fill(self, ok: NDArray[np.bool_], columns: Values, source: slice) -> None:
        if not self._filled:
            self._columns = self._room()
        here = slice(self._filled, self._filled + len(ok))
        self._ok[here] = ok
        for held, mapped, column in zip(self._columns, self._mapped, columns, strict=True):
            values = column[source]
            if mapped is not None:
                values = mapped[values]
            if len(values) < len(ok):
                values, usable = np.zeros(len(ok), values.dtype), values
                values[ok] = usable
            if values.dtype.kind == "f":
                # Adding zero turns -0.0 into 0.0: a kernel's order of summing must not show.
                np.add(values, 0.0, out=held[here], casting="same_kind")
            else:
                held[here] = values

    def _room(self) -> list[NDArray[Any]]:
        """Columns of a row group, which lie where those of one that is written lay before."""
        dtypes = [field.column.dtype for field in self._layout.table.fields]
        ends = np.cumsum([ROW_GROUP * dtype.itemsize for dtype in dtypes])
        parts = np.split(blank((int(ends[-1]),), np.uint8), ends[:-1])
        return [part.view(dtype) for part, dtype in zip(parts, dtypes, strict=True)]

    def _flush(self) -> Any:
        n = self._filled
        ok = self._ok[:n]
        self._count(ok)
        missing = None if ok.all() else ~ok
        rows = np.arange(self._start, self._start + n, dtype=np.int64)
        keys = pa.concat_arrays(self._keys) if self._keys else pa.nulls(n, pa.string())
        arrays = [pa.array(np.full(n, self._shard, np.int32)), pa.array(rows), keys]
        # The memory goes along with the row group, unless most of it would lie idle.
        columns = self._columns if n == ROW_GROUP else [held[:n].copy() for held in self._columns]
        arrays += [
            field.column.as_arrow(held, missing)
            for field, held in zip(self._layout.table.fields, columns, strict=True)
        ]
        self._start, self._filled, self._keys, self._columns = self._start + n, 0, [], []
        return pa.Table.from_arrays(arrays, schema=self._schema)

    def _count(self, ok: NDArray[np.bool_]) -> None:
        n, usable = len(ok), int(np.count_nonzero(ok))
        self.totals.of("rows")[:] += (n, 0, n - usable)
        fields = self._layout.table.fields
        # Most row groups hold no row that is set aside.
        chosen: Any = slice(n) if usable == n else np.flatnonzero(ok)
        self.totals.add_rows(
            {field.name: held[chosen] for field, held in zip(fields, self._columns, strict=True)}
        )
