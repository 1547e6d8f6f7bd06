"""Counts over the training rows of a scan, kept as plain integers that can be added up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from clipgap.scan.schema import HIST_SCHEMA, SetColumns

# Hundredths from -1.05 to 1.05, and one open bin at each end for margins that leave that range.
EDGES: NDArray[np.float64] = np.arange(-105, 106) / 100.0
LOW: NDArray[np.float64] = np.concatenate([[-np.inf], EDGES])
HIGH: NDArray[np.float64] = np.concatenate([EDGES, [np.inf]])
BINS = len(LOW)
# A value of +inf belongs to the last bin, so that one has no upper end to step over.
_STEP = np.concatenate([EDGES, [np.nan]])


def count_bins(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """How many values lie in each bin, low <= value < high, compared in float64."""
    exact = values.astype(np.float64)
    bins = np.clip(exact * 100.0 + 106.0, 0, BINS - 1).astype(np.intp)
    # The estimate may be off by one beside an edge; the edges themselves decide.
    bins -= exact < LOW[bins]
    bins += exact >= _STEP[bins]
    return np.bincount(bins, minlength=BINS)


@dataclass
class Totals:
    """Everything that a scan counts, for one shard or for all of them."""

    sim: NDArray[np.int64]  # (sets, BINS)
    margin: NDArray[np.int64]  # (sets, BINS); zero where the set has no gap
    above: NDArray[np.int64]  # (sets, thresholds)
    pruned: NDArray[np.int64]  # (sets + 1,), the last for rows pruned by any set
    rows: NDArray[np.int64]  # (3,): all, normalised, quarantined

    @classmethod
    def zero(cls, sets: int, thresholds: int) -> Totals:
        return cls(
            np.zeros((sets, BINS), np.int64),
            np.zeros((sets, BINS), np.int64),
            np.zeros((sets, thresholds), np.int64),
            np.zeros(sets + 1, np.int64),
            np.zeros(3, np.int64),
        )

    def add(self, other: Totals) -> None:
        for name, counts in vars(self).items():
            counts += getattr(other, name)


def histogram_table(totals: Totals, sets: Sequence[SetColumns], above: Sequence[float]) -> Any:
    """`hist.parquet`."""
    parts = []
    for g, columns in enumerate(sets):
        parts.append((columns.name, "sim", LOW, HIGH, totals.sim[g]))
        if columns.has_gap:
            parts.append((columns.name, "margin", LOW, HIGH, totals.margin[g]))
        if above:
            open_end = np.full(len(above), np.inf)
            parts.append((columns.name, "above", np.asarray(above), open_end, totals.above[g]))
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
