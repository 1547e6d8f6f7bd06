"""The filter: a matrix product whose epilogue keeps the pairs that can still matter, and no score.

One source, two operand types. With int8 the sums are exact integers in units of the grid; with
float16 they are float32 scores with a rounding error that the caller's bounds allow for. In both a
sum starts at what row and column add to it, so that it ends as an *upper bound* of the score:

    u(x, t) = offset(x) + start(t) + q(x)·p(t)

A pair survives when u reaches one of three lower bounds: the row's best so far, the column's k-th
best (`floor`), or the row's best margin so far. The first and last rise while the kernel runs: the
largest u of a row in a tile, each less its column's `thickness`, less the row's `width`, is below
the score of some pair of that tile. (With one thickness for all columns, a few columns that do not
fit the grid would widen every window.)

Survivors leave as words: a row, a group of 32 columns, and one bit for each column. A tile packs
its words with one prefix sum and reserves its part of the queue with one atomic addition. When the
queue is full the count runs on, and the caller sees that words are missing.

The columns are loaded as rows and transposed in the product. Loaded the other way, the compiler for
sm_80 carries single bytes of int8 operands through the main loop, a register each.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .configs import FilterConfig

GROUP = 32  # columns of a word
LEAST = {torch.int8: -(2**31), torch.float16: -1e30}


@triton.jit
def words_of(sums, reach, lead, floors, taus, MARGIN: tl.constexpr, LEAST: tl.constexpr):
    """One bit for each pair that survives, and the largest u of a word's survivors: (rows, columns)
    to two of (rows, columns / 32)."""
    least = tl.minimum(reach[:, None], tl.load(floors)[None, :])
    if MARGIN:
        least = tl.minimum(least, lead[:, None] + tl.load(taus)[None, :])
    bit = (1 << tl.arange(0, 32)).to(tl.int32)[None, None, :]
    alive = tl.reshape(sums >= least, (sums.shape[0], sums.shape[1] // 32, 32))
    grouped = tl.reshape(sums, (sums.shape[0], sums.shape[1] // 32, 32))
    return tl.sum(tl.where(alive, bit, 0), axis=2), tl.max(tl.where(alive, grouped, LEAST), axis=2)


@triton.jit
def filter_kernel(
    rows,  # (row_tiles * BM, D)
    columns,  # (column_tiles * BN, D)
    offset,  # by row; so low for a row that is not there that it never survives
    start,  # by column; likewise
    floor,  # by column
    tau,  # by column, rounded down; read only with MARGIN
    thickness,  # by column: how far a lower bound lies below an upper bound
    width,  # by row, likewise
    best,  # by row, raised
    margin,  # by row, raised; only with MARGIN
    queue,  # (4, capacity) int32: row, word of columns, largest u (its bits if float32), bits
    queued,  # (1,) int64: a block and a panel may have 2^32 pairs
    capacity,
    row_tiles,
    column_tiles,
    D: tl.constexpr,
    MARGIN: tl.constexpr,
    LEAST: tl.constexpr,  # below every u
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BAND: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    in_k = tl.arange(0, BK)
    for tile in range(tl.program_id(0), row_tiles * column_tiles, PROGRAMS):
        # Tiles go through a band of row tiles column by column: rows and columns meet in the cache,
        # and a row's bound has risen before most of its columns come.
        band = tile // (BAND * column_tiles)
        first = band * BAND
        high = tl.minimum(BAND, row_tiles - first)
        within = tile - first * column_tiles
        row = (first + within % high) * BM + tl.arange(0, BM)
        column = (within // high) * BN + tl.arange(0, BN)

        sums = tl.load(offset + row)[:, None] + tl.load(start + column)[None, :]
        a = rows + row.to(tl.int64)[:, None] * D + in_k[None, :]
        b = columns + column.to(tl.int64)[:, None] * D + in_k[None, :]
        for k in range(0, D, BK):
            sums = tl.dot(tl.load(a + k), tl.trans(tl.load(b + k)), sums, out_dtype=sums.dtype)

        # The epilogue takes the tile in two halves, so that what belongs to columns needs half as
        # many registers beside the sums.
        left, right = tl.split(tl.permute(tl.reshape(sums, (BM, 2, BN // 2)), (0, 2, 1)))
        left_column = (within // high) * BN + tl.arange(0, BN // 2)
        right_column = left_column + BN // 2

        row_width = tl.load(width + row)
        best_so_far = tl.load(best + row)
        left_thickness = tl.load(thickness + left_column)
        right_thickness = tl.load(thickness + right_column)
        top = tl.maximum(
            tl.max(left - left_thickness[None, :], 1), tl.max(right - right_thickness[None, :], 1)
        )
        reach = tl.maximum(best_so_far, top - row_width)
        tl.atomic_max(best + row, reach, mask=reach > best_so_far, sem="relaxed")
        lead = reach
        if MARGIN:
            most = tl.load(margin + row)
            room = tl.maximum(
                tl.max(left - (tl.load(tau + left_column) + left_thickness)[None, :], 1),
                tl.max(right - (tl.load(tau + right_column) + right_thickness)[None, :], 1),
            )
            lead = tl.maximum(most, room - row_width)
            tl.atomic_max(margin + row, lead, mask=lead > most, sem="relaxed")
        left_words, left_most = words_of(
            left, reach, lead, floor + left_column, tau + left_column, MARGIN, LEAST
        )
        right_words, right_most = words_of(
            right, reach, lead, floor + right_column, tau + right_column, MARGIN, LEAST
        )
        words = tl.reshape(tl.join(left_words, right_words), (BM * BN // 32,))
        most_u = tl.reshape(tl.join(left_most, right_most), (BM * BN // 32,))
        some = (words != 0).to(tl.int32)
        count = tl.sum(some)
        if count > 0:
            taken = tl.atomic_add(queued, count.to(tl.int64), sem="relaxed")
            place = tl.minimum(taken, capacity).to(tl.int32) + tl.cumsum(some) - 1
            fits = (some != 0) & (place < capacity)
            # Words lie by row, then by word of a half, then by half.
            index = tl.arange(0, BM * BN // 32)
            of_row = index % (BN // 32)
            their_row = (first + within % high) * BM + index // (BN // 32)
            their_group = (within // high) * (BN // 32) + of_row % 2 * (BN // 64) + of_row // 2
            tl.store(queue + place, their_row, mask=fits)
            tl.store(queue + capacity + place, their_group, mask=fits)
            upper = most_u if most_u.dtype == tl.int32 else most_u.to(tl.int32, bitcast=True)
            tl.store(queue + 2 * capacity + place, upper, mask=fits)
            tl.store(queue + 3 * capacity + place, words, mask=fits)


def filter(
    rows: torch.Tensor,
    columns: torch.Tensor,
    row_terms: tuple[torch.Tensor, torch.Tensor],
    column_terms: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    best: torch.Tensor,
    margin: torch.Tensor | None,
    queue: torch.Tensor,
    queued: torch.Tensor,
    config: FilterConfig,
    programs: int,
) -> None:
    """Queue what survives of rows × columns.

    `row_terms` are offset and width, `column_terms` start, floor, tau and thickness, all of the
    type of the sums: int32 for int8 operands, float32 for float16.
    """
    offset, width = row_terms
    start, floor, tau, thickness = column_terms
    row_tiles, column_tiles = len(rows) // config.rows, len(columns) // config.columns
    programs = min(programs, row_tiles * column_tiles)
    filter_kernel[(programs,)](
        rows, columns, offset, start, floor, tau, thickness, width,
        best, best if margin is None else margin,
        queue, queued, queue.shape[1], row_tiles, column_tiles,
        D=rows.shape[1], MARGIN=margin is not None, LEAST=LEAST[rows.dtype],
        BM=config.rows, BN=config.columns, BK=config.depth, BAND=config.band, PROGRAMS=programs,
        num_warps=config.warps, num_stages=config.stages,
    )  # fmt: skip
