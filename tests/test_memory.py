"""Memory of blocks: used again within a pass, given back behind it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import clipgap
from clipgap import memory
from clipgap.kernels import interface
from clipgap.memory import blank, reusing
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
        many = [blank((ROWS, DIM), np.float16) for _ in range(20)]
        many.clear()
        assert 0 < len(memory._spare) <= 4


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
