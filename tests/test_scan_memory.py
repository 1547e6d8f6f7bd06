"""Peak memory follows the block and the test sets, not the number of training rows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from clipgap.store.writer import StoreWriter
from tests.worlds import unit_rows

pytestmark = pytest.mark.alone

MEASURE = """
import resource, sys
from pathlib import Path
import clipgap

train, test, out, verify = sys.argv[1:]
clipgap.scan(train, {"t": test}, k=4, threads=1, block_rows=4096, out=out)
if verify:
    assert clipgap.verify(out).ok
status = Path("/proc/self/status")
if status.exists():  # unlike ru_maxrss, it knows nothing of the process that forked this one
    peak = next(line.split()[1] for line in status.read_text().splitlines() if "VmHWM" in line)
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(peak)
"""


def write(folder: Path, rows: int, shards: int) -> Path:
    """A store of varied rows with keys, made by turning the same rows over."""
    source = unit_rows(50_000, 8, 0)
    with StoreWriter(folder, 8) as writer:
        for shard in range(shards):
            share = np.resize(source, (rows // shards, 8))
            numbers = pa.array(np.arange(len(share)) + shard * len(share)).cast(pa.string())
            writer.add(share, keys=pc.utf8_lpad(numbers, 9, "0"))
    return folder


def peak(train: Path, test: Path, out: Path, verify: bool) -> float:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(train), str(test), str(out), "yes" * verify],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    return float(done.stdout)


@pytest.mark.parametrize(
    ("rows", "shards", "more_shards", "verify"),
    [(400_000, 1, 1, False), (200_000, 16, 128, False), (200_000, 16, 128, True)],
)
def test_peak_memory_does_not_grow_with_rows(
    tmp_path: Path, rows: int, shards: int, more_shards: int, verify: bool
) -> None:
    np.save(tmp_path / "test.npy", unit_rows(16, 8, 1))
    small = write(tmp_path / "small", rows, shards)
    large = write(tmp_path / "large", 8 * rows, more_shards)
    # One run in a dozen gets by with less than the others; that must not become the measure.
    runs = [peak(small, tmp_path / "test.npy", tmp_path / f"a{i}", verify) for i in range(3)]
    low = sorted(runs)[1]
    high = peak(large, tmp_path / "test.npy", tmp_path / "b", verify)
    assert high <= 1.05 * low
