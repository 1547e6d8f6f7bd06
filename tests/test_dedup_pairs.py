"""Pairs above a limit and sums by group, against NumPy in float64, by equality."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from functools import partial
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray

from clipgap.kernels import cpu, pairs
from clipgap.kernels.options import Compute
from clipgap.kernels.pairs import CpuPairs, FloatPairs, PairFinder, Pairs, make_finder
from clipgap.kernels.sums import add_to_sums
from clipgap.synthetic import rows as synthetic
from tests.kernels import KERNELS, kernel

DATA = {
    "clip-like": synthetic.clip_like(180, 64),
    "isotropic": synthetic.isotropic(80, 17),
    "equal": synthetic.adversarial("equal", 100, 40),
    "near-ties": synthetic.adversarial("near-ties", 90, 96),
    "window": synthetic.adversarial("window", 100, 64),
    "one": synthetic.isotropic(1, 3),
}


def all_pairs(finder: PairFinder, rows: NDArray[np.float16], limit: float) -> dict[object, float]:
    blocks = range(len(finder.starts) - 1)
    return listed(some for block in blocks for some in finder.find(rows, block, limit))


def all_pairs_among(finder: PairFinder, limit: float) -> dict[object, float]:
    """Those within the blocks."""
    return listed(finder.among(block, limit) for block in range(len(finder.starts) - 1))


def listed(parts: Iterable[Pairs]) -> dict[object, float]:
    found: dict[object, float] = {}
    for some in parts:
        for row, column, score in zip(some.row, some.column, some.score, strict=True):
            assert (row, column) not in found
            found[int(row), int(column)] = float(score)
    return found


def expected(
    rows: NDArray[np.float16], columns: NDArray[np.float16], limit: float
) -> dict[tuple[int, int], float]:
    scores = rows.astype(np.float64) @ columns.astype(np.float64).T
    return {(int(r), int(c)): scores[r, c] for r, c in np.argwhere(scores > limit)}


@pytest.mark.parametrize("name", [*KERNELS[:3], "float"])
@pytest.mark.parametrize("data", DATA)
def test_pairs_are_those_of_the_definition(
    name: str, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "PAIRS_AT_ONCE", 2000)  # so that rows come in several parts
    columns = DATA[data]
    rows = np.concatenate([columns[::3], columns[:5]])
    scores = rows.astype(np.float64) @ columns.astype(np.float64).T
    # The largest score and those that occur: a pair that only reaches the limit is not above it.
    limits = [scores.max(), np.median(scores), np.nextafter(scores.max(), -1), 0.9, -1.0, 0.999]
    for limit, block in product(map(float, limits), (7, 1000)):
        with nullcontext() if name == "float" else kernel(name):
            made = FloatPairs if name == "float" else partial(CpuPairs, threads=2)
            finder: PairFinder = made(columns, block)
            assert all_pairs(finder, rows, limit) == expected(rows, columns, limit)
            assert all_pairs_among(finder, limit) == {
                (row, column): score
                for (row, column), score in expected(columns, columns, limit).items()
                if row > column and row // block == column // block
            }


def test_no_rows_have_no_pairs() -> None:
    columns = synthetic.clip_like(500, 32)
    assert all_pairs(make_finder(columns, 100, Compute()), columns[:0], 0.5) == {}
    assert all_pairs(FloatPairs(columns, 100), columns[:0], 0.5) == {}


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("d", [3, 17, 64])
@pytest.mark.parametrize("built", [True, False])
def test_sums_are_exact_in_any_order(
    threads: int, d: int, built: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if built and not cpu.is_built():
        pytest.skip("the C++ kernels are not built")
    monkeypatch.setattr(cpu, "is_built", lambda: built)
    rows, groups = synthetic.isotropic(500, d), 7
    rows[::5] = np.float16(2**-24)  # subnormals count too
    group = np.random.default_rng(0).integers(0, groups - 1, len(rows)).astype(np.int32)
    exact = np.zeros((groups, d), np.int64)
    np.add.at(exact, group, np.rint(rows.astype(np.float64) * 2**24).astype(np.int64))
    for order in (np.arange(len(rows)), np.random.default_rng(1).permutation(len(rows))):
        sums = np.zeros((groups, d))
        for part in np.array_split(order, 6):
            add_to_sums(sums, rows[part], group[part], threads)
        np.testing.assert_array_equal(sums * 2**24, exact)
