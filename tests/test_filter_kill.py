"""SIGKILL at every write of a filter, and a file size limit: nothing half-done is visible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.kill_driver import run_driver
from tests.shards import write_keep, write_shard

KEYS = {"0": ["a", "b", "c"], "1": ["d"]}


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Any]:
    for name, keys in KEYS.items():
        write_shard(tmp_path / "in" / f"{name}.tar", keys)
    pq.write_table(pa.table({"key": KEYS["0"]}), tmp_path / "in" / "0.parquet")
    keep = write_keep(tmp_path / "keep", KEYS, {("0", 0), ("0", 2), ("1", 0)})
    return {"shards": str(tmp_path / "in"), "keep": str(keep)}


def test_killed_at_every_write(tmp_path: Path, inputs: dict[str, Any]) -> None:
    seen = run_driver("filter", inputs, tmp_path / "runs", "every write")
    assert seen["wrong"] == []
    assert seen["killed"] == seen["writes"] > 30


def test_files_that_cannot_grow(tmp_path: Path, inputs: dict[str, Any]) -> None:
    seen = run_driver("filter", inputs, tmp_path / "runs", "full disk")
    assert seen["wrong"] == []
    assert seen["refused"] > 0
