"""Memory of a split does not grow with the rows, not even with those of a single shard."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import clipgap
from clipgap.bench.scan_tables import Made, make_scan

pytestmark = pytest.mark.alone

N = 400_000
CHILD = """
import resource, sys
from clipgap.select.rules import Core, Prune
from clipgap.select.splitting import split
scan, out = sys.argv[1:]
split(scan, Prune(("a", "b")), out=out, threads=1)
split(scan, Core(100_000, ("a", "b")), out=out, threads=1, overwrite=True)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def peak_mib(folder: Path, rows: int) -> float:
    make_scan(folder / "scan", Made(1, rows, ("a", "b"), keys="uids"))
    environment = {**os.environ, "PYTHONPATH": str(Path(clipgap.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder / "scan"), str(folder / "keep")],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return float(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
def test_memory_does_not_grow_with_rows(tmp_path: Path) -> None:
    small, large = (peak_mib(tmp_path / str(k), k * N) for k in (1, 8))
    # A column of 8N rows alone would take 10 MiB more, all columns that are read or written 180.
    assert large < small + 60, f"{small:.0f} MiB for N rows, {large:.0f} MiB for 8N"
