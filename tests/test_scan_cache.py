"""Test sets on a node's own disk: read once, never trusted when they are not what they were."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import clipgap
from clipgap.errors import InputError, ShareDone
from clipgap.runs.shares import Share, parts_folder
from clipgap.scan import cache, inputs
from clipgap.scan.cache import Rows, cached
from clipgap.store.opening import open_store
from tests.worlds import World, flip_bit, make_world, tree, unit_rows


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path / "world", shards=(9, 5))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sets that are read from where they lie, as they are."""
    paths, real = list[str](), inputs._read_test

    def noting(store: clipgap.Store, policy: str) -> Rows:
        paths.append(Path(store.path).name)
        return real(store, policy)

    monkeypatch.setattr(inputs, "_read_test", noting)
    return paths


def scanned(world: World, out: Path, **how: object) -> dict[str, str]:
    clipgap.scan(world.train, world.test_paths, k=3, out=out, **how)
    return tree(out)


def test_shares_read_test_sets_once(
    world: World, tmp_path: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_DISK", str(tmp_path / "disk"))
    whole = scanned(world, tmp_path / "whole")
    assert len(read) == len(world.test_paths), "once, without a cache, too"
    read.clear()
    out, kept = tmp_path / "out", "$NODE_DISK/clipgap"
    for index in range(3):
        with pytest.raises(ShareDone):
            scanned(world, out, share=Share([index], 3), cache=kept)
    assert scanned(world, out, parts=[parts_folder(out)], cache=kept) == whole
    assert sorted(read) == sorted(path.name for path in world.test_paths.values())
    folder = tmp_path / "disk/clipgap"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert sorted({path.suffix for path in folder.iterdir()}) == [".lock", ".npz"]


def test_a_set_that_was_edited_is_another_one(
    world: World, tmp_path: Path, read: list[str]
) -> None:
    kept = str(tmp_path / "disk")
    scanned(world, tmp_path / "before", cache=kept)
    path = world.paths["a"]
    np.save(path, unit_rows(*np.load(path).shape, seed=7))
    read.clear()
    after = scanned(world, tmp_path / "after", cache=kept)
    assert read == [path.name]
    assert after == scanned(world, tmp_path / "plain")


def test_what_is_damaged_is_read_anew(
    world: World, tmp_path: Path, read: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    whole = scanned(world, tmp_path / "whole", cache=str(tmp_path / "disk"))
    for number, path in enumerate(sorted((tmp_path / "disk").glob("*.npz"))):
        if number % 2:
            flip_bit(path, path.stat().st_size // 2)
        else:
            path.write_bytes(path.read_bytes()[:40])
    read.clear()
    assert scanned(world, tmp_path / "again", cache=str(tmp_path / "disk")) == whole
    assert len(read) == len(world.test_paths)
    assert caplog.text.count("is damaged, and read anew") == len(world.test_paths)
    assert scanned(world, tmp_path / "third", cache=str(tmp_path / "disk")) == whole
    assert len(read) == len(world.test_paths), "it was mended"


@pytest.mark.parametrize("trouble", ["a file", "of others", "full"])
def test_a_cache_that_cannot_be_used_stops_nothing(
    world: World,
    tmp_path: Path,
    trouble: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = scanned(world, tmp_path / "whole")
    disk = tmp_path / "disk"
    if trouble == "a file":
        disk.touch()
    elif trouble == "of others":
        monkeypatch.setattr(os, "getuid", lambda: 12345)
    else:

        def full(path: Path) -> None:
            raise InputError(f"cannot write {path}: no space left")

        monkeypatch.setattr(cache, "write_atomic", full)
    assert scanned(world, tmp_path / "out", cache=str(disk)) == whole
    assert ("nothing is kept" if trouble == "full" else "is not used") in caplog.text
    assert not list(disk.glob("*.npz"))


def test_what_is_kept_answers_for_one_policy(world: World, tmp_path: Path) -> None:
    rows = np.load(world.paths["a"])
    rows[1] = np.nan
    np.save(world.paths["a"], rows)
    kept = str(tmp_path / "disk")
    scanned(world, tmp_path / "set aside", cache=kept, bad_rows="quarantine")
    with pytest.raises(InputError, match="NaN or infinity"):
        scanned(world, tmp_path / "out", cache=kept)


def test_of_several_at_once_one_reads(world: World, tmp_path: Path) -> None:
    store, together, reads = open_store(world.paths["a"]), threading.Barrier(4), list[int]()

    def read() -> Rows:
        reads.append(1)
        return inputs._read_test(store, "error")

    def task(_: int) -> Rows:
        together.wait()
        return cached(tmp_path / "disk", store, "error", read)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(task, range(4)))
    assert len(reads) == 1
    for status, rows in found:
        assert np.array_equal(rows, np.load(world.paths["a"])) and not status.any()
