"""Shapes of the filter's tiles: a short list for each chip, the first is the one to expect.

What bounds them: sums take rows × columns / (32 · warps) registers a thread of 255; operands take
(rows + columns) · depth bytes of shared memory a stage (163 KiB on A100, 227 KiB on H100 for all
programs of a multiprocessor). Two programs on a multiprocessor hide each other's epilogue; one
large tile asks less of the second-level cache. Which of the two wins is for a measurement to say,
so `clipgap.kernels.gpu` times the list once on the device and keeps the fastest.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FilterConfig:
    """One way to cut the filter's matrix product; results never depend on it."""

    rows: int
    columns: int
    depth: int  # elements of the operands' type in one step of the main loop
    warps: int
    stages: int  # steps whose operands are on their way from memory
    per_processor: int  # programs on a multiprocessor
    band: int = 16  # row tiles that share columns in the cache

    @property
    def name(self) -> str:
        return f"{self.rows}x{self.columns}x{self.depth}/{self.warps}w{self.stages}s"


LARGEST_TILE = 256
"""Rows and columns are padded to whole tiles of this size, which every configuration divides."""

_INT8 = {
    80: (
        # 128 registers of sums, 4 × 16 KiB: two programs with 128 threads of 255 registers.
        FilterConfig(128, 128, 64, warps=4, stages=4, per_processor=2),
        # Half the traffic from the second-level cache, but nothing hides the epilogue.
        FilterConfig(128, 256, 64, warps=8, stages=4, per_processor=1),
        FilterConfig(256, 128, 64, warps=8, stages=4, per_processor=1),
    ),
    90: (
        # Two warp groups with 128 registers of sums each; 4 × 48 KiB. With 128 × 256, what belongs
        # to columns needs twice the registers, and some sums spill.
        FilterConfig(256, 128, 128, warps=8, stages=4, per_processor=1),
        # One warp group, 3 × 32 KiB: two programs.
        FilterConfig(128, 128, 128, warps=4, stages=3, per_processor=2),
    ),
    100: (
        # Sums come out of tensor memory all at once, beside what the epilogue needs.
        FilterConfig(128, 128, 128, warps=8, stages=4, per_processor=1),
        FilterConfig(128, 64, 128, warps=4, stages=4, per_processor=2),
    ),
}
_FLOAT16 = {
    80: (
        FilterConfig(128, 128, 32, warps=4, stages=4, per_processor=2),
        FilterConfig(128, 256, 32, warps=8, stages=4, per_processor=1),
        FilterConfig(256, 128, 32, warps=8, stages=4, per_processor=1),
    ),
    90: (
        FilterConfig(256, 128, 64, warps=8, stages=4, per_processor=1),
        FilterConfig(128, 128, 64, warps=4, stages=3, per_processor=2),
    ),
    100: (
        FilterConfig(128, 128, 64, warps=8, stages=4, per_processor=1),
        FilterConfig(128, 64, 64, warps=4, stages=4, per_processor=2),
    ),
}
INTERPRETED = FilterConfig(64, 64, 64, warps=1, stages=1, per_processor=1, band=2)


def filter_configs(operand: str, capability: int) -> tuple[FilterConfig, ...]:
    """The list for a chip; a newer one takes that of the newest known."""
    table = {"int8": _INT8, "float16": _FLOAT16}[operand]
    return table[max(known for known in table if known <= capability)]
