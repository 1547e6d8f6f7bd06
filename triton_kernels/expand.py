"""Words of survivors to pairs that still matter: (row, group of columns, u, bits) to (row, column).

A word is one pair, from a filter that can queue single pairs, or a group of 32 columns with a bit
for each. When it was queued its row's bound was still rising. Now that the filter is done each pair
is asked again, with the largest u of its word for its own: most words of groups hold one pair.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import INTERPRETED

PAIRS = 1 << 16 if INTERPRETED else 2048  # that a program may make at a time
WARPS = 4


@triton.jit
def expand_kernel(
    queue,  # (4, capacity) int32: row, group, largest u or its bits, one bit a column of more
    queued,  # (1,) int64
    capacity,
    floor,  # by column
    tau,  # by column; read only with MARGIN
    best,  # by row
    margin,  # by row; only with MARGIN
    pairs,  # (2, pair_capacity) int32: row, column
    paired,  # (1,) int64
    pair_capacity,
    MARGIN: tl.constexpr,
    GROUP: tl.constexpr,
    WORDS: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    total = tl.minimum(tl.load(queued), capacity).to(tl.int32)
    for first in range(tl.program_id(0) * WORDS, total, PROGRAMS * WORDS):
        word = first + tl.arange(0, WORDS)
        there = word < total
        row = tl.load(queue + word, mask=there, other=0)
        group = tl.load(queue + capacity + word, mask=there, other=0)
        upper = tl.load(queue + 2 * capacity.to(tl.int64) + word, mask=there, other=0)
        if best.dtype.element_ty == tl.float32:
            upper = upper.to(tl.float32, bitcast=True)
        bit = tl.arange(0, GROUP)
        set_bits = there[:, None]
        if GROUP > 1:
            bits = tl.load(queue + 3 * capacity.to(tl.int64) + word, mask=there, other=0)
            set_bits = ((bits[:, None] >> bit[None, :]) & 1) != 0
        column = group[:, None] * GROUP + bit[None, :]
        least = tl.load(best + row)[:, None]
        least = tl.minimum(least, tl.load(floor + column, mask=set_bits, other=0))
        if MARGIN:
            room = tl.load(tau + column, mask=set_bits, other=0)
            least = tl.minimum(least, tl.load(margin + row)[:, None] + room)
        alive = tl.reshape((set_bits & (upper[:, None] >= least)).to(tl.int32), (WORDS * GROUP,))
        taken = tl.atomic_add(paired, tl.sum(alive).to(tl.int64), sem="relaxed")
        place = tl.minimum(taken, pair_capacity).to(tl.int32) + tl.cumsum(alive) - 1
        fits = (alive != 0) & (place < pair_capacity)
        rows = tl.reshape(tl.broadcast_to(row[:, None], (WORDS, GROUP)), (WORDS * GROUP,))
        tl.store(pairs + place, rows, mask=fits)
        tl.store(pairs + pair_capacity + place, tl.reshape(column, (WORDS * GROUP,)), mask=fits)


def expand(
    queue: torch.Tensor,
    queued: torch.Tensor,
    group: int,
    column_terms: tuple[torch.Tensor, torch.Tensor],
    best: torch.Tensor,
    margin: torch.Tensor | None,
    pairs: torch.Tensor,
    paired: torch.Tensor,
    programs: int,
) -> None:
    """Fill `pairs` from the queue; `paired` runs past the capacity when some did not fit.

    `column_terms` are floor and tau; they, `best` and `margin` are those of the filter.
    """
    expand_kernel[(programs,)](
        queue, queued, queue.shape[1], *column_terms, best, best if margin is None else margin,
        pairs, paired, pairs.shape[1],
        MARGIN=margin is not None, GROUP=group, WORDS=PAIRS // group, PROGRAMS=programs,
        num_warps=WARPS,
    )  # fmt: skip
