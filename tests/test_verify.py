"""`verify` believes nothing: a lie with a right checksum is found, and its file and row named."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import clipgap
from clipgap.errors import InputError, UsageError
from clipgap.files.parquet import FileSum
from tests.worlds import World, edited_manifest, make_world, tree, unit_rows

K = 6
Column = list[Any]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), shards=(40, 0, 25))


@pytest.fixture(scope="module")
def honest(world: World) -> Path:
    gap = world.folder / "gap"
    clipgap.gap(world.paths["reference"], {"a": world.paths["a"]}, k=2, out=gap)
    clipgap.scan(world.train, world.test_paths, gap=gap, k=K, out=world.folder / "scan")
    return world.folder / "scan"


@pytest.fixture
def copy(honest: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(honest, tmp_path / "scan"))


def tamper(scan: Path, name: str, column: str, change: Callable[[Column], None]) -> None:
    """Change a column of a table, and make its checksum right."""
    table = pq.read_table(scan / name, partitioning=None)
    values = table[column].to_pylist()
    change(values)
    at = table.schema.get_field_index(column)
    table = table.set_column(
        at, table.schema.field(at), pa.array(values, table.schema.field(at).type)
    )
    pq.write_table(table, scan / name)
    sign(scan, name)


def sign(scan: Path, name: str) -> None:
    entry = FileSum.of(scan / name)
    with edited_manifest(scan) as manifest:
        manifest["files"][name] = {"sha256": entry.sha256, "size": entry.size}


def failures(report: clipgap.scan.VerifyReport) -> dict[str, str]:
    return {check.name: check.detail for check in report.checks if not check.ok}


@pytest.mark.parametrize("full", [False, True])
def test_an_honest_scan_passes_every_check(honest: Path, full: bool) -> None:
    before = tree(honest)
    report = clipgap.verify(honest, full=full)
    assert report.ok
    assert failures(report) == {}
    assert len(report.checks) == 8 + full
    assert all(check.detail for check in report.checks)
    assert tree(honest) == before


def test_all_of_a_scan_of_few_points(tmp_path: Path) -> None:
    rows = unit_rows(3, 17, 0)
    clipgap.scan(rows, {"t": rows}, k=1, out=tmp_path / "scan")
    assert clipgap.verify(tmp_path / "scan", full=True, train=rows, tests={"t": rows}).ok


def test_an_honest_gap_passes(honest: Path) -> None:
    assert clipgap.verify(honest.parent / "gap", full=True).ok


def at(row: int, value: Any) -> Callable[[Column], None]:
    def change(column: Column) -> None:
        column[row] = value(column[row])

    return change


def in_list(row: int, place: int, value: Any) -> Callable[[Column], None]:
    def change(column: Column) -> None:
        column[row][place] = value(column[row][place])

    return change


def swap_entries(column: Column) -> None:
    column[3][4], column[3][5] = column[3][5], column[3][4]


def next_float32(x: float) -> float:
    return float(np.nextafter(np.float32(x), np.float32(2)))


def next_float64(x: float) -> float:
    return float(np.nextafter(x, -2))


PART, TEST = "train/part-00002.parquet", "test/a.parquet"
LIES = [
    (PART, "sim_b.2-x", at(7, next_float32), "training rows", "row 7: sim_b.2-x is"),
    (PART, "nn_a", at(3, lambda nn: (nn + 1) % 31), "training rows", "row 3: nn_a is"),
    (PART, "margin_a", at(4, next_float32), "training rows", "row 4: margin_a is"),
    (PART, "witness_a", at(5, lambda nn: (nn + 1) % 31), "training rows", "row 5: witness_a"),
    (PART, "pruned_a", at(6, lambda p: not p), "histograms and counts", "row 6: pruned_a"),
    (PART, "key", at(8, lambda key: key + "x"), "training rows", "row 8: key is"),
    (PART, "row", at(9, lambda row: 0), "histograms and counts", "not in order"),
    (PART, "nn_a", at(10, lambda nn: 31), "histograms and counts", "row 10: nn_a is not a row"),
    (TEST, "nn_sim", in_list(2, 5, next_float64), "neighbours and ties", "row 2: neighbour 6"),
    (TEST, "nn_key", in_list(4, 1, lambda key: "x"), "neighbours and ties", "row 4: neighbour 2"),
    (TEST, "nn_sim", in_list(5, 0, lambda sim: 0.0), "order of neighbours", "row 5: neighbour 1"),
    (TEST, "nn_shard", in_list(6, 2, lambda shard: 3), "order of neighbours", "does not exist"),
    (TEST, "nn_row", in_list(6, 2, lambda row: 40), "order of neighbours", "does not exist"),
    (TEST, "gap", at(7, next_float64), "thresholds", "row 7: gap differs"),
    ("hist.parquet", "count", at(150, lambda n: n + 1), "histograms and counts", "hist.parquet"),
]


@pytest.mark.parametrize(("name", "column", "change", "check", "words"), LIES)
def test_a_lie_with_a_right_checksum_is_found(
    copy: Path, name: str, column: str, change: Callable[[Column], None], check: str, words: str
) -> None:
    tamper(copy, name, column, change)
    found = failures(clipgap.verify(copy))
    assert words in found[check]
    assert name in found[check]


@pytest.mark.parametrize(
    ("name", "column", "change", "words"),
    [(name, column, change, words) for name, column, change, _, words in LIES[:4]]
    + [(TEST, "nn_sim", in_list(2, 5, next_float64), "row 2: nn_sim entry 6 is")],
)
def test_the_full_check_finds_it_without_a_sample(
    copy: Path, name: str, column: str, change: Callable[[Column], None], words: str
) -> None:
    tamper(copy, name, column, change)
    found = failures(clipgap.verify(copy, full=True, sample=0))
    assert list(found) == ["everything"]
    assert f"{name}, {words}" in found["everything"]


def test_ties_are_checked_whatever_the_sample(copy: Path) -> None:
    """Two entries of one score change places: still falling in score, but not in the order."""
    lists = clipgap.open_scan(copy).test("a")["nn_sim"].to_pylist()
    point, place = next(
        (point, place)
        for point, sims in enumerate(lists)
        for place in range(K - 1)
        if sims[place] == sims[place + 1]
    )

    def swap(column: Column) -> None:
        line = column[point]
        line[place], line[place + 1] = line[place + 1], line[place]

    for column in ("nn_shard", "nn_row", "nn_key"):
        tamper(copy, TEST, column, swap)
    found = failures(clipgap.verify(copy, sample=0))
    assert f"row {point}: neighbour {place + 1} is followed" in found["order of neighbours"]


def test_a_tie_that_is_none_is_found_whatever_the_sample(copy: Path) -> None:
    """Equal scores are claimed for rows that only nearly tie."""
    lists = clipgap.open_scan(copy).test("a")["nn_sim"].to_pylist()
    point, place = next(
        (point, place)
        for point, sims in enumerate(lists)
        for place in range(K - 1)
        if sims[place] > sims[place + 1]
    )

    def level(column: Column) -> None:
        column[point][place + 1] = column[point][place]

    tamper(copy, TEST, "nn_sim", level)
    found = failures(clipgap.verify(copy, sample=0))
    assert f"row {point}: neighbour {place + 2}" in "".join(found.values())


def test_a_neighbour_left_out_is_missed(world: World, copy: Path) -> None:
    """The list of point 0 skips its best row and takes the next one instead."""
    right = clipgap.scan(world.train, world.test_paths, k=K + 1)
    table = right.test("b.2-x")
    for column in ("nn_sim", "nn_shard", "nn_row", "nn_key"):
        shifted = [
            line[1:] if i == 0 else line[:-1] for i, line in enumerate(table[column].to_pylist())
        ]
        tamper(
            copy,
            "test/b.2-x.parquet",
            column,
            lambda c, new=shifted: c.__setitem__(slice(None), new),
        )
    report = clipgap.verify(copy)
    assert "row 0: training id" in failures(report)["training rows"]


@pytest.mark.parametrize("lie", ["columns", "rows"])
def test_tables_of_another_shape_are_found(copy: Path, lie: str) -> None:
    table = pq.read_table(copy / PART, partitioning=None)
    table = table.drop_columns(["nn_a"]) if lie == "columns" else table.slice(1)
    pq.write_table(table, copy / PART)
    sign(copy, PART)
    assert PART in failures(clipgap.verify(copy))["schemas and row counts"]


def test_files_that_do_not_belong_are_named(copy: Path) -> None:
    (copy / "train" / "part-00009.parquet").write_bytes(b"")
    assert failures(clipgap.verify(copy)) == {
        "checksums": "train/part-00009.parquet does not belong to the scan"
    }


def test_inputs_that_changed_are_found(world: World, honest: Path) -> None:
    other = world.tests["a"][::-1]
    found = failures(clipgap.verify(honest, tests={"a": other}))
    assert "test set a sha256" in found["inputs"]
    shards = np.concatenate(world.shards)
    assert "training shards" in failures(clipgap.verify(honest, train=shards))["inputs"]


def test_a_gap_that_changed_is_found(world: World, copy: Path, tmp_path: Path) -> None:
    with edited_manifest(copy) as manifest:
        manifest["inputs"]["gap"]["path"] = str(tmp_path / "gap")
    assert clipgap.verify(copy).ok  # it is gone, and the test tables still state the thresholds
    clipgap.gap(world.tests["a"], {"a": world.tests["a"]}, out=tmp_path / "gap")
    assert "no longer the gap" in failures(clipgap.verify(copy))["thresholds"]


def test_inputs_that_moved_are_asked_for(world: World, tmp_path: Path) -> None:
    clipgap.scan(world.rows, world.tests, k=2, out=tmp_path / "scan")
    with pytest.raises(InputError, match="say where it is now"):
        clipgap.verify(tmp_path / "scan")
    assert clipgap.verify(tmp_path / "scan", train=world.rows, tests=world.tests).ok
    with pytest.raises(UsageError, match="no test set 'c'"):
        clipgap.verify(tmp_path / "scan", train=world.rows, tests={"c": world.rows})


def test_what_is_not_a_scan_cannot_be_verified(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a finished scan"):
        clipgap.verify(tmp_path)


def test_long_lists_of_problems_are_cut(copy: Path) -> None:
    def spoil(column: Column) -> None:
        column[:] = [next_float32(x) for x in column]

    tamper(copy, "train/part-00000.parquet", "sim_a", spoil)
    assert "… and 20 more" in failures(clipgap.verify(copy))["training rows"]
