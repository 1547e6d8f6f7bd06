"""Any executor fills the same folders: the toy one, which shares no memory and repeats itself."""

from __future__ import annotations

import errno
import pickle
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import clipgap
from clipgap.dedup.options import MODES
from clipgap.errors import ClipgapError, InputError, OutOfResources
from clipgap.kernels.options import Compute
from clipgap.runs.executors import Here, Processes, portable
from clipgap.runs.how import How, Progress
from clipgap.runs.units import Event
from clipgap.scan import work as scans
from clipgap.scan.api import plan_scan, scan_into
from clipgap.scan.sinks import MemorySink
from clipgap.scan.work import ScanWork, ShardUnit
from clipgap.synthetic import rows as synthetic
from tests.thorough import examples
from tests.toy_executor import toy
from tests.turns import Turns
from tests.worlds import World, make_world, tree, troubled_rows


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


@pytest.fixture(scope="module")
def repeating(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of the same rows, so that each ties with others of larger and of smaller ids."""
    folder = tmp_path_factory.mktemp("repeating")
    for shard, rows in enumerate((0, 1, 2, 0, 1, 0)):
        np.save(folder / f"{shard}.npy", troubled_rows(30, 8, rows))
    return folder


@given(order=st.permutations(range(6)), workers=st.integers(2, 4), k=st.integers(1, 10))
@examples(20)
def test_workers_who_are_told_the_bounds_of_all_make_the_same(
    repeating: Path, order: list[int], workers: int, k: int
) -> None:
    def in_order(work: ScanWork, units: Sequence[ShardUnit], *asked: Any) -> Iterator[Event]:
        return Turns(workers)(work, [units[shard] for shard in order], *asked)

    plan = plan_scan(repeating, {"t": troubled_rows(9, 8, 5)}, k=k)
    found = []
    for executor in (Here(), in_order):
        sink = MemorySink()
        with patch.object(scans._Writer, "_is_due", lambda self: True):
            scan_into(ScanWork(plan, Compute(block_rows=10), sink), How(executor=executor))
        found.append(sink.tables)
    assert found[0] == found[1]


def test_workers_who_are_told_the_bounds_of_all_refine_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scans._Writer, "_is_due", lambda self: True)
    for shard, rows in enumerate(np.split(synthetic.clip_like(6_000, 64), 240)):
        np.save(tmp_path / f"{shard:03d}.npy", rows)
    plan, refined = plan_scan(tmp_path, {"t": synthetic.clip_like(400, 64, seed=1)}, k=10), []
    for executor in (Turns(1), Turns(4), Turns(4, tells=False)):
        told: list[Progress] = []
        how = How(executor=executor, on_progress=told.append)
        scan_into(ScanWork(plan, Compute(threads=1), MemorySink()), how)
        refined.append(told[-1].figures["refined/row"])
    alone, together, apart = refined
    assert together - alone < 0.5 * (apart - alone)


@pytest.mark.parametrize("mode", MODES)
def test_deduplications(world: World, tmp_path: Path, mode: str) -> None:
    """Of several epsilons, with a cluster that is larger than memory."""

    def several(work: Any, units: Sequence[Any], *asked: Any) -> Iterator[Event]:
        assert len(units) > 2
        assert work.labels.counts().max() > work.room
        yield from toy(work, units, *asked)

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
