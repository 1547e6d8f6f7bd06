"""The columns of every table in a scan folder; `docs/scan-tables.md` explains them to people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

TABLES_VERSION = 1
"""Raised when a column changes its name, type or meaning."""


@dataclass(frozen=True)
class SetColumns:
    """Which columns one test set has in the training table."""

    name: str
    has_gap: bool

    @property
    def sim(self) -> str:
        return f"sim_{self.name}"

    @property
    def nn(self) -> str:
        return f"nn_{self.name}"

    @property
    def margin(self) -> str:
        return f"margin_{self.name}"

    @property
    def witness(self) -> str:
        return f"witness_{self.name}"

    @property
    def pruned(self) -> str:
        return f"pruned_{self.name}"


def train_schema(sets: Sequence[SetColumns]) -> Any:
    """One row a training row, in row order; null results where the row is quarantined."""
    fields = [("shard", pa.int32()), ("row", pa.int64()), ("key", pa.string())]
    for columns in sets:
        fields += [(columns.sim, pa.float32()), (columns.nn, pa.int32())]
        if columns.has_gap:
            fields += [
                (columns.margin, pa.float32()),
                (columns.witness, pa.int32()),
                (columns.pruned, pa.bool_()),
            ]
    return pa.schema(fields)


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
