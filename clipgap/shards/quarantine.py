"""`quarantine.parquet`: what was set aside, in the folder of whatever was made of the rest."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from clipgap.files.parquet import FileSum, write_tables
from clipgap.shards.problems import Problem

QUARANTINE = "quarantine.parquet"
_SCHEMA = pa.schema(
    [
        ("shard", pa.string()),
        ("what", pa.string()),
        ("name", pa.string()),
        ("reason", pa.string()),
        ("offset", pa.int64()),
    ]
)


def write_quarantine(folder: Path, problems: Iterable[Problem]) -> FileSum:
    """One row each, in the order given."""
    table = pa.Table.from_pylist([vars(problem) for problem in problems], schema=_SCHEMA)
    return write_tables(folder / QUARANTINE, _SCHEMA, [table])
