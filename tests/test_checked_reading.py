"""Whoever reads a table of ours checks its sum while reading it, or refuses the table."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clipgap
from clipgap.errors import InputError
from clipgap.files import parquet
from clipgap.files.sums import FileSum
from clipgap.select.rules import Far, Prune
from tests.test_verify import failures
from tests.worlds import World, edited_manifest, flip_bit, make_world, tree

FLIPS = 24


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make_world(tmp_path_factory.mktemp("world"))
    make_gap(world, world.folder / "gap")
    clipgap.scan(
        world.train, world.test_paths, gap=world.folder / "gap", k=3, out=world.folder / "scan"
    )
    return world


def make_gap(world: World, out: Path, **options: Any) -> clipgap.ScanResult:
    return clipgap.gap(world.paths["reference"], world.test_paths, k=2, out=out, **options)


def flips(path: Path) -> list[int]:
    """Places all over a file, its first and last bytes among them."""
    return np.linspace(0, path.stat().st_size - 1, FLIPS).astype(int).tolist()


def test_a_damaged_gap_is_refused_by_name_and_mended(world: World, tmp_path: Path) -> None:
    gap = tmp_path / "gap"
    shutil.copytree(world.folder / "gap", gap)
    whole = tree(gap)
    for at in flips(gap / "test" / "a.parquet"):
        flip_bit(gap / "test" / "a.parquet", at)
        with pytest.raises(InputError, match=r"gap/test/a\.parquet.*--resume") as caught:
            clipgap.scan(world.train, world.test_paths, gap=gap, k=3, out=tmp_path / "scan")
        assert caught.value.exit_code == 3
        assert not (tmp_path / "scan" / "manifest.json").exists()
        flip_bit(gap / "test" / "a.parquet", at)
    flip_bit(gap / "test" / "a.parquet", 1000)
    assert make_gap(world, gap, resume=True)
    assert tree(gap) == whole
    clipgap.scan(world.train, world.test_paths, gap=gap, k=3, out=tmp_path / "scan", resume=True)
    assert tree(tmp_path / "scan" / "train") == tree(world.folder / "scan" / "train")


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", ["test/a.parquet", "hist.parquet", "train/part-00000.parquet"])
def test_verify_looks_into_the_gap(world: World, tmp_path: Path, name: str, full: bool) -> None:
    gap = world.folder / "gap"
    saved = shutil.copytree(gap, tmp_path / "saved")
    try:
        flip_bit(gap / name, (gap / name).stat().st_size // 2)
        found = failures(clipgap.verify(world.folder / "scan", full=full))
        assert f"gap: {name} is damaged" in found["thresholds"]
        (gap / name).unlink()
        found = failures(clipgap.verify(world.folder / "scan", full=full))
        assert f"gap: {name} is missing" in found["thresholds"]
        (gap / "manifest.json").write_text("{")
        assert "manifest.json" in failures(clipgap.verify(world.folder / "scan"))["thresholds"]
    finally:
        shutil.rmtree(gap)
        shutil.copytree(saved, gap)


@pytest.mark.parametrize("rule", [Prune(("a",)), Prune(("a",), 0.01), Far(100, ("b.2-x",))])
def test_a_damaged_part_is_refused_wherever_the_bit_lies(
    world: World, tmp_path: Path, rule: Any
) -> None:
    scan = Path(shutil.copytree(world.folder / "scan", tmp_path / "scan"))
    part = scan / "train" / "part-00002.parquet"
    for at in flips(part):
        flip_bit(part, at)
        with pytest.raises(InputError, match=r"train/part-00002\.parquet.*--resume") as caught:
            clipgap.split(scan, rule, out=tmp_path / "keep")
        assert caught.value.exit_code == 3
        assert not (tmp_path / "keep" / "manifest.json").exists()
        flip_bit(part, at)
        shutil.rmtree(tmp_path / "keep", ignore_errors=True)
    clipgap.split(scan, rule, out=tmp_path / "keep")


def test_columns_of_another_type_are_refused_though_the_sum_is_right(
    world: World, tmp_path: Path
) -> None:
    scan = Path(shutil.copytree(world.folder / "scan", tmp_path / "scan"))
    part = scan / "train" / "part-00002.parquet"
    table = pq.read_table(part, partitioning=None)
    words = pa.array(["x"] * table.num_rows)
    at = table.schema.get_field_index("margin_a")
    for other in (table.set_column(at, "margin_a", words), table.drop_columns(["margin_a"])):
        pq.write_table(other, part)
        with edited_manifest(scan) as manifest:
            manifest["files"]["train/part-00002.parquet"] = vars(FileSum.of(part))
        result = clipgap.open_scan(scan)
        pruned = partial(clipgap.split, scan, Prune(("a",), 0.01))
        for use in (pruned, partial(clipgap.emulate, scan), result.train):
            with pytest.raises(InputError, match=r"part-00002\.parquet.* no column margin_a of"):
                use()
    rows = pa.array([99] * table.num_rows, pa.int32())
    pq.write_table(
        table.set_column(table.schema.get_field_index("witness_a"), "witness_a", rows), part
    )
    with edited_manifest(scan) as manifest:
        manifest["files"]["train/part-00002.parquet"] = vars(FileSum.of(part))
    with pytest.raises(InputError, match="points of test set 'a' that there are not"):
        clipgap.report(scan, out=tmp_path / "report")


@pytest.mark.parametrize("name", ["train/part-00002.parquet", "test/a.parquet", "hist.parquet"])
def test_no_table_of_a_damaged_scan_is_given(world: World, tmp_path: Path, name: str) -> None:
    scan = Path(shutil.copytree(world.folder / "scan", tmp_path / "scan"))
    flip_bit(scan / name, (scan / name).stat().st_size // 3)
    result = clipgap.open_scan(scan)
    readers = {
        "train/part-00002.parquet": [result.train, result.train_table],
        "test/a.parquet": [lambda: result.test("a"), lambda: result.tau("a")],
        "hist.parquet": [result.hist],
    }
    for read in readers[name]:
        with pytest.raises(InputError, match=name):
            read()


def test_a_second_pass_trusts_only_a_file_that_is_as_it_was(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copy(world.folder / "scan" / "test" / "a.parquet", tmp_path))
    expected = FileSum.of(path)
    hashed: list[bool] = []
    finish = parquet.TableReader._finish

    def watched(self: parquet.TableReader) -> None:
        hashed.append(not self._is_checked)
        finish(self)

    monkeypatch.setattr(parquet.TableReader, "_finish", watched)
    monkeypatch.setattr(parquet, "_found_right", {})
    for _ in range(2):  # it was written a moment ago, and could change without a trace
        assert parquet.read_table(path, expected).num_rows == 31
    monkeypatch.setattr(parquet, "_YOUNG", -1)
    for _ in range(2):
        assert parquet.read_table(path, expected).num_rows == 31
    assert hashed == [True, True, True, False]
    flip_bit(path, 1000)
    with pytest.raises(InputError, match=r"a\.parquet"):
        parquet.read_table(path, expected)


def test_a_wrong_table_is_never_given_whole(tmp_path: Path) -> None:
    """Where only the sum tells: the last row group stays out of reach."""
    path = tmp_path / "t.parquet"
    rows = pa.table({"row": pa.array(np.arange(3 * parquet.ROW_GROUP))})
    right = parquet.write_tables(path, rows.schema, [rows])
    assert parquet.read_table(path, right).equals(rows)
    assert [t.num_rows for t in parquet.read_row_groups(path, right)] == [parquet.ROW_GROUP] * 3
    wrong = parquet.read_row_groups(path, FileSum("0" * 64, right.size))
    assert len([next(wrong), next(wrong)]) == 2
    with pytest.raises(InputError, match=r"t\.parquet is damaged: its SHA-256"):
        next(wrong)
    with pytest.raises(InputError, match="is damaged: it has"):
        parquet.read_table(path, FileSum(right.sha256, 7))
