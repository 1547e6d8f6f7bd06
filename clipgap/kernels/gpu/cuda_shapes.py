"""How the CUDA filter is cut for a chip and a depth: one small table, and why.

A block keeps its columns in shared memory, full depth, and rows stream by. More columns are
better: each row slice that comes by serves all of them. So the table goes from wide to narrow, and
the first shape that fits the chip's shared memory is taken. Depth is in bytes, padded to 128: one a
dimension with int8 operands, two with float16.

=====================  =======  ======  ===================================================
shape                  columns  stages  fits, with rows of so many bytes
=====================  =======  ======  ===================================================
sm_90a, wgmma          256      3 to 8  H100 (227 KiB): up to 768; 7 stages at 640
sm_90a, wgmma          128      3 to 8  H100: up to 1,536 (float16: 768 dimensions)
sm_90a, wgmma          64       3 to 8  H100: up to 3,200
sm_80, mma.sync        128      2 x 4   A100 (163 KiB): up to 768
sm_80, mma.sync        128      2 x 2   A100: up to 1,024. One slice under way a group is
                                        enough for 16 bytes a clock, with nothing to spare
sm_80, mma.sync        64       2 x 4   A100: up to 1,536; 99 KiB (A10, RTX): 512
sm_80, mma.sync        64       2 x 2   A100: up to 2,048; 99 KiB: 1,024
=====================  =======  ======  ===================================================

None of them has run on a card yet. What is known of them is what the compilers and the emulator of
the tests tell: right in every order in which copies may land, no register spilled.

Registers: a thread of the widest shapes holds 128 sums. sm_80: 256 threads of up to 255, one
block on a multiprocessor. sm_90a: two groups of 128 threads with 232 each, 40 for the group that
copies. Narrow shapes hold fewer sums; the narrowest are bound by shared memory instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from clipgap.errors import MissingDependency

MULTIPLE = 256
"""Rows and columns are padded to whole multiples of this, which every shape divides."""
MOST_SHARED = {80: 163 << 10, 90: 227 << 10}
"""Bytes of shared memory that one block can have."""
OPERANDS = {"int8": 1, "float16": 2}
"""Bytes of a number of each."""
_SIGNALS = 256  # bytes, with what alignment may cost
_TERMS = 16  # bytes a column


@dataclass(frozen=True)
class Shape:
    """One way to cut the filter; results never depend on it."""

    kernel: str
    operand: str
    tile: int  # rows, both of a product and of the layout of operands
    slice: int  # bytes of depth that come at a time
    columns: int
    stages: int  # slices under way in all
    threads: int
    shared: int  # bytes of a block
    in_band: int = 1024  # columns that are worked on at the same time

    @property
    def name(self) -> str:
        return f"{self.tile}x{self.columns}x{self.slice}/{self.stages}s"

    @property
    def band(self) -> int:
        """Column tiles of a band."""
        return self.in_band // self.columns

    @property
    def stages_are_built_in(self) -> bool:
        return "sm80" in self.kernel


def depth_of(d: int, operand: str) -> int:
    """Bytes of a row."""
    return -(-d * OPERANDS[operand] // 128) * 128


def every_shape(capability: int, shared: int, depth: int, operand: str = "int8") -> Iterator[Shape]:
    """The shapes that fit a chip with so much shared memory a block, the best first."""
    for columns in (256, 128, 64):
        held = columns * (depth + _TERMS) + _SIGNALS
        if capability == 90:
            stages = min(8, (shared - held) // (64 * 128))
            if stages >= 3:
                kernel, used = f"filter_{operand}_sm90_{columns}", held + stages * 64 * 128
                yield Shape(kernel, operand, 64, 128, columns, stages, 384, used)
            continue
        for stages in (4, 2) if columns <= 128 else ():
            used = held + 2 * stages * 128 * 64
            if used <= shared:
                kernel = f"filter_{operand}_sm80_{columns}_{stages}"
                yield Shape(kernel, operand, 128, 64, columns, 2 * stages, 256, used)


def shape_for(capability: int, shared: int, depth: int, operand: str = "int8") -> Shape:
    """The shape for operands of `depth` bytes."""
    found = next(every_shape(capability, shared, depth, operand), None)
    if found is None:
        raise MissingDependency(
            f"the filter in CUDA holds columns in shared memory, and rows of {depth:,} bytes do "
            f"not fit into the {shared >> 10:,} KiB of this GPU; use --kernel triton"
        )
    return found
