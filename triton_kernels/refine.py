"""The exact scores of surviving pairs, and who wins by them.

A float64 sum of products of stored float16 numbers has no rounding (docs/exactness.md), so it may
be taken in any order. Two passes over the pairs decide a row: the first raises the row's best
score, the second finds the lowest column that has it. A float64 becomes an integer of the same
order, so that an integer atomic maximum serves.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import INTERPRETED

PAIRS = 2048 if INTERPRETED else 16  # of a program at a time: as many gathers under way at once
CHUNK = 128
WARPS = 4
DECIDE_PAIRS = 4096 if INTERPRETED else 256
ROWS = 4096 if INTERPRETED else 256  # of a program that looks at each row once
BEHIND = 2**31 - 1
"""A test row behind all others: what a row holds before any."""


@triton.jit
def order_of(score):
    """An int64 that compares as the float64 does (no NaN, no negative zero)."""
    bits = score.to(tl.int64, bitcast=True)
    return bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF)


@triton.jit
def score_kernel(
    pairs,  # (2, capacity) int32: row, column
    paired,
    capacity,
    queued,  # what the pairs were made of
    queue_capacity,
    floods,  # (1,) int64: how often a queue overflowed
    refined,  # (1,) int64
    rows,  # (n, d) float16
    columns,  # (m, d) float16
    d,
    ids,  # (n,) int64
    tau,  # (m,) float64; read only with MARGIN
    kth,  # (m,) float64: the k-th best score of each column so far
    scores,  # (capacity,) float64
    best,  # (n,) int64, in the order of `order_of`, raised
    margin,  # likewise; only with MARGIN
    candidates,  # (m,) int32: how many candidates each column has
    candidate_score,  # (m, slots) float64
    candidate_id,  # (m, slots) int64
    slots,
    MARGIN: tl.constexpr,
    PAIRS: tl.constexpr,
    CHUNK: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    found = tl.load(paired)
    if tl.program_id(0) == 0:
        lost = (found > capacity) | (tl.load(queued) > queue_capacity)
        tl.store(floods, tl.load(floods) + lost.to(tl.int64))
        tl.store(refined, tl.load(refined) + found)
    total = tl.minimum(found, capacity).to(tl.int32)
    for first in range(tl.program_id(0) * PAIRS, total, PROGRAMS * PAIRS):
        pair = first + tl.arange(0, PAIRS)
        there = pair < total
        row = tl.load(pairs + pair, mask=there, other=0)
        column = tl.load(pairs + capacity + pair, mask=there, other=0)
        x = rows + row.to(tl.int64)[:, None] * d
        t = columns + column.to(tl.int64)[:, None] * d
        score = tl.zeros((PAIRS,), tl.float64)
        for k in range(0, d, CHUNK):
            at = k + tl.arange(0, CHUNK)[None, :]
            inside = there[:, None] & (at < d)
            left = tl.load(x + at, mask=inside, other=0.0).to(tl.float64)
            right = tl.load(t + at, mask=inside, other=0.0).to(tl.float64)
            score += tl.sum(left * right, 1)
        tl.store(scores + pair, score, mask=there)
        tl.atomic_max(best + row, order_of(score), mask=there, sem="relaxed")
        if MARGIN:
            room = score - tl.load(tau + column, mask=there, other=0.0)
            tl.atomic_max(margin + row, order_of(room), mask=there, sem="relaxed")
        # Not below the k-th best: with the same score a lower id still wins.
        wins = there & (score >= tl.load(kth + column, mask=there, other=float("inf")))
        slot = tl.atomic_add(candidates + column, 1, mask=wins, sem="relaxed")
        fits = wins & (slot < slots)
        place = column.to(tl.int64) * slots + slot
        tl.store(candidate_score + place, score, mask=fits)
        tl.store(candidate_id + place, tl.load(ids + row, mask=fits, other=0), mask=fits)


@triton.jit
def leave_behind(row, inside, best, held, nearest, BEHIND: tl.constexpr):
    now = tl.load(best + row, mask=inside, other=0)
    risen = inside & (now > tl.load(held + row, mask=inside, other=0))
    tl.store(nearest + row, BEHIND, mask=risen)
    tl.store(held + row, now, mask=risen)


@triton.jit
def leave_kernel(
    n,
    best,
    best_held,  # (n,) int64: the best score that `nearest` is of
    nearest,
    margin,
    margin_held,
    witness,
    MARGIN: tl.constexpr,
    BEHIND: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    leave_behind(row, row < n, best, best_held, nearest, BEHIND)
    if MARGIN:
        leave_behind(row, row < n, margin, margin_held, witness, BEHIND)


@triton.jit
def value_of(order):
    """The float64 behind an integer of `order_of`."""
    return (order ^ ((order >> 63) & 0x7FFFFFFFFFFFFFFF)).to(tl.float64, bitcast=True)


@triton.jit
def write_kernel(
    n,
    best,
    nearest,
    margin,
    witness,
    sim,  # (n,) float64, of one set
    nn,  # (n,) int32
    margins,
    witnesses,
    fixed_margin,
    fixed_witness,
    MARGIN: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < n
    tl.store(sim + row, value_of(tl.load(best + row, mask=inside, other=0)), mask=inside)
    tl.store(nn + row, tl.load(nearest + row, mask=inside, other=0), mask=inside)
    if MARGIN:
        room = value_of(tl.load(margin + row, mask=inside, other=0))
        tl.store(margins + row, room, mask=inside)
        tl.store(witnesses + row, tl.load(witness + row, mask=inside, other=0), mask=inside)
    else:
        tl.store(margins + row, tl.zeros((ROWS,), tl.float64) + fixed_margin, mask=inside)
        tl.store(witnesses + row, tl.zeros((ROWS,), tl.int32) + fixed_witness, mask=inside)


@triton.jit
def decide_kernel(
    pairs,
    paired,
    capacity,
    scores,
    given,  # (m,) int32: the test row that a column is
    tau,
    best,
    nearest,  # (n,) int32, lowered to the lowest test row that has the best score
    margin,
    witness,
    MARGIN: tl.constexpr,
    PAIRS: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    total = tl.minimum(tl.load(paired), capacity).to(tl.int32)
    for first in range(tl.program_id(0) * PAIRS, total, PROGRAMS * PAIRS):
        pair = first + tl.arange(0, PAIRS)
        there = pair < total
        row = tl.load(pairs + pair, mask=there, other=0)
        column = tl.load(pairs + capacity + pair, mask=there, other=0)
        score = tl.load(scores + pair, mask=there, other=0.0)
        test = tl.load(given + column, mask=there, other=0)
        won = there & (order_of(score) == tl.load(best + row, mask=there, other=0))
        tl.atomic_min(nearest + row, test, mask=won, sem="relaxed")
        if MARGIN:
            room = score - tl.load(tau + column, mask=there, other=0.0)
            led = there & (order_of(room) == tl.load(margin + row, mask=there, other=0))
            tl.atomic_min(witness + row, test, mask=led, sem="relaxed")


def score(
    pairs: torch.Tensor,
    paired: torch.Tensor,
    rows: torch.Tensor,
    ids: torch.Tensor,
    columns: torch.Tensor,
    tau: torch.Tensor | None,
    kth: torch.Tensor,
    scores: torch.Tensor,
    best: torch.Tensor,
    margin: torch.Tensor,
    candidates: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    queued: torch.Tensor,
    queue_capacity: int,
    floods: torch.Tensor,
    refined: torch.Tensor,
    programs: int,
) -> None:
    """Exact scores of all pairs; raises `best` and `margin`, collects candidates of the columns,
    and adds up pairs and queues that overflowed."""
    count, candidate_score, candidate_id = candidates
    score_kernel[(programs,)](
        pairs, paired, pairs.shape[1], queued, queue_capacity, floods, refined,
        rows, columns, rows.shape[1], ids,
        kth if tau is None else tau, kth, scores, best, margin,
        count, candidate_score, candidate_id, candidate_score.shape[1],
        MARGIN=tau is not None, PAIRS=PAIRS, CHUNK=CHUNK, PROGRAMS=programs, num_warps=WARPS,
    )  # fmt: skip


def leave(
    best: torch.Tensor,
    best_held: torch.Tensor,
    nearest: torch.Tensor,
    margin: torch.Tensor,
    margin_held: torch.Tensor,
    witness: torch.Tensor,
    has_margin: bool,
) -> None:
    """A row whose maximum has risen since it was held leaves its test row behind."""
    n = len(best)
    leave_kernel[(triton.cdiv(n, ROWS),)](
        n, best, best_held, nearest, margin, margin_held, witness,
        MARGIN=has_margin, BEHIND=BEHIND, ROWS=ROWS, num_warps=WARPS,
    )  # fmt: skip


def write(
    winners: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    tables: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    fixed: tuple[float, int] | None,
) -> None:
    """What rows have won, best, nearest, margin, witness, into a set's columns of the tables (n,),
    contiguous; margin and witness are `fixed` where scores do not decide them."""
    n = len(winners[0])
    write_kernel[(triton.cdiv(n, ROWS),)](
        n, *winners, *tables, *(fixed or (0.0, 0)),
        MARGIN=fixed is None, ROWS=ROWS, num_warps=WARPS,
    )  # fmt: skip


def decide(
    pairs: torch.Tensor,
    paired: torch.Tensor,
    scores: torch.Tensor,
    given: torch.Tensor,
    tau: torch.Tensor | None,
    best: torch.Tensor,
    nearest: torch.Tensor,
    margin: torch.Tensor,
    witness: torch.Tensor,
    programs: int,
) -> None:
    """Lower `nearest` and `witness` to the first of the test rows that hold the maxima."""
    decide_kernel[(programs,)](
        pairs, paired, pairs.shape[1], scores, given, scores if tau is None else tau,
        best, nearest, margin, witness,
        MARGIN=tau is not None, PAIRS=DECIDE_PAIRS, PROGRAMS=programs, num_warps=WARPS,
    )  # fmt: skip
