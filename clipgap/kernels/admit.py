"""Admission: raw rows in, checked float16 rows out. Whatever passes here *is* the embedding.

The C++ library does the work where it is built; the NumPy lines below are the definition, and give
the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.kernels import cpu
from clipgap.memory import blank

NORM_TOLERANCE = 1e-3
LANES = 8
FEW_BITS, STEPS = 2.0**-450, 2.0**600


class Status(IntEnum):
    """What admission found in a row."""

    OK = 0
    NORMALISED = 1
    ZERO = 2
    NOT_FINITE = 3


@dataclass(frozen=True)
class Admitted:
    """Rows ready to be scanned; bad rows are all zero and must not be."""

    rows: NDArray[np.float16]  # (n, d), C-contiguous
    status: NDArray[np.uint8]  # (n,), see Status
    norm: NDArray[np.float64]  # (n,), as found

    @property
    def ok(self) -> NDArray[np.bool_]:
        return self.status <= Status.NORMALISED


def admit(raw: NDArray[Any]) -> Admitted:
    """Check rows (n, d) of float16, float32 or float64.

    A row whose norm is further than 1e-3 from 1 is divided by it in float64; every row is rounded
    to float16 at most once.
    """
    if raw.dtype.kind != "f" or raw.dtype.itemsize > 8 or raw.ndim != 2:
        raise ValueError(f"expected float16, float32 or float64 rows (n, d), got {raw.dtype}")
    return _admit_in_cpp(raw) if cpu.is_built() else _admit_in_numpy(raw)


def _admit_in_cpp(raw: NDArray[Any]) -> Admitted:
    raw = np.ascontiguousarray(raw, raw.dtype.newbyteorder("="))
    status, norm = np.empty(len(raw), np.uint8), np.empty(len(raw))
    if raw.dtype == np.float16:
        cpu.admit(raw, None, status, norm)
        if not status.any():
            return Admitted(raw, status, norm)
    rows = blank(raw.shape, np.float16)
    cpu.admit(raw, rows, status, norm)
    return Admitted(rows, status, norm)


def _admit_in_numpy(raw: NDArray[Any]) -> Admitted:
    length, factor = _lengths(raw)
    with np.errstate(over="ignore"):
        norm = length / factor
    status = np.full(len(raw), Status.OK, np.uint8)
    status[np.abs(norm - 1.0) > NORM_TOLERANCE] = Status.NORMALISED
    status[length == 0.0] = Status.ZERO
    status[~np.isfinite(length)] = Status.NOT_FINITE

    bad = status >= Status.ZERO
    uneven = status == Status.NORMALISED
    if raw.dtype == np.float16 and not bad.any() and not uneven.any():
        return Admitted(np.ascontiguousarray(raw), status, norm)
    rows = np.zeros(raw.shape, np.float16)
    even = status == Status.OK
    rows[even] = raw[even].astype(np.float16)
    scaled = raw[uneven].astype(np.float64) * factor[uneven, None]
    rows[uneven] = (scaled / length[uneven, None]).astype(np.float16)
    return Admitted(rows, status, norm)


def _lengths(raw: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Norms of rows times a power of two each, and that power: not 1 for float64 rows whose squares
    would overflow or lose bits."""
    length, factor = row_norms(raw), np.ones(len(raw))
    if raw.dtype.itemsize == 8:
        factor[length < FEW_BITS] = STEPS
        factor[~np.isfinite(length)] = 1 / STEPS
        far = factor != 1
        length[far] = row_norms(raw[far] * factor[far, None])
    return length, factor


@np.errstate(over="ignore")
def row_norms(raw: NDArray[Any]) -> NDArray[np.float64]:
    """Norms in float64, summed in one fixed order so that every machine gets the same bits."""
    n, d = raw.shape
    squares = np.zeros((n, -(-d // LANES) * LANES))
    np.square(raw, out=squares[:, :d], dtype=np.float64)
    lanes = np.zeros((n, LANES))
    for start in range(0, squares.shape[1], LANES):
        lanes += squares[:, start : start + LANES]
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return np.sqrt(lanes[:, 0])
