"""Memory of blocks: used again within a pass, given back behind it."""

from __future__ import annotations

import numpy as np

from clipgap import memory
from clipgap.memory import blank, reusing

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
