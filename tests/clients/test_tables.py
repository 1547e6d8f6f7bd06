"""Our tables in the hands of other readers: the same numbers and names, nulls included."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import clipgap
from clipgap.select.rules import Prune
from tests.clients.installing import installed
from tests.stores import unit_rows, write_clip_retrieval

pytestmark = pytest.mark.clients

READERS = {
    "duckdb": "import duckdb\ndef read(p): return duckdb.read_parquet(p).fetchall()",
    "polars": "import polars\ndef read(p): return polars.read_parquet(p).rows()",
    "pandas": (
        "import pandas\n"
        "def read(p):\n"
        "    table = pandas.read_parquet(p, engine='pyarrow', dtype_backend='pyarrow')\n"
        "    return table.astype(object).where(table.notna(), None).values.tolist()"
    ),
    "fastparquet": (
        "import fastparquet\n"
        "def read(p):\n"
        "    return fastparquet.ParquetFile(p).to_pandas().values.tolist()"
    ),
}
NEEDED = {"fastparquet": ["cramjam"], "polars": ["polars-runtime-32"]}
SAY = """
import json, sys
plain = lambda value: value.tolist() if hasattr(value, "tolist") else value
for path in sys.argv[1:]:
    print(json.dumps([list(map(plain, row)) for row in read(path)]))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan, and a split of it."""
    folder = tmp_path_factory.mktemp("tables")
    write_clip_retrieval(folder / "train", [40, 7])
    np.save(folder / "a.npy", unit_rows(9, 90))
    np.save(folder / "ref.npy", unit_rows(20, 91))
    tests = {"a": folder / "a.npy"}
    clipgap.gap(folder / "ref.npy", tests, k=3, out=folder / "gap")
    clipgap.scan(folder / "train", tests, gap=folder / "gap", k=3, out=folder / "scan")
    clipgap.split(folder / "scan", Prune(("a",)), out=folder / "keep")
    return folder


def said(reader: str, folder: Path, paths: list[Path]) -> subprocess.CompletedProcess[str]:
    where = installed(folder, reader, *NEEDED.get(reader, ()))
    variables = {**os.environ, "PYTHONPATH": str(where)}
    command = [sys.executable, "-c", READERS[reader] + SAY, *map(str, paths)]
    return subprocess.run(command, env=variables, capture_output=True, text=True)


@pytest.mark.parametrize("reader", ["duckdb", "polars", "pandas"])
def test_readers_agree(made: Path, tmp_path: Path, reader: str) -> None:
    paths = sorted([*(made / "scan").rglob("*.parquet"), *(made / "keep").rglob("*.parquet")])
    done = said(reader, tmp_path, paths)
    assert done.returncode == 0, done.stderr
    for path, line in zip(paths, done.stdout.splitlines(), strict=True):
        assert json.loads(line) == [list(row.values()) for row in pq.read_table(path).to_pylist()]


def test_fastparquet_reads_keep_lists_alone(made: Path, tmp_path: Path) -> None:
    """It does not know how scans pack their keys; README says so."""
    paths = sorted((made / "keep").rglob("*.parquet"))
    done = said("fastparquet", tmp_path / "a", paths)
    assert done.returncode == 0, done.stderr
    for path, line in zip(paths, done.stdout.splitlines(), strict=True):
        assert json.loads(line) == [list(row.values()) for row in pq.read_table(path).to_pylist()]
    done = said("fastparquet", tmp_path / "b", [made / "scan" / "train" / "part-00000.parquet"])
    assert "NotImplementedError: Encoding 7" in done.stderr
