"""Words of survivors to pairs that still matter: (row, word of 32 columns, bits) to (row, column).

When a pair was queued its row's bound was still rising. Now that the filter is done each pair is
asked again, with the largest u of its word for its own: most words hold one pair.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import INTERPRETED

WORDS = 2048 if INTERPRETED else 64  # of a program at a time
WARPS = 4


@triton.jit
def expand_kernel(
    queue,  # (4, capacity) int32: row, word of columns, bits, largest u
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
    WORDS: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    total = tl.minimum(tl.load(queued), capacity).to(tl.int32)
    for first in range(tl.program_id(0) * WORDS, total, PROGRAMS * WORDS):
        word = first + tl.arange(0, WORDS)
        there = word < total
        row = tl.load(queue + word, mask=there, other=0)
        group = tl.load(queue + capacity + word, mask=there, other=0)
        bits = tl.load(queue + 2 * capacity + word, mask=there, other=0)
        upper = tl.load(queue + 3 * capacity + word, mask=there, other=0)
        if best.dtype.element_ty == tl.float32:
            upper = upper.to(tl.float32, bitcast=True)
        bit = tl.arange(0, 32)
        set_bits = ((bits[:, None] >> bit[None, :]) & 1) != 0
        column = group[:, None] * 32 + bit[None, :]
        least = tl.load(best + row)[:, None]
        least = tl.minimum(least, tl.load(floor + column, mask=set_bits, other=0))
        if MARGIN:
            room = tl.load(tau + column, mask=set_bits, other=0)
            least = tl.minimum(least, tl.load(margin + row)[:, None] + room)
        alive = tl.reshape((set_bits & (upper[:, None] >= least)).to(tl.int32), (WORDS * 32,))
        taken = tl.atomic_add(paired, tl.sum(alive).to(tl.int64), sem="relaxed")
        place = tl.minimum(taken, pair_capacity).to(tl.int32) + tl.cumsum(alive) - 1
        fits = (alive != 0) & (place < pair_capacity)
        rows = tl.reshape(tl.broadcast_to(row[:, None], (WORDS, 32)), (WORDS * 32,))
        tl.store(pairs + place, rows, mask=fits)
        tl.store(pairs + pair_capacity + place, tl.reshape(column, (WORDS * 32,)), mask=fits)


def expand(
    queue: torch.Tensor,
    queued: torch.Tensor,
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
        MARGIN=margin is not None, WORDS=WORDS, PROGRAMS=programs, num_warps=WARPS,
    )  # fmt: skip
