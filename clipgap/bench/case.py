"""What is measured: the data of a case, and the lists of cases behind the presets."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from clipgap.kernels.interface import TestSet
from clipgap.synthetic import rows as synthetic

Preset = Literal["quick", "full"]

TRAIN_SEED, TEST_SEED = 1, 2
BLOCK = 4096
SIX_SETS = (50_000, 50_889, 30_000, 7_500, 10_000, 18_574)
"""ImageNet-Val, -Sketch, -R, -A, -V2 and ObjectNet: how 166,963 test points come in practice."""
M_SIX = sum(SIX_SETS)


@dataclass(frozen=True)
class Case:
    """Training rows of one kind against m test points; scanners keep k neighbours a test point."""

    kind: synthetic.Kind
    d: int
    m: int
    k: int = 32

    def train(self, start: int, stop: int) -> NDArray[np.float16]:
        out = np.empty((stop - start, self.d), np.float16)
        for block in range(start // BLOCK, -(-stop // BLOCK)):
            low, high = max(start, block * BLOCK), min(stop, (block + 1) * BLOCK)
            rows = _train_block(self.kind, self.d, block)
            out[low - start : high - start] = rows[low - block * BLOCK : high - block * BLOCK]
        return out

    def test(self) -> NDArray[np.float16]:
        return _test(self)

    def test_float32(self) -> NDArray[np.float32]:
        return _test_float32(self)

    @property
    def set_sizes(self) -> tuple[int, ...]:
        """Six sets where there are as many points as in the six, one otherwise."""
        return SIX_SETS if self.m == M_SIX else (self.m,)

    def test_sets(self, points: NDArray[np.float16] | None = None) -> list[TestSet]:
        """Those of the case, or so many others."""
        parts = np.split(self.test() if points is None else points, np.cumsum(self.set_sizes)[:-1])
        return [TestSet(f"set{i}", part) for i, part in enumerate(parts)]

    @property
    def flops_per_row(self) -> float:
        return 2.0 * self.m * self.d

    def __str__(self) -> str:
        return f"{self.kind}, d = {self.d}, M = {self.m:,}"


@lru_cache(maxsize=64)  # all contenders go through the same rows, some faster than others
def _train_block(kind: synthetic.Kind, d: int, block: int) -> NDArray[np.float16]:
    return synthetic.rows(kind, block * BLOCK, (block + 1) * BLOCK, d, seed=TRAIN_SEED)


@lru_cache(maxsize=1)
def _test(case: Case) -> NDArray[np.float16]:
    return synthetic.rows(case.kind, 0, case.m, case.d, seed=TEST_SEED)


@lru_cache(maxsize=1)
def _test_float32(case: Case) -> NDArray[np.float32]:
    return _test(case).astype(np.float32)


def cases(preset: Preset) -> list[Case]:
    if preset == "quick":
        return [
            Case("clip-like", 640, 1024),
            Case("clip-like", 640, 16_384),
            Case("isotropic", 640, 16_384),
        ]
    sizes, dims = (1024, 16_384, M_SIX), (512, 640, 768, 1024)
    hard: tuple[synthetic.Hard, ...] = ("equal", "duplicates", "near-ties", "window")
    return [
        *(Case("clip-like", d, m) for d in dims for m in sizes),
        *(Case("isotropic", 640, m) for m in sizes),
        *(Case("isotropic", d, 16_384) for d in dims if d != 640),
        Case("spectrum-0.55", 640, 16_384),
        Case("spectrum-0.35", 640, 16_384),
        *(Case(kind, 640, 16_384) for kind in hard),
    ]
