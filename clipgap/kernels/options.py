"""What scores are computed with. No result depends on it."""

from __future__ import annotations

from dataclasses import dataclass

from clipgap.options import Options, option

KERNELS = ("triton", "cuda", "triton-float16", "cuda-float16", "cpu", "torch", "numpy")
"""The fastest first; on a machine with GPUs, `auto` takes the first that it can."""
DEVICES = ("auto", "cuda", "cpu")
MAX_K = 64
MAX_BLOCK_ROWS = 1 << 20
"""More is no faster, and a block with its results is held in memory several times over."""


@dataclass(frozen=True)
class Compute(Options):
    """With which kernel, where, and how much at a time."""

    kernel: str = option(
        "auto",
        "What computes the scores. Any kernel gives the same result.",
        choices=("auto", *KERNELS),
    )
    device: str = option(
        "auto",
        "Where: all GPUs that the process may see, the CPU, or GPUs if there are any.",
        choices=DEVICES,
    )
    threads: int | None = option(
        None, "Threads to compute with.", metavar="N", min=1, shown="all cores"
    )
    block_rows: int | None = option(
        None, "Rows at a time.", metavar="N", min=1, max=MAX_BLOCK_ROWS, shown="chosen for speed"
    )
