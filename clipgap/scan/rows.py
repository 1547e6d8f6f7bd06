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
from clipgap.kernels.interface import BlockResult
from clipgap.scan.histogram import Totals, count_bins
from clipgap.scan.schema import SetColumns, train_schema


@dataclass(frozen=True)
class RowLayout:
    """What the training table holds of each test set, and how its rows are counted."""

    sets: tuple[SetColumns, ...]
    test_rows: tuple[NDArray[np.int32] | None, ...]  # columns -> test rows; None if the same
    above: tuple[float, ...]

    @property
    def schema(self) -> Any:
        return train_schema(self.sets)

    def no_totals(self) -> Totals:
        return Totals.zero(len(self.sets), len(self.above))


class RowGroups:
    """Cuts the results of one shard into row groups and counts what they hold."""

    def __init__(self, shard: int, layout: RowLayout) -> None:
        self.totals = layout.no_totals()
        self._shard, self._layout, self._schema = shard, layout, layout.schema
        self._start = self._filled = 0
        self._keys: list[Any] = []
        shape = (len(layout.sets), ROW_GROUP)
        self._ok = np.zeros(ROW_GROUP, np.bool_)
        self._sim, self._margin = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self._nn, self._witness = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        self._pruned = np.zeros(shape, np.bool_)

    def add(self, ok: NDArray[np.bool_], keys: Any | None, result: BlockResult) -> Iterator[Any]:
        """Take the next rows, of which those that are `ok` have results; yield full row groups."""
        used = done = 0
        while done < len(ok):
            n = min(len(ok) - done, ROW_GROUP - self._filled)
            part = ok[done : done + n]
            scanned = int(np.count_nonzero(part))
            self._fill(part, result, slice(used, used + scanned))
            if keys is not None:
                self._keys.append(keys.slice(done, n))
            self._filled, used, done = self._filled + n, used + scanned, done + n
            if self._filled == ROW_GROUP:
                yield self._flush()

    def finish(self) -> Iterator[Any]:
        """Yield the last row group, if it holds anything."""
        if self._filled:
            yield self._flush()

    def _fill(self, ok: NDArray[np.bool_], result: BlockResult, source: slice) -> None:
        at: Any = slice(self._filled, self._filled + len(ok))
        self._ok[at] = ok
        if source.stop - source.start < len(ok):
            at = self._filled + np.flatnonzero(ok)
        for g, columns in enumerate(self._layout.sets):
            mapped = self._layout.test_rows[g]
            # Adding zero turns -0.0 into 0.0: a kernel's order of summing must not show.
            self._sim[g, at] = result.sim[source, g] + 0.0
            self._nn[g, at] = _through(mapped, result.nn[source, g])
            if columns.has_gap:
                margin = result.margin[source, g]
                self._margin[g, at] = margin + 0.0
                self._witness[g, at] = _through(mapped, result.witness[source, g])
                self._pruned[g, at] = margin > 0

    def _flush(self) -> Any:
        n = self._filled
        ok = self._ok[:n]
        self._count(ok)
        missing = None if ok.all() else ~ok
        rows = np.arange(self._start, self._start + n, dtype=np.int64)
        keys = pa.concat_arrays(self._keys) if self._keys else pa.nulls(n, pa.string())
        arrays = [pa.array(np.full(n, self._shard, np.int32)), pa.array(rows), keys]
        for g, columns in enumerate(self._layout.sets):
            buffers: list[NDArray[Any]] = [self._sim, self._nn]
            if columns.has_gap:
                buffers += [self._margin, self._witness, self._pruned]
            # Copied, since the buffers are filled again while the row group lives on.
            arrays += [pa.array(buffer[g, :n].copy(), mask=missing) for buffer in buffers]
        self._start, self._filled, self._keys = self._start + n, 0, []
        return pa.Table.from_arrays(arrays, schema=self._schema)

    def _count(self, ok: NDArray[np.bool_]) -> None:
        n, usable = len(ok), int(np.count_nonzero(ok))
        totals = self.totals
        totals.rows += (n, 0, n - usable)
        pruned_by_any = np.zeros(usable, np.bool_)
        for g, columns in enumerate(self._layout.sets):
            sim = self._sim[g, :n][ok]
            totals.sim[g] += count_bins(sim)
            for a, threshold in enumerate(self._layout.above):
                totals.above[g, a] += np.count_nonzero(sim.astype(np.float64) > threshold)
            if columns.has_gap:
                pruned = self._pruned[g, :n][ok]
                pruned_by_any |= pruned
                totals.margin[g] += count_bins(self._margin[g, :n][ok])
                totals.pruned[g] += np.count_nonzero(pruned)
        totals.pruned[-1] += np.count_nonzero(pruned_by_any)


def _through(mapped: NDArray[np.int32] | None, columns: NDArray[np.int32]) -> NDArray[np.int32]:
    return columns if mapped is None else mapped[columns]
