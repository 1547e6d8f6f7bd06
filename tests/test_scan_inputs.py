"""Inputs that are wrong are refused before anything is computed, or set aside and counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipgap
from clipgap.errors import InputError, UsageError
from tests.worlds import World, make_world, tree, unit_rows, write_store

NAN, INF = np.float16(np.nan), np.float16(np.inf)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path / "world", shards=(20, 12))


def spoil(world: World) -> World:
    """Bad rows of each kind in both shards and in a test set."""
    world.shards[0][3] = 0
    world.shards[0][5, 2] = NAN
    world.shards[1][0, 0] = -INF
    world.shards[1][7] *= np.float16(0.5)
    world.tests["a"][4] = 0
    world.tests["a"][9, 1] = INF
    world.tests["a"][10] *= np.float16(2)
    for path in world.paths.values():
        path.unlink()
    for folder in (world.train / "img_emb", world.train / "metadata"):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    return world.write()


def test_rows_that_are_not_finite_stop_the_scan(world: World, tmp_path: Path) -> None:
    world.shards[1][[4, 6], 0] = NAN, INF
    np.save(world.train / "img_emb" / "img_emb_1.npy", world.shards[1])
    with pytest.raises(InputError) as caught:
        clipgap.scan(world.train, world.test_paths, k=2, out=tmp_path / "scan")
    message = str(caught.value)
    assert "2 of 12 rows" in message
    assert "img_emb_1, row 4" in message
    assert "img_emb_1, row 6" in message
    assert "quarantine" in message
    assert not (tmp_path / "scan" / "manifest.json").exists()


def test_a_test_set_that_is_not_finite_stops_the_scan_before_it_begins(
    world: World, tmp_path: Path
) -> None:
    bad = world.tests["a"].copy()
    bad[30, 3] = NAN
    with pytest.raises(InputError, match="row 30"):
        clipgap.scan(world.train, {"a": bad}, out=tmp_path / "scan")
    assert not (tmp_path / "scan").exists()


@pytest.mark.parametrize("block_rows", [1, 5, 100])
def test_quarantine_sets_bad_rows_aside_and_lists_them(
    world: World, tmp_path: Path, block_rows: int
) -> None:
    spoil(world)
    result = clipgap.scan(
        world.train,
        world.test_paths,
        k=40,
        bad_rows="quarantine",
        block_rows=block_rows,
        out=tmp_path / "scan",
    )
    assert result.quarantined == 5
    assert [tuple(line.values()) for line in result.quarantine().to_pylist()] == [
        ("train", 0, 3, "00-00003", "all zero"),
        ("train", 0, 5, "00-00005", "NaN or infinity"),
        ("train", 1, 0, "01-00000", "NaN or infinity"),
        ("a", 0, 4, None, "all zero"),
        ("a", 0, 9, None, "NaN or infinity"),
    ]
    assert result.manifest["counts"]["normalised"] == 1
    assert result.manifest["inputs"]["tests"][0]["normalised"] == 1

    good = [0, *range(1, 3), 4, *range(6, 20), *range(21, 32)]
    points = [i for i in range(31) if i not in (4, 9)]
    clean_train, clean_test = world.rows[good], world.tests["a"][points]
    right = clipgap.scan(clean_train, {"a": clean_test}, k=40)
    train = result.train_table()
    assert [i for i in range(32) if train["sim_a"][i].as_py() is None] == [3, 5, 20]
    assert train["row"].null_count == train["key"].null_count == 0
    kept = train.take(good)
    assert kept["sim_a"].equals(right.train_table()["sim_a"])
    nn = np.asarray(right.train_table()["nn_a"])
    assert kept["nn_a"].to_pylist() == [points[i] for i in nn]
    lists = result.test("a")["nn_sim"].to_pylist()
    assert [lists[i] for i in (4, 9)] == [[], []]
    assert [lists[i] for i in points] == right.test("a")["nn_sim"].to_pylist()
    assert clipgap.verify(tmp_path / "scan", full=True).ok


def test_a_gap_and_a_scan_set_the_same_test_rows_aside(world: World, tmp_path: Path) -> None:
    spoil(world)
    gap = clipgap.gap(
        world.reference, world.test_paths, k=2, bad_rows="quarantine", out=tmp_path / "gap"
    )
    assert gap.test("a")["gap"].null_count == 2
    scan = clipgap.scan(
        world.train,
        world.test_paths,
        gap=gap,
        k=2,
        bad_rows="quarantine",
        train_table=False,
        out=tmp_path / "scan",
    )
    assert scan.test("a")["gap"].equals(gap.test("a")["gap"])
    assert scan.quarantine()["key"].to_pylist()[:3] == ["00-00003", "00-00005", "01-00000"]
    assert clipgap.verify(tmp_path / "scan").ok


def test_zero_rows_are_set_aside_under_either_policy(world: World) -> None:
    rows = unit_rows(9, 17, 0)
    rows[4] = 0
    assert clipgap.scan(rows, world.tests, k=1).quarantined == 1
    assert clipgap.scan(rows, world.tests, k=1, bad_rows="quarantine").quarantined == 1


def test_rows_off_the_unit_sphere_are_brought_back(world: World) -> None:
    rows = unit_rows(9, 17, 0).astype(np.float32)
    rows[3] *= 7
    result = clipgap.scan(rows, world.tests, k=1)
    assert result.manifest["counts"]["normalised"] == 1
    assert np.asarray(result.train_table()["sim_a"])[3] < 1.01


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"k": 0}, UsageError, "k is 0"),
        ({"k": 65}, UsageError, "between 1 and 64"),
        ({"bad_rows": "drop"}, UsageError, "choose one of: error, quarantine"),
        ({"above": (0.5, np.nan)}, UsageError, "finite"),
        ({"block_rows": 0}, UsageError, "block_rows is 0"),
        ({"block_rows": (1 << 20) + 1}, UsageError, "between 1 and 1048576"),
        ({"resume": True, "overwrite": True, "out": "x"}, UsageError, "exclude"),
        ({"resume": True}, UsageError, "need an output folder"),
        ({"kernel": "abacus"}, UsageError, "abacus"),
    ],
)
def test_settings_that_make_no_sense(
    world: World, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        clipgap.scan(world.train, world.tests, **options)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "name at least one"),
        (["../x"], "cannot name a test set"),
        ([""], "cannot name a test set"),
        ([".hidden"], "cannot name a test set"),
        (["train"], "names the training rows"),
        (["Sketch", "sketch"], "capital letters"),
    ],
)
def test_names_that_cannot_be_file_names(world: World, names: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        clipgap.scan(world.train, dict.fromkeys(names, world.tests["a"]))


def test_stores_of_different_dimensions_are_named(world: World) -> None:
    with pytest.raises(InputError, match=r"17 numbers, test set 'b' .* 16\."):
        clipgap.scan(world.train, {"a": world.tests["a"], "b": unit_rows(3, 16, 0)})


@pytest.mark.parametrize(("rows", "words"), [(0, "has no rows"), (4, "no usable row: all 4")])
def test_test_sets_without_usable_rows(world: World, rows: int, words: str) -> None:
    with pytest.raises(InputError, match=words):
        clipgap.scan(world.train, {"t": np.zeros((rows, 17), np.float16)})


def test_missing_shards_are_found_before_computing(world: World, tmp_path: Path) -> None:
    write_store(tmp_path / "torn", world.shards * 2, world.key)
    (tmp_path / "torn" / "img_emb" / "img_emb_1.npy").unlink()
    (tmp_path / "torn" / "metadata" / "metadata_3.parquet").unlink()
    with pytest.raises(InputError) as caught:
        clipgap.scan(tmp_path / "torn", world.tests, out=tmp_path / "scan")
    assert "img_emb_1" in str(caught.value) or " 1" in str(caught.value)
    assert "3" in str(caught.value)
    assert not (tmp_path / "scan").exists()


def test_a_gap_of_another_test_set_is_refused(world: World) -> None:
    other = {"a": world.tests["a"][::-1].copy()}
    with pytest.raises(InputError, match="made with another test set 'a'"):
        clipgap.scan(world.train, world.tests, gap=clipgap.gap(world.reference, other))


def test_a_gap_that_knows_none_of_the_test_sets_is_refused(world: World) -> None:
    gap = clipgap.gap(world.reference, {"other": world.tests["a"]})
    with pytest.raises(InputError, match=r"none of the test sets a, b\.2-x; it has other"):
        clipgap.scan(world.train, world.tests, gap=gap)


@pytest.mark.parametrize("bad", [1.0202, -7.0, np.nan])
def test_a_gap_that_holds_what_no_score_can_be_is_refused(
    world: World, bad: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    gap = clipgap.gap(world.reference, world.tests)
    tau = gap.tau("a")
    tau[1] = bad
    monkeypatch.setattr(clipgap.ScanResult, "tau", lambda self, name: tau)
    with pytest.raises(InputError, match=r"test set 'a', row 1: (nan|[-0-9.]+) is not a score"):
        clipgap.scan(world.train, world.tests, gap=gap)


def test_a_folder_that_is_not_a_scan_is_not_a_gap(world: World, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a finished scan"):
        clipgap.scan(world.train, world.tests, gap=tmp_path)


def test_the_gap_is_never_overwritten_by_its_own_scan(world: World, tmp_path: Path) -> None:
    clipgap.gap(world.reference, world.tests, out=tmp_path / "gap")
    before = tree(tmp_path / "gap")
    with pytest.raises(UsageError, match="is both input and output"):
        clipgap.scan(
            world.train, world.tests, gap=tmp_path / "gap", out=tmp_path / "gap", overwrite=True
        )
    assert tree(tmp_path / "gap") == before


def test_an_existing_output_is_kept(world: World, tmp_path: Path) -> None:
    out = tmp_path / "scan"
    clipgap.scan(world.train, world.tests, k=1, out=out)
    before = tree(out)
    with pytest.raises(InputError, match=r"finished scan.*--resume.*--overwrite"):
        clipgap.scan(world.train, world.tests, k=2, out=out)
    assert tree(out) == before
    clipgap.scan(world.train, world.tests, k=2, out=out, overwrite=True)
    assert clipgap.open_scan(out).manifest["settings"]["k"] == 2


def test_what_is_not_a_scan_is_never_deleted(world: World, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("…")
    (tmp_path / "notes").write_text("…")
    for out, words in [("thesis", "holds 'chapter.tex'"), ("notes", "is a file")]:
        with pytest.raises(InputError, match=words):
            clipgap.scan(world.train, world.tests, out=tmp_path / out, overwrite=True)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "…"


def test_files_beside_a_scan_survive_overwriting(world: World, tmp_path: Path) -> None:
    out = tmp_path / "scan"
    clipgap.scan(world.train, world.tests, k=1, out=out)
    (out / "notes.txt").write_text("mine")
    clipgap.scan(world.train, world.tests, k=1, out=out, overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"


def test_a_damaged_manifest_is_said_to_be_damaged(world: World, tmp_path: Path) -> None:
    out = tmp_path / "scan"
    clipgap.scan(world.train, world.tests, k=1, out=out)
    (out / "manifest.json").write_bytes(b"{")
    for call in (
        lambda: clipgap.open_scan(out),
        lambda: clipgap.scan(world.train, world.tests, k=1, out=out, resume=True),
    ):
        with pytest.raises(InputError, match=r"manifest\.json"):
            call()


def test_a_manifest_of_a_later_version_is_refused(world: World, tmp_path: Path) -> None:
    out = tmp_path / "scan"
    clipgap.scan(world.train, world.tests, k=1, out=out)
    text = (out / "manifest.json").read_text()
    (out / "manifest.json").write_text(text.replace('"version": 1', '"version": 2'))
    with pytest.raises(InputError, match="version 2"):
        clipgap.open_scan(out)


def test_a_test_set_that_is_not_there_is_named(world: World) -> None:
    result = clipgap.scan(world.train, world.tests, k=1)
    with pytest.raises(UsageError, match=r"no test set 'c'; it has a, b\.2-x"):
        result.test("c")
