"""Whatever stops a scan, going on gives the same folder; what is finished is not computed again."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipgap
from clipgap.errors import InputError, Interrupted, ResumeError
from clipgap.files import atomic
from clipgap.runs.how import Progress
from clipgap.scan import work
from clipgap.store.base import Store
from tests.worlds import World, flip_bit, make_world, tree, unit_rows, write_store

K = 6


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path / "world", shards=(40, 0, 25, 33))


@pytest.fixture
def whole(world: World, tmp_path: Path) -> dict[str, str]:
    """The folder of an undisturbed run."""
    scan(world, tmp_path / "whole")
    return tree(tmp_path / "whole")


@pytest.fixture(autouse=True)
def checkpoint_each_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work._Writer, "_is_due", lambda self: True)


def scan(world: World, out: Path, **options: Any) -> clipgap.ScanResult:
    return clipgap.scan(world.train, world.test_paths, out=out, **{"k": K, **options})


def stop_after(world: World, out: Path, shards: int, **options: Any) -> None:
    """Run until so many shards are scanned, then stop as a signal would."""
    stop = threading.Event()

    def watch(progress: Progress) -> None:
        if progress.stage == "scanning" and progress.part == shards:
            stop.set()

    with pytest.raises(Interrupted, match="--resume"):
        scan(world, out, stop=stop, on_progress=watch, **options)


@pytest.fixture
def shards_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The shards of the training store, as they are read."""
    read: list[int] = []
    original = Store.read

    def spy(self: Store, shard: int, start: int, stop: int) -> Any:
        if self.has_keys:  # only the training store has
            read.append(shard)
        return original(self, shard, start, stop)

    monkeypatch.setattr(Store, "read", spy)
    return read


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_a_stopped_scan_goes_on_where_it_was(
    world: World, whole: dict[str, str], tmp_path: Path, shards: int, shards_read: list[int]
) -> None:
    out = tmp_path / "scan"
    stop_after(world, out, shards, block_rows=10)
    assert not (out / "manifest.json").exists()
    shards_read.clear()
    progress: list[Progress] = []
    scan(world, out, resume=True, on_progress=progress.append)
    assert set(shards_read) == set(range(shards, 4)) - {1} | ({1} if shards <= 1 else set())
    first = next(p for p in progress if p.stage == "scanning" and p.new)
    assert first.earlier == sum(len(rows) for rows in world.shards[:shards])
    assert first.new == len(next(rows for rows in world.shards[shards:] if len(rows)))
    assert tree(out) == whole


def test_resume_of_nothing_is_a_start(world: World, whole: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "scan").mkdir()
    scan(world, tmp_path / "scan", resume=True)
    assert tree(tmp_path / "scan") == whole


def test_an_unfinished_scan_wants_a_flag(
    world: World, whole: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "scan"
    stop_after(world, out, 2)
    with pytest.raises(InputError, match=r"unfinished scan.*--resume"):
        scan(world, out)
    scan(world, out, overwrite=True)
    assert tree(out) == whole


def test_a_finished_scan_is_kept(
    world: World, whole: dict[str, str], tmp_path: Path, shards_read: list[int]
) -> None:
    scan(world, tmp_path / "scan")
    shards_read.clear()
    result = scan(world, tmp_path / "scan", resume=True)
    assert result.already_complete
    assert not shards_read
    assert tree(tmp_path / "scan") == whole


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    flip_bit(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
@pytest.mark.parametrize(
    ("name", "computed"),
    [
        ("train/part-00002.parquet", {2}),
        ("test/a.parquet", {0, 1, 2, 3}),
        ("hist.parquet", {0, 1, 2, 3}),
    ],
)
def test_damage_is_found_named_and_mended(
    world: World,
    whole: dict[str, str],
    tmp_path: Path,
    shards_read: list[int],
    damage: Callable[[Path], None],
    name: str,
    computed: set[int],
) -> None:
    out = tmp_path / "scan"
    scan(world, out)
    damage(out / name)
    report = clipgap.verify(out)
    assert not report.ok
    assert name in next(check for check in report.checks if not check.ok).detail
    shards_read.clear()
    result = scan(world, out, resume=True)
    assert set(shards_read) == computed
    assert not result.already_complete
    assert tree(out) == whole
    assert clipgap.verify(out).ok


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
def test_a_part_damaged_while_the_scan_was_stopped_is_mended(
    world: World, whole: dict[str, str], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    out = tmp_path / "scan"
    stop_after(world, out, 2)
    damage(out / "train" / "part-00000.parquet")
    scan(world, out, resume=True)
    assert tree(out) == whole


def test_a_damaged_checkpoint_is_said_to_be_damaged(world: World, tmp_path: Path) -> None:
    out = tmp_path / "scan"
    stop_after(world, out, 2)
    flip(out / ".progress" / "lists.npz")
    with pytest.raises(InputError, match=r"checkpoint.*damaged.*--overwrite"):
        scan(world, out, resume=True)


def replace_test(world: World) -> dict[str, Any]:
    np.save(world.paths["a"], world.tests["a"][::-1])
    return {}


def replace_shard(world: World) -> dict[str, Any]:
    np.save(world.train / "img_emb" / "img_emb_2.npy", world.shards[2][::-1])
    return {}


def touch_shard(world: World) -> dict[str, Any]:
    path = world.train / "img_emb" / "img_emb_2.npy"
    os.utime(path, ns=(1, 1))
    return {}


def add_shard(world: World) -> dict[str, Any]:
    write_store(world.folder / "more", world.shards[:1], world.key)
    return {"train": f"{world.train}::{world.folder / 'more'}"}


CHANGES = [
    (lambda world: {"k": 7}, "setting k: was 6, is 7"),
    (lambda world: {"train_table": False}, "setting train_table: was True, is False"),
    (lambda world: {"above": (0.5,)}, "setting above: was"),
    (lambda world: {"gap": clipgap.gap(world.reference, world.tests)}, "gap: was absent"),
    (lambda world: {"tests": {"a": world.tests["a"]}}, "test sets: were 2, are 1"),
    (replace_test, "test set a sha256: was"),
    (replace_shard, "training shard img_emb_2 fingerprint: was"),
    (add_shard, "training shards: were 4, are 5"),
]


@pytest.mark.parametrize(("change", "words"), CHANGES)
@pytest.mark.parametrize("finished", [True, False])
def test_resume_with_other_inputs_is_refused_and_the_difference_named(
    world: World, tmp_path: Path, change: Any, words: str, finished: bool
) -> None:
    out = tmp_path / "scan"
    if finished:
        scan(world, out)
    else:
        stop_after(world, out, 2)
    before = tree(out)
    options = {"train": world.train, "tests": world.test_paths, "k": K, **change(world)}
    with pytest.raises(ResumeError) as caught:
        clipgap.scan(**options, out=out, resume=True)
    assert words in str(caught.value)
    assert caught.value.exit_code == 3
    assert tree(out) == before


def test_a_shard_rewritten_in_place_is_noticed(world: World, tmp_path: Path) -> None:
    stop_after(world, tmp_path / "scan", 2)
    touch_shard(world)
    with pytest.raises(ResumeError, match="last change of training shard img_emb_2"):
        scan(world, tmp_path / "scan", resume=True)


def test_a_store_that_moved_is_the_same_store(world: World, tmp_path: Path) -> None:
    stop_after(world, tmp_path / "scan", 2)
    world.train.rename(world.folder / "elsewhere")
    moved = world.folder / "elsewhere"
    clipgap.scan(moved, world.test_paths, k=K, out=tmp_path / "scan", resume=True)
    assert clipgap.verify(tmp_path / "scan").ok


def test_the_policy_may_become_kinder_on_the_way_but_not_stricter(
    world: World, tmp_path: Path
) -> None:
    world.shards[3][5, 5] = np.nan
    np.save(world.train / "img_emb" / "img_emb_3.npy", world.shards[3])
    kind = {"bad_rows": "quarantine"}
    scan(world, tmp_path / "whole", **kind)
    with pytest.raises(InputError, match="img_emb_3, row 5"):
        scan(world, tmp_path / "scan")
    scan(world, tmp_path / "scan", resume=True, **kind)
    assert tree(tmp_path / "scan") == tree(tmp_path / "whole")

    stop_after(world, tmp_path / "other", 2, **kind)
    with pytest.raises(ResumeError, match="bad_rows: was quarantine, is error"):
        scan(world, tmp_path / "other", resume=True)


def test_quarantined_rows_survive_a_stop(world: World, tmp_path: Path) -> None:
    for shard in (0, 3):
        world.shards[shard][5] = 0
        np.save(world.train / "img_emb" / f"img_emb_{shard}.npy", world.shards[shard])
    scan(world, tmp_path / "whole")
    stop_after(world, tmp_path / "scan", 2)
    assert scan(world, tmp_path / "scan", resume=True).quarantined == 2
    assert tree(tmp_path / "scan") == tree(tmp_path / "whole")


def test_going_on_with_another_kernel_and_block_size(
    world: World, whole: dict[str, str], tmp_path: Path
) -> None:
    stop_after(world, tmp_path / "scan", 2, kernel="numpy", block_rows=3)
    scan(world, tmp_path / "scan", resume=True, block_rows=1000)
    assert tree(tmp_path / "scan") == whole


@pytest.mark.parametrize("call", ["sync_file", "sync_folder", "replace"])
@pytest.mark.parametrize("nth", [0, 1, 2, 5, 9, 12])
def test_a_write_that_fails_is_reported_and_the_rerun_completes(
    world: World,
    whole: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    nth: int,
) -> None:
    out = tmp_path / "scan"
    place = atomic.os if call == "replace" else atomic
    original, calls = getattr(place, call), 0

    def fail(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(place, call, fail)
        with pytest.raises(InputError, match=r"cannot write .*: No space left on device\. Free"):
            scan(world, out)
    assert not list(out.rglob("*-tmp"))
    assert not (out / "manifest.json").exists() or call == "sync_folder"
    scan(world, out, resume=True)
    assert tree(out) == whole


def test_a_row_group_that_fails_is_never_skipped(
    world: World, whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is queued behind a failed write must not finish the file without it."""
    original, calls = work._OpenUnit.add, 0

    def fail_once(self: work._OpenUnit, *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(work._OpenUnit, "add", fail_once)
        with pytest.raises(InputError, match=r"cannot write .*part-00000"):
            scan(world, tmp_path / "scan", block_rows=10)
    assert not list((tmp_path / "scan" / "train").iterdir())
    scan(world, tmp_path / "scan", resume=True)
    assert tree(tmp_path / "scan") == whole


@pytest.mark.parametrize(("rows", "is_said"), [(40_000, True), (1_000, False)])
def test_a_large_shard_written_after_the_scan_is_said_to_be_only_sampled(
    tmp_path: Path, rows: int, is_said: bool
) -> None:
    """Up to 1 MiB every byte is compared; beyond that only pieces."""
    train, test = tmp_path / "train.npy", tmp_path / "test.npy"
    np.save(train, unit_rows(rows, 16, 0))
    np.save(test, unit_rows(3, 16, 1))
    clipgap.scan(train, {"t": test}, k=1, out=tmp_path / "scan")
    later = (tmp_path / "scan" / "manifest.json").stat().st_mtime_ns + 10**9
    os.utime(train, ns=(later, later))
    seen: list[Progress] = []
    again = clipgap.scan(
        train, {"t": test}, k=1, out=tmp_path / "scan", resume=True, on_progress=seen.append
    )
    assert again.already_complete
    assert any("only a sample was compared" in moment.note for moment in seen) == is_said
