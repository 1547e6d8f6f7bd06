"""Test points and thresholds in rounded arithmetic, as released code computes them.

A score is emulated as the exact dot product of the rounded inputs, rounded once more. That leaves
out the rounding inside of a sum, which differs from machine to machine and would come on top.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.errors import InputError
from clipgap.files.documents import checksum
from clipgap.kernels.admit import Status, admit
from clipgap.scan.inputs import LOAD_ROWS, LoadedTest
from clipgap.scan.result import ScanResult, open_scan
from clipgap.store.base import Store
from clipgap.store.opening import open_store
from clipgap.verify.evidence import Evidence, Lists, runs_of_rows

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


@dataclass(frozen=True)
class EmulatedTest:
    """The usable points of a test set in rounded arithmetic."""

    points: NDArray[np.float32]  # (m, d), rounded inputs
    tau: NDArray[np.float64]  # (m,), rounded thresholds
    exact: NDArray[np.float64]  # (m,)
    unsure: int  # points whose list in the gap ends before rounding could no longer matter

    @property
    def lower(self) -> int:
        """Thresholds that are lower than the exact ones."""
        return int(np.count_nonzero(self.tau < self.exact))

    @property
    def higher(self) -> int:
        return int(np.count_nonzero(self.tau > self.exact))


def load_emulated(
    scan: ScanResult, evidence: Evidence, names: Sequence[str], numbers: Arithmetic
) -> dict[str, EmulatedTest]:
    """Read test points and reference rows as they are stored, and find the rounded thresholds."""
    made_with = scan.manifest["inputs"]["gap"]
    gap = open_scan(made_with["path"])
    if checksum(gap.manifest) != made_with["manifest_sha256"]:
        raise InputError(f"{gap.label} is no longer the gap that {scan.label} was made with")
    reference = open_store(gap.manifest["inputs"]["train"]["path"])
    if reference.fingerprints() != [
        shard["fingerprint"] for shard in gap.manifest["inputs"]["train"]["shards"]
    ]:
        raise InputError(f"{reference.path} is no longer the reference store of {gap.label}")
    tests = {test.name: test for test in evidence.tests}
    return {name: _emulated(gap, reference, tests[name], numbers) for name in names}


def _emulated(
    gap: ScanResult, reference: Store, test: LoadedTest, numbers: Arithmetic
) -> EmulatedTest:
    assert test.gap is not None
    points = numbers.rounded(_stored_points(test))
    lists = Lists.read(gap, test.name)
    reach = lists.sim[:, :1] - 2 * numbers.error
    near = lists.sim >= reach
    usable = gap.rows - int(gap.manifest["counts"]["quarantined"])
    complete = lists.sim.shape[1] == usable
    unsure = 0 if complete else int(np.count_nonzero(near[:, -1:].all(axis=1)))
    point, place = np.nonzero(near)
    column = np.searchsorted(test.row_of, lists.row)[point]
    order = np.lexsort((lists.shard_row[point, place], lists.shard[point, place]))
    point, place, column = point[order], place[order], column[order]
    tau = np.full(len(points), -np.inf)
    shards = lists.shard[point, place]
    for shard in np.unique(shards):
        mine = np.flatnonzero(shards == shard)
        rows = lists.shard_row[point[mine], place[mine]]
        for part, found in _stored_rows(reference, int(shard), rows):
            at = column[mine[part]]
            np.maximum.at(tau, at, numbers.pairwise(numbers.rounded(found), points[at]))
    return EmulatedTest(points, tau, test.gap, unsure)


def _stored_rows(
    store: Store, shard: int, rows: NDArray[np.int64]
) -> Iterator[tuple[slice, NDArray[Any]]]:
    for part in runs_of_rows(rows):
        first = int(rows[part.start])
        raw = _as_scanned(store.read(shard, first, int(rows[part.stop - 1]) + 1))
        yield part, raw[rows[part] - first]


def _stored_points(test: LoadedTest) -> NDArray[Any]:
    blocks = []
    for shard in test.store.shards:
        for start in range(0, shard.rows, LOAD_ROWS):
            stop = min(start + LOAD_ROWS, shard.rows)
            blocks.append(_as_scanned(test.store.read(shard.index, start, stop)))
    return np.concatenate(blocks)[test.row_of]


def _as_scanned(raw: NDArray[Any]) -> NDArray[Any]:
    """Rows as stored, which may be finer than float16; those that a scan normalises as it does."""
    admitted = admit(raw)
    rows = raw.astype(np.float32)
    changed = admitted.status != Status.OK
    rows[changed] = admitted.rows[changed]
    return rows
