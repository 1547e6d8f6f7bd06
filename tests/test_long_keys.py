"""Keys of all neighbours together may pass the 2 GiB that an Arrow array of strings can hold."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipgap.files import parquet
from clipgap.kernels.interface import NO_ID, TopK
from clipgap.report import gallery
from clipgap.report.gallery import Neighbours
from clipgap.report.sources import TrainingSet
from clipgap.scan import neighbours
from clipgap.scan.inputs import load_tests
from clipgap.scan.options import ScanOptions
from clipgap.scan.plan import ScanPlan
from clipgap.scan.result import ScanResult
from clipgap.scan.tables import TEST_SCHEMA
from clipgap.store.base import Shard, ShardInfo, Store
from clipgap.store.opening import open_store
from tests.thorough import THOROUGH

K = 64


@dataclass(frozen=True)
class MadeUpKeys:
    """Keys of one width that end with the number of their row, made when they are asked for."""

    rows: int
    width: int

    def read(self, start: int, stop: int) -> pa.Array:
        text = np.full((stop - start, self.width), ord("x"), np.uint8)
        text[:, -9:] = np.arange(start, stop)[:, None] // 10 ** np.arange(8, -1, -1) % 10 + 48
        ends = np.arange(0, text.size + 1, self.width, dtype=np.int32)
        return pa.StringArray.from_buffers(len(text), pa.py_buffer(ends), pa.py_buffer(text))

    def key(self, row: int) -> str:
        return "x" * (self.width - 9) + f"{row:09d}"


def write_lists(folder: Path, points: int, width: int) -> tuple[ScanResult, TopK, MadeUpKeys]:
    """A gap's table as after a kernel that answers at once: each point has rows of its own.

    The second point is in quarantine, and the last has only three neighbours.
    """
    keys = MadeUpKeys(points * K, width)
    info = ShardInfo(0, "made-up", keys.rows, "float16")
    no_rows: Any = None  # none is asked for
    train = Store("made-up", "npy", 2, (Shard(info, no_rows, keys),))
    test = np.tile(np.array([[0.6, 0.8]], np.float16), (points, 1))
    test[1] = 0
    plan = ScanPlan("gap", train, {"t": open_store(test)}, ScanOptions(k=K))
    random = np.random.default_rng(0)
    ids = random.permutation(keys.rows)[: (points - 1) * K].reshape(points - 1, K)
    sim = -np.sort(-random.random((points - 1, K)), axis=1)
    ids[-1, 3:], sim[-1, 3:] = NO_ID, -np.inf
    lists = TopK(sim, ids)
    winners = neighbours.Winners.look_up(plan, [lists])
    (folder / "test").mkdir()
    tables = neighbours.test_tables(plan, load_tests(plan)[0], lists, winners)
    found = parquet.write_tables(folder / "test" / "t.parquet", TEST_SCHEMA, tables)
    manifest = {
        "inputs": {"tests": [{"name": "t"}], "train": {"shards": [{"name": "made-up"}]}},
        "files": {"test/t.parquet": asdict(found)},
    }
    return ScanResult(manifest, folder), lists, keys


def assert_read_back(result: ScanResult, lists: TopK, keys: MadeUpKeys, looked_at: int) -> None:
    """By everything that reads such tables: as thresholds, for proofs and for galleries."""
    tau = result.tau("t")
    assert tau[1] == -np.inf
    assert np.array_equal(np.delete(tau, 1), lists.sim[:, 0])

    shown = Neighbours.read(TrainingSet("made-up", result), "t")
    mask = np.zeros(shown.listed.shape, np.bool_)
    points = np.linspace(2, len(tau) - 1, looked_at).astype(int)
    mask[points, 2] = True
    expected = [keys.key(row) for row in lists.id[points - 1, 2].tolist()]
    assert [key for _, key, _ in shown.chosen(mask)] == expected
    assert shown.listed[-1].sum() == 3
    assert not shown.listed[1].any()
    assert np.array_equal(shown.row[shown.listed], lists.id[lists.id != NO_ID])


@pytest.mark.parametrize(("limit", "groups"), [(1 << 30, 2), (2_000_000, 4), (400_000, 24)])
def test_row_groups_hold_fewer_rows_where_keys_are_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, groups: int
) -> None:
    monkeypatch.setattr(parquet, "ROW_GROUP", 600)
    monkeypatch.setattr(parquet, "GROUP_BYTES", limit)
    monkeypatch.setattr(gallery, "KEYS_AT_ONCE", 2)
    result, lists, keys = write_lists(tmp_path, points=1000, width=90)
    file = pq.ParquetFile(tmp_path / "test" / "t.parquet")
    sizes = [file.read_row_group(group)["nn_key"].nbytes for group in range(file.num_row_groups)]
    assert file.num_row_groups == groups
    assert max(sizes) <= 1.1 * limit  # with what says where each string begins
    assert_read_back(result, lists, keys, looked_at=100)


@pytest.mark.skipif(not THOROUGH, reason="takes gigabytes, and a minute")
def test_keys_beyond_2_gib(tmp_path: Path) -> None:
    assert 180_000 * K * 196 > 1 << 31
    result, lists, keys = write_lists(tmp_path, points=180_000, width=196)
    assert_read_back(result, lists, keys, looked_at=100)
