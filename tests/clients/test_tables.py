"""Our tables in the hands of other readers: the same numbers and names, nulls included."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import clipgap
from clipgap.select.rules import Prune
from tests.clients.installing import attempt, installed, run
from tests.stores import unit_rows, write_clip_retrieval

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
PACKAGES = {
    "duckdb": "2.0.1",
    "polars": "2.1.0",
    "polars-runtime-32": "2.1.0",
    "fastparquet": "2026.9.0",
    "cramjam": "2.14.0",
}
"""pandas is there already, which is all that the others need besides."""

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


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    wanted = [f"{name}=={version}" for name, version in PACKAGES.items()]
    return installed(tmp_path_factory.mktemp("readers"), *wanted)


def values(path: Path) -> list[list[Any]]:
    return [list(row.values()) for row in pq.read_table(path).to_pylist()]


@pytest.mark.parametrize("reader", ["duckdb", "polars", "pandas"])
def test_readers_agree(made: Path, packages: Path, reader: str) -> None:
    paths = sorted([*(made / "scan").rglob("*.parquet"), *(made / "keep").rglob("*.parquet")])
    said = run(sys.executable, "-c", READERS[reader] + SAY, *paths, PYTHONPATH=str(packages))
    for path, line in zip(paths, said.splitlines(), strict=True):
        assert json.loads(line) == values(path)


def test_fastparquet_reads_keep_lists_alone(made: Path, packages: Path) -> None:
    """It does not know how scans pack their keys; README says so."""
    paths = [*sorted((made / "keep").rglob("*.parquet")), made / "scan/train/part-00000.parquet"]
    code = READERS["fastparquet"] + SAY
    done = attempt(sys.executable, "-c", code, *paths, PYTHONPATH=str(packages))
    for path, line in zip(paths[:-1], done.stdout.splitlines(), strict=True):
        assert json.loads(line) == values(path)
    assert "NotImplementedError: Encoding 7" in done.stderr
