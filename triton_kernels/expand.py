"""Words of survivors to pairs of survivors: (row, word of 32 columns, bits) to (row, column)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import INTERPRETED

WORDS = 2048 if INTERPRETED else 64  # of a program at a time
WARPS = 4


@triton.jit
def expand_kernel(
    queue,  # (3, capacity) int32: row, word of columns, bits
    queued,
    capacity,
    pairs,  # (2, pair_capacity) int32: row, column
    paired,
    pair_capacity,
    WORDS: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    total = tl.minimum(tl.load(queued), capacity)
    for first in range(tl.program_id(0) * WORDS, total, PROGRAMS * WORDS):
        word = first + tl.arange(0, WORDS)
        there = word < total
        row = tl.load(queue + word, mask=there, other=0)
        group = tl.load(queue + capacity + word, mask=there, other=0)
        bits = tl.load(queue + 2 * capacity + word, mask=there, other=0)
        bit = tl.arange(0, 32)
        alive = tl.reshape((bits[:, None] >> bit[None, :]) & 1, (WORDS * 32,))
        place = tl.atomic_add(paired, tl.sum(alive), sem="relaxed") + tl.cumsum(alive) - 1
        fits = (alive != 0) & (place < pair_capacity) & (place >= 0)
        rows = tl.reshape(tl.broadcast_to(row[:, None], (WORDS, 32)), (WORDS * 32,))
        columns = tl.reshape(group[:, None] * 32 + bit[None, :], (WORDS * 32,))
        tl.store(pairs + place, rows, mask=fits)
        tl.store(pairs + pair_capacity + place, columns, mask=fits)


def expand(
    queue: torch.Tensor,
    queued: torch.Tensor,
    pairs: torch.Tensor,
    paired: torch.Tensor,
    programs: int,
) -> None:
    """Fill `pairs` from the queue; `paired` runs past the capacity when some did not fit."""
    expand_kernel[(programs,)](
        queue, queued, queue.shape[1], pairs, paired, pairs.shape[1],
        WORDS=WORDS, PROGRAMS=programs, num_warps=WARPS,
    )  # fmt: skip
