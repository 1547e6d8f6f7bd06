"""Candidates into the lists of the k best: each entry's place is the number of entries before it.

Counting needs no sort, follows the rule for ties as it is written down (score down, then id up),
and gives the same lists whatever the order in which candidates arrived. An id counts once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from . import INTERPRETED

CHUNK = 256 if INTERPRETED else 16
WARPS = 8


@triton.jit
def merge_kernel(
    candidates,  # (m,) int32, set back to zero
    candidate_score,  # (m, slots) float64
    candidate_id,  # (m, slots) int64
    slots,
    list_score,  # (m, k) float64
    list_id,  # (m, k) int64, -1 where unfilled
    k,
    kth,  # (m,) float64: a lower bound of each column's k-th best, raised
    floor,  # (m,): the same in the filter's numbers, rounded down
    below,  # (4,) float64: unit and room of those numbers, and their ends
    floods,  # (1,) int64: raised where a column had more candidates than slots
    ENTRIES: tl.constexpr,  # power of two, at least k + slots
    CHUNK: tl.constexpr,
):
    column = tl.program_id(0).to(tl.int64)
    came = tl.load(candidates + column)
    count = tl.minimum(came, slots)
    if count > 0:
        if came > slots:
            tl.atomic_add(floods, 1, sem="relaxed")
        entry = tl.arange(0, ENTRIES)
        old = entry < k
        new = (entry >= k) & (entry < k + count)
        score = tl.load(list_score + column * k + entry, mask=old, other=float("-inf"))
        id = tl.load(list_id + column * k + entry, mask=old, other=-1)
        late = column * slots + entry - k
        score = tl.where(new, tl.load(candidate_score + late, mask=new, other=0.0), score)
        id = tl.where(new, tl.load(candidate_id + late, mask=new, other=-1), id)
        place = tl.zeros((ENTRIES,), tl.int32)
        again = tl.zeros((ENTRIES,), tl.int32)
        for first in range(0, k + count, CHUNK):
            other = first + tl.arange(0, CHUNK)
            was_old = other < k
            was_new = (other >= k) & (other < k + count)
            s = tl.load(list_score + column * k + other, mask=was_old, other=float("-inf"))
            i = tl.load(list_id + column * k + other, mask=was_old, other=-1)
            from_late = column * slots + other - k
            s = tl.where(was_new, tl.load(candidate_score + from_late, mask=was_new, other=0.0), s)
            i = tl.where(was_new, tl.load(candidate_id + from_late, mask=was_new, other=-1), i)
            real = (i >= 0)[:, None]
            better = (s[:, None] > score[None, :]) | (
                (s[:, None] == score[None, :]) & (i[:, None] < id[None, :])
            )
            place += tl.sum((better & real).to(tl.int32), 0)
            twin = (i[:, None] == id[None, :]) & (other[:, None] < entry[None, :]) & real
            again += tl.sum(twin.to(tl.int32), 0)
        # All entries are read before the first is written over.
        tl.debug_barrier()
        doubled = (id >= 0) & (again > 0)
        if tl.sum(doubled.to(tl.int32)) > 0:
            # A second copy was counted in the place of every entry behind it.
            copy = tl.where(doubled, place, ENTRIES)
            place -= tl.sum((copy[:, None] < place[None, :]).to(tl.int32), 0)
        keep = (id >= 0) & (again == 0) & (place < k)
        tl.store(list_score + column * k + place, score, mask=keep)
        tl.store(list_id + column * k + place, id, mask=keep)
        tl.store(candidates + column, 0)
        last = tl.max(tl.where(keep & (place == k - 1), score, float("-inf")))
        bound = tl.maximum(tl.load(kth + column), last)
        tl.store(kth + column, bound)
        units = bound / tl.load(below)
        if floor.dtype.element_ty == tl.int32:
            units = tl.floor(units)
        units = tl.maximum(units - tl.load(below + 1), tl.load(below + 2))
        tl.store(floor + column, tl.minimum(units, tl.load(below + 3)).to(floor.dtype.element_ty))


def merge(
    candidates: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    list_score: torch.Tensor,
    list_id: torch.Tensor,
    bounds: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    floods: torch.Tensor,
) -> None:
    """Take all candidates into the lists (m, k), and leave none; raises the k-th bests.

    `bounds` are the k-th bests, the same in the filter's numbers, and what those are made by.
    """
    count, candidate_score, candidate_id = candidates
    m, k = list_score.shape
    slots = candidate_score.shape[1]
    merge_kernel[(m,)](
        count, candidate_score, candidate_id, slots, list_score, list_id, k, *bounds, floods,
        ENTRIES=triton.next_power_of_2(k + slots), CHUNK=CHUNK, num_warps=WARPS,
    )  # fmt: skip
