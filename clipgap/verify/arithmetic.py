"""Rounded arithmetic, emulated: inputs rounded, the dot product exact, the result rounded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FLOAT16_ULP = 2.0**-11  # relative error of rounding to 11 significant bits, which tf32 has too
_FLOAT32_ULP = 2.0**-24
_ROOM = 1.2  # for norms above 1 and for products of errors


@dataclass(frozen=True)
class Arithmetic:
    """What numbers are rounded to on their way in and out."""

    name: str
    inputs: str
    result: type[np.floating[Any]]

    @classmethod
    def named(cls, name: str) -> Arithmetic:
        return _KNOWN[name]

    @property
    def error(self) -> float:
        """How far a rounded score can be from the exact one.

        The exact one is of float16 rows, while the rows of a store may be finer.
        """
        inputs = _FLOAT32_ULP if self.inputs == "float32" else _FLOAT16_ULP
        result = _FLOAT16_ULP if self.result is np.float16 else _FLOAT32_ULP
        return _ROOM * (2 * (_FLOAT16_ULP + inputs) + result)

    def rounded(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        """Inputs as this arithmetic sees them."""
        single: NDArray[np.float32] = rows.astype(np.float32)
        if self.inputs == "float16":
            return single.astype(np.float16).astype(np.float32)
        if self.inputs == "tf32":
            # To nearest, ties to even, at 10 of the 23 bits after the point.
            bits = single.view(np.uint32)
            half = np.uint32(0x0FFF) + (bits >> np.uint32(13) & np.uint32(1))
            single = ((bits + half) & np.uint32(0xFFFFE000)).view(np.float32)
        return single

    def scores(self, rows: NDArray[np.float32], points: NDArray[np.float32]) -> NDArray[np.float64]:
        """All scores between rows (n, d) and points (m, d), both already rounded."""
        return self._rounded_result(rows.astype(np.float64) @ points.astype(np.float64).T)

    def pairwise(
        self, rows: NDArray[np.float32], points: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """The score of each row with the point at the same place."""
        products = rows.astype(np.float64) * points.astype(np.float64)
        return self._rounded_result(products.sum(axis=1))

    def _rounded_result(self, exact: NDArray[np.float64]) -> NDArray[np.float64]:
        rounded: NDArray[np.float64] = exact.astype(self.result).astype(np.float64)
        return rounded


_KNOWN = {
    "float32": Arithmetic("float32", "float32", np.float32),
    "tf32": Arithmetic("tf32", "tf32", np.float32),
    "float16": Arithmetic("float16", "float16", np.float16),
}
