"""Memory of blocks: used again within a pass, given back behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipgap
from clipgap import memory
from clipgap.files.parquet import ROW_GROUP
from clipgap.kernels import interface
from clipgap.kernels.interface import BlockResult
from clipgap.memory import blank, reusing
from clipgap.scan.rows import Found, RowGroups, RowLayout
from clipgap.scan.tables import SetColumns, TrainTable
from clipgap.synthetic.rows import clip_like

ROWS, DIM = 4096, 640


def address(rows: np.ndarray) -> int:
    return rows.__array_interface__["data"][0]


def test_a_dropped_block_makes_room_for_the_next() -> None:
    with reusing():
        first = blank((ROWS, DIM), np.float16)
        place, view = address(first), first[7:9]
        del first
        other = blank((ROWS, DIM), np.float16)
        assert address(other) != place, "somebody still looks at it"
        del view
        smaller = blank((ROWS // 2 + 1, DIM), np.float16)
        assert address(smaller) == place
        smaller[:] = 1.0
        del smaller
        half = blank((ROWS // 2, DIM), np.float16)
        assert address(half) != place, "half of it would lie idle"
        with reusing():
            pass
        assert address(blank((ROWS, DIM), np.float16)) == place, "the outer pass goes on"
        del half
    assert not memory._spare
    del other
    assert not memory._spare, "nothing is kept behind a pass"


def test_few_blocks_are_kept() -> None:
    with reusing():
        rows = [blank((ROWS, DIM), np.float16) for _ in range(2)]
        places = {address(block) for block in rows}
        rows.clear()
        tables = [blank((ROWS, DIM), np.float64) for _ in range(20)]
        tables.clear()
        assert sum(map(len, memory._spare.values())) == 2 + 4
        rows = [blank((ROWS, DIM), np.float16) for _ in range(2)]
        assert {address(block) for block in rows} == places, "tables took the place of rows"


def test_row_groups_lie_where_those_lay_that_are_written() -> None:
    """The system clears each page that it gives, which took as long as all the counting."""
    sets = tuple(SetColumns(f"set{i}", has_gap=True) for i in range(2))
    layout = RowLayout(TrainTable(sets), (None, None))
    random = np.random.default_rng(1)

    def found(rows: int) -> Found:
        sim, nn = random.random((rows, 2)), random.integers(0, 9, (rows, 2), np.int32)
        return Found(BlockResult(sim, nn, sim - 0.5, nn), ())

    def place(table: Any) -> int:
        return table["sim_set0"].chunk(0).buffers()[1].address

    with reusing():
        groups, ok = RowGroups(0, layout), np.ones(ROW_GROUP, np.bool_)
        (first,) = groups.add(ok, None, found(ROW_GROUP))
        held, was = place(first), first["sim_set0"].to_pylist()
        (second,) = groups.add(ok, None, found(ROW_GROUP))
        assert place(second) != held, "somebody still looks at it"
        assert first["sim_set0"].to_pylist() == was
        del first
        (third,) = groups.add(ok, None, found(ROW_GROUP))
        assert place(third) == held
        del second
        # A row that is set aside says nothing, whatever lay in its place.
        ok[:5] = False
        given = found(7)
        assert not list(groups.add(ok[:12], None, given))
        (last,) = groups.finish()
        assert last["margin_set1"].to_pylist() == [
            *[None] * 5,
            *given.result.margin[:, 1].astype(np.float32).tolist(),
        ]
        assert last.get_total_buffer_size() < 1000, "few rows hold few bytes"


def test_pages_are_locked_once_and_unlocked_when_nobody_needs_them() -> None:
    """What a device copies from by itself; locking costs more than clearing."""
    locked, unlocked = [], []

    def lock(place: int, size: int):
        locked.append(place)
        return None if len(locked) == 2 else lambda: unlocked.append(place)

    with reusing(lock):
        for _ in range(3):
            rows = blank((ROWS, DIM), np.float16)
            del rows
        rows, other = blank((ROWS, DIM), np.float16), blank((ROWS, DIM), np.float16)
        assert locked == [address(rows), address(other)], "the second one could not be locked"
        del other
    assert unlocked == []
    del rows
    assert unlocked == locked[:1]
    blank((ROWS, DIM), np.float16)
    assert len(locked) == 2, "nobody asks behind the pass"


def test_a_scan_reads_into_pages_that_its_kernel_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = []
    lock = staticmethod(lambda place, size: locked.append(size))
    monkeypatch.setattr(interface.OneAtATime, "lock_pages", lock)
    np.save(tmp_path / "rows.npy", clip_like(3 * ROWS, 128, seed=1))
    clipgap.scan(
        tmp_path / "rows.npy",
        {"t": clip_like(5, 128, seed=2)},
        out=tmp_path / "out",
        block_rows=ROWS,
        device="cpu",
    )
    assert ROWS * 128 * 2 in locked
