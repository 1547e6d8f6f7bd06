"""Thresholds as rounded arithmetic finds them, from the lists of the gap.

A rounded score is within a known distance of the exact one. So the reference row that wins with
rounded numbers is among those whose exact score is almost the best, and the gap lists them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
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
from clipgap.verify.arithmetic import Arithmetic
from clipgap.verify.scan_inputs import Evidence, runs_of_rows
from clipgap.verify.scan_lists import Lists


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
    gap = open_scan(Path(made_with["path"]))
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
