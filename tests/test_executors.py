"""Any executor fills the same folders: the toy one, which shares no memory and repeats itself."""

from __future__ import annotations

import errno
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipgap
from clipgap.dedup.options import MODES
from clipgap.errors import ClipgapError, InputError, OutOfResources
from clipgap.runs.executors import Processes, portable
from clipgap.runs.units import Event
from tests.toy_executor import toy
from tests.worlds import World, make_world, tree


@pytest.fixture
def world(tmp_path: Path) -> World:
    """With rows that are set aside in two shards."""
    world = make_world(tmp_path / "world", shards=(40, 0, 25, 9), d=8)
    for shard in (0, 3):
        world.shards[shard][2] = np.nan
        np.save(world.train / "img_emb" / f"img_emb_{shard}.npy", world.shards[shard])
    return world


def test_scans(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where Python runs a script that does not ask whether it is the main one."""
    script = tmp_path / "unguarded.py"
    script.write_text("raise SystemExit('this script is run again')")
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(script), raising=False)
    tests = world.test_paths
    for name, executor in (("here", None), ("toy", toy), ("processes", Processes(["cpu"] * 2))):
        out = tmp_path / name
        clipgap.gap(world.paths["reference"], tests, k=3, out=out / "gap", executor=executor)
        (out / "gap").rename(tmp_path / "gap")  # a scan's manifest tells where its gap lies
        clipgap.scan(
            world.train,
            tests,
            gap=tmp_path / "gap",
            k=5,
            bad_rows="quarantine",
            out=out / "scan",
            executor=executor,
        )
        (tmp_path / "gap").rename(out / "gap")
    whole = tree(tmp_path / "here")
    assert tree(tmp_path / "toy") == whole
    assert tree(tmp_path / "processes") == whole


@pytest.mark.parametrize("mode", MODES)
def test_deduplications(world: World, tmp_path: Path, mode: str) -> None:
    """Of several epsilons, with a cluster that is larger than memory."""

    def several(work: Any, units: Sequence[Any], stop: Callable[[], bool]) -> Iterator[Event]:
        assert len(units) > 2
        assert work.labels.counts().max() > work.room
        yield from toy(work, units, stop)

    for name, executor in (("here", None), ("toy", several)):
        clipgap.dedup(
            world.train,
            [0.05, 0.4],
            clusters=3,
            mode=mode,
            keep="centroid-far",
            bad_rows="quarantine",
            out=tmp_path / name / "keep-{epsilon}",
            memory=1 << 20 if executor is None else 3_600,
            executor=executor,
        )
    assert tree(tmp_path / "toy") == tree(tmp_path / "here")


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (MemoryError(), OutOfResources, "memory ran out"),
        (OSError(errno.EMFILE, "Too many open files"), OutOfResources, "ulimit -n"),
        (
            OSError(errno.EIO, "Input/output error", "a.tar"),
            InputError,
            "Input/output error: 'a.tar'",
        ),
        (ValueError("no such thing"), ClipgapError, "ValueError: no such thing"),
    ],
)
def test_what_ends_a_worker_process_is_told_as_it_is_here(
    error: Exception, kind: type[ClipgapError], says: str
) -> None:
    told = portable(error)
    assert type(told) is kind and says in str(told)
    assert str(pickle.loads(pickle.dumps(told))) == str(told)
