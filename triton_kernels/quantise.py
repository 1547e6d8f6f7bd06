"""float16 rows to int8 integers on a common grid, with a measure of what was lost.

docs/exactness.md has the algebra. A row is centred, its signs are flipped, and each block of 128
coordinates goes through a Hadamard transform, which spreads large coordinates over the block. The
transform runs in float32 with one addition a stage, so its rounding is as small as it can be; a
product with a Hadamard matrix on tensor cores would not be bounded as well.

Operands are written as the filter reads them: row by row, or in the `Layout` of those in CUDA C++.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from . import INTERPRETED

BLOCK = 128  # coordinates in one Hadamard transform; rows are padded to whole blocks
ROWS = 64 if INTERPRETED else 32  # rows of a program
WARPS = 8


@dataclass(frozen=True)
class Layout:
    """How operands lie in memory: tiles of rows, each a sequence of slices of depth, each slice row
    by row, and the 16-byte chunks of a row permuted (csrc/cuda/layout.cuh). No tile: row by row."""

    tile: int = 0
    slice: int = 128  # bytes


ROW_BY_ROW = Layout()


@triton.jit
def place_of(row, byte, depth, TILE: tl.constexpr, SLICE: tl.constexpr):
    """Where the 16-byte chunk of a row begins with this byte, where rows have `depth` bytes."""
    if TILE == 0:
        return row.to(tl.int64) * depth + byte
    chunk = byte % SLICE // 16
    turned = chunk ^ (row % 8 if SLICE == 128 else row // 2 % 4)
    slice = (row // TILE).to(tl.int64) * (depth // SLICE) + byte // SLICE
    return (slice * TILE + row % TILE) * SLICE + turned * 16


@triton.jit
def hadamard(y, ROWS: tl.constexpr):
    """Unnormalised transform of (ROWS, 128).

    Each stage adds and subtracts neighbours and moves the two results to the two halves, which
    turns the index by one bit: after seven stages every bit has had its turn and is home again.
    """
    for _ in tl.static_range(7):
        left, right = tl.split(tl.reshape(y, (ROWS, 64, 2)))
        halves = tl.join(left + right, left - right)
        y = tl.reshape(tl.permute(halves, (0, 2, 1)), (ROWS, 128))
    return y


@triton.jit
def quantise_kernel(
    rows,  # (n, d) float16
    n,
    d,
    centre,  # (padded,) float32, zero beyond d
    signs,  # (padded,) float32, +1 or -1
    step,  # of the grid, behind the unnormalised transform
    limit,  # largest integer used, at most 127
    integers,  # (places, padded) int8
    shift,  # (places,) float64: row · centre, exact
    residual_sq,  # (places,) float32: |y - step * q|²
    integer_sq,  # (places,) float32: |q|²
    norm_sq,  # (places,) float32: |y|²
    padded: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    SLICE: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, 128)
    inside = row < n
    dot = tl.zeros((ROWS,), tl.float64)
    lost = tl.zeros((ROWS,), tl.float32)
    length = tl.zeros((ROWS,), tl.float32)
    norm = tl.zeros((ROWS,), tl.float32)
    for start in range(0, padded, 128):
        at = start + column
        there = inside[:, None] & (at < d)[None, :]
        x = tl.load(rows + row.to(tl.int64)[:, None] * d + at[None, :], mask=there, other=0.0)
        c = tl.load(centre + at)
        sign = tl.load(signs + at)
        dot += tl.sum(x.to(tl.float64) * c.to(tl.float64)[None, :], 1)
        y = hadamard((x.to(tl.float32) - c[None, :]) * sign[None, :], ROWS)
        # Half up, not to even: any grid point near y will do, the residual is measured below.
        q = tl.floor(y / step + 0.5)
        q = tl.minimum(tl.maximum(q, -limit), limit)
        e = y - step * q
        lost += tl.sum(e * e, 1)
        length += tl.sum(q * q, 1)
        norm += tl.sum(y * y, 1)
        # A row that is not there is all zero.
        q = tl.reshape(tl.where(inside[:, None], q, 0.0).to(tl.int8), (ROWS, 8, 16))
        chunk = start + 16 * tl.arange(0, 8)
        place = place_of(row[:, None], chunk[None, :], padded, TILE, SLICE)
        tl.store(integers + place[:, :, None] + tl.arange(0, 16)[None, None, :], q)
    tl.store(shift + row, dot, mask=inside)
    tl.store(residual_sq + row, lost, mask=inside)
    tl.store(integer_sq + row, length, mask=inside)
    tl.store(norm_sq + row, norm, mask=inside)


@triton.jit
def lay_out_kernel(
    rows,  # (n, d) float16
    n,
    d,
    operand,  # (places, depth) float16
    depth: tl.constexpr,
    ROWS: tl.constexpr,
    TILE: tl.constexpr,
    SLICE: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    chunk, within = 8 * tl.arange(0, 8), tl.arange(0, 8)
    for start in range(0, depth, 64):
        at = start + chunk[:, None] + within[None, :]
        there = (row < n)[:, None, None] & (at < d)[None, :, :]
        source = rows + row.to(tl.int64)[:, None, None] * d + at[None, :, :]
        place = place_of(row[:, None], 2 * (start + chunk)[None, :], 2 * depth, TILE, SLICE) // 2
        x = tl.load(source, mask=there, other=0.0)
        tl.store(operand + place[:, :, None] + within[None, None, :], x)


def quantise(
    rows: torch.Tensor,
    centre: torch.Tensor,
    signs: torch.Tensor,
    step: float,
    limit: float,
    integers: torch.Tensor,
    measures: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    layout: Layout = ROW_BY_ROW,
) -> None:
    """Fill `integers` (places, padded), and shift, residual², integer² and norm² of the rows."""
    places, padded = integers.shape
    quantise_kernel[(places // ROWS,)](
        rows, *rows.shape, centre, signs, step, limit, integers, *measures,
        padded=padded, ROWS=ROWS, TILE=layout.tile, SLICE=layout.slice, num_warps=WARPS,
    )  # fmt: skip


def lay_out(rows: torch.Tensor, operand: torch.Tensor, layout: Layout = ROW_BY_ROW) -> None:
    """Fill `operand` (places, depth) with float16 rows as they are, and with zeros beside them."""
    places, depth = operand.shape
    lay_out_kernel[(places // ROWS,)](
        rows, *rows.shape, operand,
        depth=depth, ROWS=ROWS, TILE=layout.tile, SLICE=layout.slice, num_warps=WARPS,
    )  # fmt: skip
