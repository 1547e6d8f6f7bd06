"""The files that img2dataset puts beside a tar file, for a shard that has been filtered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from clipgap.errors import InputError
from clipgap.files.atomic import write_atomic
from clipgap.files.parquet import FileSum
from clipgap.files.volumes import File, RangeReader
from clipgap.shards.problems import Problem

KEY = "key"


def statistics(samples: int) -> dict[str, Any]:
    """The content of `NAME_stats.json` for a shard without failures."""
    return {
        "count": samples,
        "successes": samples,
        "failed_to_download": 0,
        "failed_to_resize": 0,
        "status_dict": {"success": samples},
    }


def kept_rows(parquet: File, keys: Sequence[str]) -> tuple[pa.Table, list[Problem]]:
    """The rows of a shard's table that belong to these samples, in their own order."""
    try:
        table = pq.ParquetFile(RangeReader(parquet)).read()
        if table.schema.names.count(KEY) != 1:
            raise InputError(f"{parquet.path}: has not one column {KEY!r}")
        found = table[KEY].cast(pa.string())
        mask = pc.is_in(found, value_set=pa.array(keys, pa.string()))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{parquet.path}: cannot be read: {error}") from error
    problems = []
    lacking = set(keys).difference(found.filter(mask).to_pylist())
    if lacking:
        first = min(lacking)
        reason = f"lacks {len(lacking):,} of the kept samples, the first is {first!r}"
        problems.append(Problem(parquet.path, "shard", "", reason))
    return table.filter(mask), problems


def write_rows(path: Path, tables: Sequence[pa.Table]) -> FileSum:
    """One table out of those of several shards, atomically."""
    try:
        # A column without any value has no type of its own and takes that of the others.
        table = pa.concat_tables(tables, promote_options="default")
    except pa.ArrowException as error:
        raise InputError(
            f"{path}: the tables of the shards do not fit together: {error}"
        ) from error
    with write_atomic(path) as temporary:
        pq.write_table(table, temporary)
    return FileSum.of(path)
