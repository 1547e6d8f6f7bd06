"""Columns read straight from their pages equal those that pyarrow decodes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipgap.files.pages import read_plain
from clipgap.files.parquet import write_tables

SCHEMA = pa.schema([("sim", pa.float32()), ("pruned", pa.bool_()), ("nn", pa.int32())])


def table(rows: int, nulls: bool = False) -> pa.Table:
    random = np.random.default_rng(rows)
    missing = random.random(rows) < 0.2 if nulls else None
    columns = [
        random.standard_normal(rows).astype(np.float32),
        random.random(rows) < 0.3,
        random.integers(0, 9, rows, np.int32),
    ]
    return pa.Table.from_arrays([pa.array(c, mask=missing) for c in columns], schema=SCHEMA)


def reading(raw: BinaryIO) -> Callable[[int, int], bytes]:
    return lambda start, size: os.pread(raw.fileno(), size, start)


def columns(path: Path) -> dict[tuple[int, str], Any]:
    """What `read_plain` gives for each chunk; checked against pyarrow."""
    found = {}
    file = pq.ParquetFile(path)
    with path.open("rb") as raw:
        for group in range(file.num_row_groups):
            decoded = file.read_row_group(group)
            for at, name in enumerate(SCHEMA.names):
                values = read_plain(reading(raw), file.metadata.row_group(group).column(at))
                if values is not None:
                    expected = decoded[name].to_numpy()
                    assert values.dtype == expected.dtype
                    np.testing.assert_array_equal(values, expected)
                found[group, name] = values
    return found


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 63, 64, 8191, 8192, 65_536, 150_001])
def test_our_own_tables_are_read_plainly(tmp_path: Path, rows: int) -> None:
    write_tables(tmp_path / "t.parquet", SCHEMA, [table(rows)])
    for (_, name), values in columns(tmp_path / "t.parquet").items():
        assert (values is None) == (name == "nn")


def test_pages_of_any_length(tmp_path: Path) -> None:
    options = {"compression": "none", "use_dictionary": False, "data_page_size": 1000}
    pq.write_table(table(20_000), tmp_path / "t.parquet", row_group_size=8192, **options)
    for (_, name), values in columns(tmp_path / "t.parquet").items():
        assert (values is None) == (name == "nn")


def test_constant_columns(tmp_path: Path) -> None:
    values = [np.zeros(70_000, np.float32), np.ones(70_000, np.bool_), np.zeros(70_000, np.int32)]
    write_tables(tmp_path / "t.parquet", SCHEMA, [pa.Table.from_arrays(values, schema=SCHEMA)])
    assert sum(found is not None for found in columns(tmp_path / "t.parquet").values()) == 4


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zstd", "use_dictionary": False},
        {"use_dictionary": True},
        {"compression": "none", "use_dictionary": False, "write_statistics": False},
        {"compression": "none", "use_dictionary": False, "data_page_version": "2.0"},
        {
            "compression": "none",
            "use_dictionary": False,
            "column_encoding": {"sim": "BYTE_STREAM_SPLIT", "pruned": "RLE", "nn": "PLAIN"},
        },
    ],
)
def test_what_lies_there_otherwise_is_left_alone(tmp_path: Path, options: dict[str, Any]) -> None:
    pq.write_table(table(20_000), tmp_path / "t.parquet", row_group_size=8192, **options)
    found = columns(tmp_path / "t.parquet")
    assert not any(values is not None for (_, name), values in found.items() if name != "pruned")
    with_nulls = tmp_path / "nulls.parquet"
    pq.write_table(table(20_000, nulls=True), with_nulls, compression="none", use_dictionary=False)
    assert all(values is None for values in columns(with_nulls).values())


def test_a_short_file_is_left_to_pyarrow(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_tables(path, SCHEMA, [table(1000)])
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(0)
    path.write_bytes(path.read_bytes()[:300])
    with path.open("rb") as raw:
        assert read_plain(reading(raw), chunk) is None
