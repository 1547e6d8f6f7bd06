"""The two filters, as upper bounds: u(x, t) = offset(x) + start(t) + q(x)·p(t) ≥ s(x, t).

`Grid` bounds with int8 integers (docs/exactness.md), `Half` with the float16 rows themselves and a
bound on what tensor cores lose in float32. Both give the kernel numbers of one type, in which
larger means more similar, and both round outwards: a bound may be too wide, never too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from clipgap.kernels.interface import LONGEST

BLOCK, STAGES = 128, 7
"""Coordinates and stages of a Hadamard transform; operands are padded to whole blocks."""
# Rotation and residual in float32: one rounding a stage and a few around them, on vectors no longer
# than 2.02, come to less than this.
ROTATION_ERROR = 4e-6
# A float32 sum of up to 8,192 squares, taken pairwise, is off by less than this, relatively.
SUM_ERROR = 1e-4
# Tensor cores add products of float16 in float32 and may cut where float32 would round: each of the
# d additions loses at most 2^-22 of a partial sum that is below 1.03.
HALF_LOSS = 1.03 * 2.0**-22
# The kernel's own additions and subtractions of float32 bounds below 8.
HALF_ROUNDING = 4e-6

MAX_INTEGER = 127
SMALLEST_UNIT = 2.0**-24  # so that all sums of integers stay below 2^28
SAMPLE = 4096  # test points that centre and step are chosen on
AT_ONCE = 65_536


@dataclass(frozen=True)
class Rows:
    """What the filter takes of a block of rows."""

    operand: torch.Tensor  # (places, depth)
    offset: torch.Tensor  # (places,)
    width: torch.Tensor  # (places,): u less this, less the column's thickness, is below the score


@dataclass(frozen=True)
class Columns:
    """What the filter takes of the points of a test set; `rows` in the kernel's order."""

    operand: torch.Tensor
    start: torch.Tensor
    thickness: torch.Tensor


@dataclass(frozen=True)
class Bars:
    """What a pair's upper bound has to reach one of, or it cannot matter."""

    floor: torch.Tensor  # of its column
    best: torch.Tensor  # of its row; the filter raises it by what it sees
    margin: torch.Tensor | None  # the same for what is above the column's threshold


class Quantise(Protocol):
    """Integers and measures of rows; see triton_kernels/quantise.py."""

    def __call__(
        self,
        rows: torch.Tensor,
        centre: torch.Tensor,
        signs: torch.Tensor,
        step: float,
        limit: float,
        integers: torch.Tensor,
        measures: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
    ) -> None:
        """Fill `integers` (places, padded), and shift, residual², integer², norm² of the rows."""
        ...


class LayOut(Protocol):
    """float16 rows as an operand; see triton_kernels/quantise.py."""

    def __call__(self, rows: torch.Tensor, operand: torch.Tensor) -> None:
        """Fill `operand` (places, depth) with the rows, and zeros beside them."""
        ...


class Bounds(Protocol):
    """A filter's way to bound scores."""

    operand: torch.dtype
    sums: torch.dtype
    depth: int  # length of an operand row
    always: float  # a bound that every pair reaches
    never: float  # a bound that no pair reaches
    absent: float  # offset or start of what is not there
    below_terms: torch.Tensor  # (4,) float64, by which the merge kernel does what `below` does

    def rows(self, rows: torch.Tensor, places: int) -> Rows:
        """Operands of rows (n, d), padded to `places`."""
        ...

    def columns(self, rows: torch.Tensor, places: int) -> Columns:
        """Operands of test points (m, d), padded to `places`."""
        ...

    def below(self, values: torch.Tensor) -> torch.Tensor:
        """Scores or thresholds (float64) as the kernel's numbers, rounded down."""
        ...


class Grid:
    """int8 integers on one grid for all rows and columns."""

    operand, sums = torch.int8, torch.int32
    always, never, absent = -(2.0**28), 2.0**28, -(2.0**29)

    def __init__(
        self, sample: NDArray[np.float16], device: torch.device, quantise: Quantise
    ) -> None:
        """Centre and step are chosen on a sample of the test points; any choice is correct."""
        self.device, self._quantise = device, quantise
        self.d = sample.shape[1]
        self.depth = -(-self.d // BLOCK) * BLOCK
        values = sample.astype(np.float64)
        centre = np.zeros(self.depth)
        centre[: self.d] = values.mean(axis=0).astype(np.float16)
        self.centre_sq = float(centre @ centre)
        signs = np.random.default_rng(0).choice([-1.0, 1.0], self.depth)
        self._centre = torch.tensor(centre, dtype=torch.float32, device=device)
        self._signs = torch.tensor(signs, dtype=torch.float32, device=device)
        padded = np.zeros((len(values), self.depth))
        padded[:, : self.d] = values
        self.step, self.limit = _choose_step(_rotate((padded - centre) * signs))
        self.unit = self.step**2 / BLOCK
        self.below_terms = _terms(device, self.unit, 1.0, self.always, self.never)
        self.usual_residual = self.norm_max = 0.0

    @classmethod
    def fit(
        cls,
        points: Sequence[NDArray[np.float16]],
        device: torch.device,
        quantise: Quantise,
        multiple: int,
    ) -> Grid:
        """A grid for all these test points."""
        every = max(1, sum(map(len, points)) // SAMPLE)
        grid = cls(np.concatenate([rows[::every] for rows in points]), device, quantise)
        residual, norm = [], 0.0
        for rows in points:
            for start in range(0, len(rows), AT_ONCE):
                here = torch.from_numpy(np.ascontiguousarray(rows[start : start + AT_ONCE]))
                found = grid.measure(here.to(device), -(-len(here) // multiple) * multiple)
                residual.append(found.residual.cpu())
                norm = max(norm, float(found.norm.max()))
        # The bound is split between rows and columns by the residual that nine of ten columns keep
        # to.
        ordered = torch.cat(residual).sort().values
        grid.usual_residual, grid.norm_max = float(ordered[(len(ordered) - 1) * 9 // 10]), norm
        return grid

    def measure(self, rows: torch.Tensor, places: int) -> _Measures:
        """Integers of rows (n, d), and what was lost."""
        n = len(rows)
        integers = torch.empty((places, self.depth), dtype=torch.int8, device=self.device)
        shift = torch.empty(places, dtype=torch.float64, device=self.device)
        sums = torch.empty((3, places), dtype=torch.float32, device=self.device)
        self._quantise(
            rows, self._centre, self._signs, self.step, self.limit, integers, (shift, *sums)
        )
        # The transform leaves out its factor 1/sqrt(block); lengths take it in here.
        lengths = sums[:, :n].double().sqrt() * ((1.0 + SUM_ERROR) / math.sqrt(BLOCK))
        return _Measures(
            integers, shift[:n], lengths[0] + ROTATION_ERROR, lengths[1] * self.step,
            lengths[2] + ROTATION_ERROR,
        )  # fmt: skip

    def rows(self, rows: torch.Tensor, places: int) -> Rows:
        found = self.measure(rows, places)
        excess = (found.residual - self.usual_residual).clamp_(min=0.0)
        slack = found.integer_norm * self.usual_residual + self.norm_max * excess
        offset = self._above(found.shift - self.centre_sq + slack)
        return Rows(
            found.integers,
            self._padded(offset, places),
            self._padded(self._above(2 * slack), places),
        )

    def columns(self, rows: torch.Tensor, places: int) -> Columns:
        found = self.measure(rows, places)
        grid_norm = 0.5 * self.step * math.sqrt(self.depth / BLOCK)
        longest_row = LONGEST + math.sqrt(self.centre_sq) + grid_norm + ROTATION_ERROR
        excess = (found.residual - self.usual_residual).clamp_(min=0.0)
        slack = found.norm * self.usual_residual + longest_row * excess
        start = self._above(found.shift + slack)
        # Room for the outward rounding of offset, start and the widths.
        thickness = torch.zeros(places, dtype=self.sums, device=self.device)
        thickness[: len(slack)] = self._above(2 * slack) + 8
        return Columns(found.integers, self._padded(start, places), thickness)

    def below(self, values: torch.Tensor) -> torch.Tensor:
        units: torch.Tensor = (values / self.unit).floor() - 1
        return units.clamp_(self.always, self.never).to(torch.int32)

    def _above(self, values: torch.Tensor) -> torch.Tensor:
        units: torch.Tensor = (values / self.unit).ceil() + 1
        return units.to(torch.int32)

    def _padded(self, values: torch.Tensor, places: int) -> torch.Tensor:
        out = torch.full((places,), self.absent, dtype=self.sums, device=self.device)
        out[: len(values)] = values
        return out


@dataclass(frozen=True)
class _Measures:
    integers: torch.Tensor  # (places, depth) int8
    shift: torch.Tensor  # row · centre
    residual: torch.Tensor  # upper bounds of lengths, in the scale of the rows
    integer_norm: torch.Tensor
    norm: torch.Tensor  # of the centred row


class Half:
    """The float16 rows themselves; float32 sums off by a bounded amount."""

    operand, sums = torch.float16, torch.float32
    always, never, absent = -4.0, 8.0, -8.0

    def __init__(self, d: int, device: torch.device, lay_out: LayOut) -> None:
        self.d, self.device, self._lay_out = d, device, lay_out
        self.depth = -(-d // 64) * 64
        self.slack = (self.depth + 16) * HALF_LOSS
        self.below_terms = _terms(device, 1.0, HALF_ROUNDING, self.always, self.never)

    def rows(self, rows: torch.Tensor, places: int) -> Rows:
        offset = torch.full((places,), self.absent, device=self.device)
        offset[: len(rows)] = self.slack + HALF_ROUNDING
        width = torch.full((places,), 2 * self.slack + 2 * HALF_ROUNDING, device=self.device)
        return Rows(self._operand(rows, places), offset, width)

    def columns(self, rows: torch.Tensor, places: int) -> Columns:
        start = torch.full((places,), self.absent, device=self.device)
        start[: len(rows)] = 0.0
        thickness = torch.full((places,), HALF_ROUNDING, device=self.device)
        return Columns(self._operand(rows, places), start, thickness)

    def below(self, values: torch.Tensor) -> torch.Tensor:
        return (values - HALF_ROUNDING).clamp_(self.always, self.never).float()

    def _operand(self, rows: torch.Tensor, places: int) -> torch.Tensor:
        operand = torch.empty((places, self.depth), dtype=torch.float16, device=self.device)
        self._lay_out(rows, operand)
        return operand


def _terms(device: torch.device, *terms: float) -> torch.Tensor:
    return torch.tensor(terms, dtype=torch.float64, device=device)


def _rotate(y: NDArray[np.float64]) -> NDArray[np.float64]:
    """The transform of the quantise kernel, for choosing a step."""
    blocks = y.reshape(-1, BLOCK)
    for _ in range(STAGES):
        left, right = blocks[:, 0::2], blocks[:, 1::2]
        blocks = np.concatenate([left + right, left - right], axis=1)
    return blocks.reshape(y.shape)


def _choose_step(rotated: NDArray[np.float64]) -> tuple[float, float]:
    """The step that leaves the least behind: small steps clip, large ones round."""
    # Points may all be equal, and then lie at their own centre.
    spread = max(math.sqrt(float(np.square(rotated).mean())), 1e-4)
    smallest = math.sqrt(BLOCK * SMALLEST_UNIT)
    best, chosen = math.inf, (smallest, 1.0)
    for reach in (2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0, 8.0, 12.0, 24.0):
        step = float(np.float32(max(reach * spread / MAX_INTEGER, smallest)))
        limit = max(1.0, math.floor(min(reach * spread / step, MAX_INTEGER)))
        left = rotated - step * np.clip(np.round(rotated / step), -limit, limit)
        residual = float(np.sqrt(np.square(left).sum(axis=1)).mean())
        if residual < best:
            best, chosen = residual, (step, limit)
    return chosen
