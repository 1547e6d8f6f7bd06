"""How the CUDA filter is cut for a chip and a depth: one small table, and why.

A block keeps its columns in shared memory, full depth, and rows stream by. More columns are
better: each row slice that comes by serves all of them. So the table goes from wide to narrow, and
the first shape that fits the chip's shared memory is taken.

=====================  =======  ======  ===================================================
shape                  columns  stages  fits, with rows of d bytes (padded to 128)
=====================  =======  ======  ===================================================
sm_90a, wgmma          128      3 to 8  H100 (227 KiB): d up to 1,408; 8 stages at d = 640
sm_90a, wgmma          64       3 to 8  H100: d up to 2,816
sm_80, mma.sync        128      2 x 4   A100 (163 KiB): d up to 768
sm_80, mma.sync        128      2 x 2   A100: d up to 1,024. One slice under way a group is
                                        enough for 16 bytes a clock, with nothing to spare
sm_80, mma.sync        64       2 x 4   A100: d up to 1,536; 99 KiB (A10, RTX): 512
sm_80, mma.sync        64       2 x 2   A100: d up to 2,048; 99 KiB: 1,024
=====================  =======  ======  ===================================================

Registers: a thread of the 128-column shapes holds 128 sums. sm_80: 256 threads of up to 255, one
block on a multiprocessor. sm_90a: two groups of 128 threads with 232 each, 40 for the group that
copies. Narrow shapes hold half as many sums and are bound by shared memory instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from clipgap.errors import MissingDependency

TILE = 128
"""Rows of a tile; columns are padded to two of them, for a cluster takes two blocks' columns."""
PAIR_OF_TILES = 2 * TILE
MOST_SHARED = {80: 163 << 10, 90: 227 << 10}
"""Bytes of shared memory that one block can have."""
_SIGNALS = 256  # bytes, with what alignment may cost
_TERMS = 16  # bytes a column


@dataclass(frozen=True)
class Shape:
    """One way to cut the filter; results never depend on it."""

    kernel: str
    slice: int  # bytes of depth that come at a time
    columns: int
    stages: int  # slices under way in all
    threads: int
    cluster: int  # blocks that share rows
    shared: int  # bytes of a block
    band: int = 8  # column tiles that are worked on at the same time

    @property
    def name(self) -> str:
        return f"{TILE}x{self.columns}x{self.slice}/{self.stages}s"


def every_shape(capability: int, shared: int, depth: int) -> Iterator[Shape]:
    """The shapes that fit a chip with so much shared memory a block, the best first."""
    for columns in (128, 64):
        held = columns * (depth + _TERMS) + _SIGNALS
        if capability == 90:
            stages = min(8, (shared - held) // (TILE * 128))
            if stages >= 3:
                used = held + stages * TILE * 128
                yield Shape(f"filter_sm90_{columns}", 128, columns, stages, 384, 2, used)
            continue
        for stages in (4, 2):
            used = held + 2 * stages * TILE * 64
            if used <= shared:
                kernel = f"filter_sm80_{columns}_{stages}"
                yield Shape(kernel, 64, columns, 2 * stages, 256, 1, used)


def shape_for(capability: int, shared: int, depth: int) -> Shape:
    """The shape for operands of `depth` bytes."""
    found = next(every_shape(capability, shared, depth), None)
    if found is None:
        raise MissingDependency(
            f"kernel 'cuda' holds columns in shared memory, and {depth:,} dimensions do not fit "
            f"into the {shared >> 10:,} KiB of this GPU; use --kernel triton"
        )
    return found
