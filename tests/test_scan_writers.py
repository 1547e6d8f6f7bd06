"""Several shards are written at a time, each by a thread of its own: the folder is the same."""

from __future__ import annotations

import errno
import os
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

import clipgap
from clipgap.errors import InputError, Interrupted
from clipgap.files.sums import FileSum
from clipgap.kernels import interface
from clipgap.runs.how import Progress
from clipgap.scan import work
from tests.worlds import World, make_world, tree


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), shards=(40, 0, 25, 33, 7, 61))


@pytest.fixture(scope="module")
def whole(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The folder that one thread writes."""
    out = tmp_path_factory.mktemp("whole") / "scan"
    scan(world, out)
    return tree(out)


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> dict[int, set[int]]:
    """Three writers, and which of them wrote each shard."""
    monkeypatch.setattr(interface.OneAtATime, "writers", 3)
    monkeypatch.setattr(work._Writer, "_is_due", lambda self: True)
    wrote: dict[int, set[int]] = defaultdict(set)
    add = work._OpenUnit.add

    def noting(self: work._OpenUnit, *block: Any) -> None:
        wrote[self.shard].add(threading.get_ident())
        add(self, *block)

    monkeypatch.setattr(work._OpenUnit, "add", noting)
    return wrote


def scan(world: World, out: Path, **options: Any) -> clipgap.ScanResult:
    return clipgap.scan(world.train, world.test_paths, out=out, k=6, block_rows=9, **options)


def test_the_folder_is_that_of_one_writer(
    world: World, whole: dict[str, str], three: dict[int, set[int]], tmp_path: Path
) -> None:
    out = tmp_path / "scan"
    result = scan(world, out)
    assert tree(out) == whole
    assert all(len(threads) == 1 for threads in three.values()), "a shard is one thread's"
    assert len(set.union(*three.values())) == 3
    for name, entry in result.manifest["files"].items():
        assert FileSum(**entry) == FileSum.of(out / name)


def test_shards_are_under_way_together(
    world: World, three: dict[int, set[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second shard with rows begins before the first has ended."""
    order = []
    add, finish = work._OpenUnit.add, work._OpenUnit.finish
    monkeypatch.setattr(
        work._OpenUnit, "add", lambda self, *block: (order.append(self.shard), add(self, *block))
    )
    monkeypatch.setattr(
        work._OpenUnit, "finish", lambda self: (order.append(~self.shard), finish(self))[1]
    )
    scan(world, tmp_path / "scan")
    assert order.index(2) < order.index(~0)


@pytest.mark.parametrize("parts", [1, 3])
def test_a_stopped_scan_goes_on(
    world: World,
    whole: dict[str, str],
    three: dict[int, set[int]],
    tmp_path: Path,
    parts: int,
) -> None:
    stop = threading.Event()

    def watch(progress: Progress) -> None:
        if progress.stage == "scanning" and progress.part == parts:
            stop.set()

    out = tmp_path / "scan"
    with pytest.raises(Interrupted):
        scan(world, out, stop=stop, on_progress=watch)
    assert not list(out.rglob("*-tmp"))
    three.clear()
    scan(world, out, resume=True)
    assert 0 < len(three) < len(world.shards), "what was finished is not done again"
    assert tree(out) == whole


def test_a_write_that_fails_names_its_shard_and_keeps_what_is_finished(
    world: World,
    whole: dict[str, str],
    three: dict[int, set[int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, add = tmp_path / "scan", work._OpenUnit.add

    def fail(self: work._OpenUnit, block: Any, found: Any) -> None:
        if self.shard == 3 and block.start:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        add(self, block, found)

    with monkeypatch.context() as patch:
        patch.setattr(work._OpenUnit, "add", fail)
        with pytest.raises(InputError, match=r"cannot write .*part-00003.*Input/output error"):
            scan(world, out)
    left = {path.name for path in (out / "train").iterdir()}
    assert "part-00001.parquet" in left
    assert "part-00003.parquet" not in left
    assert not [name for name in left if name.endswith("-tmp")]
    three.clear()
    scan(world, out, resume=True)
    assert 1 not in three
    assert tree(out) == whole
