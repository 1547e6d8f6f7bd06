"""Decisions that rounded scores would change: all rows compared once more, in rounded arithmetic.

A rounded score is what a product of matrices in that arithmetic makes of the same float16 rows:
products, which float32 holds exactly, added in float32 one after another, in the order of the
dimensions; "float16" then rounds the sum. No device is asked, so the counts are the same
everywhere. TF32 takes float16 rows as they are, so its scores are those of float32.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from clipgap.dedup.labels import NONE
from clipgap.dedup.options import ARITHMETICS
from clipgap.dedup.rows import Ids
from clipgap.dedup.work import CompareWork
from clipgap.kernels.interface import MAX_SCORE
from clipgap.kernels.options import Compute
from clipgap.kernels.pairs import Pairs, make_finder
from clipgap.machine import thread_count
from clipgap.runs.how import OnProgress, Progress
from clipgap.runs.units import Step

_AT_ONCE = 2_048

Bits = NDArray[np.bool_]


@dataclass
class Flips:
    """What one arithmetic decides otherwise, at one epsilon."""

    removed: int = 0  # rows
    only_exact: int = 0  # removed by the exact scores alone
    only_rounded: int = 0  # by the rounded ones alone

    def count(self, exact: Bits, rounded: Bits) -> None:
        self.removed += int(np.count_nonzero(rounded))
        self.only_exact += int(np.count_nonzero(exact & ~rounded))
        self.only_rounded += int(np.count_nonzero(rounded & ~exact))


def count_flips(
    work: CompareWork, exact: Bits, report: OnProgress
) -> dict[str, dict[str, dict[str, int]]]:
    """By epsilon and arithmetic, against the rows (epsilons, rows) that exact scores remove."""
    epsilons = [str(epsilon) for epsilon in work.settings.epsilons]
    found: dict[str, dict[str, dict[str, int]]] = {epsilon: {} for epsilon in epsilons}
    for name in ARITHMETICS:
        counts = [Flips() for _ in epsilons]
        for ids, gone in _decide(work, name, report):
            for flips, before, now in zip(counts, exact[:, ids], gone, strict=True):
                flips.count(before, now)
        for epsilon, flips in zip(epsilons, counts, strict=True):
            found[epsilon][name] = asdict(flips)
    return found


def _decide(work: CompareWork, name: str, report: OnProgress) -> Iterator[tuple[Ids, Bits]]:
    """The rows of some clusters at a time, and which of them an arithmetic removes."""
    threads = thread_count(work.compute.threads)
    again = replace(
        work,
        compute=replace(work.compute, threads=threads),
        decide=None,
        find=partial(RoundedPairs, name, work.settings.limits),
    )
    usable = int(np.count_nonzero(work.labels.label != NONE))
    tainted, done = work.settings.tainted, 0.0

    def one(clusters: range) -> Generator[Step, None, tuple[Ids, Bits]]:
        ids, gone = yield from again.compare(clusters)
        return ids, gone if tainted is None else gone | tainted[ids]

    for clusters in work.labels.groups(work.room):
        steps = one(clusters)
        while True:
            try:
                step = next(steps)
            except StopIteration as ended:
                yield ended.value
                break
            done += step.done
            at = {"stage": f"comparing in {name}", "done": done, "total": usable, **step.more}
            report(Progress(works=True, **at))


class RoundedPairs:
    """`PairFinder` by rounded scores: exact ones too far from every limit to differ stay exact."""

    def __init__(
        self,
        name: str,
        limits: tuple[float, ...],
        columns: NDArray[np.float16],
        block: int,
        compute: Compute,
    ) -> None:
        self._finder = make_finder(columns, block, compute)
        self.starts = self._finder.starts
        self._columns, self._limits, self._to = columns, limits, np.dtype(name)
        unit = columns.shape[1] * 2.0**-24
        sums = MAX_SCORE * unit / (1.0 - unit)
        self._error = sums + float(np.finfo(self._to).eps) / 2 * (MAX_SCORE + sums)

    def find(self, rows: NDArray[np.float16], block: int, limit: float) -> Iterator[Pairs]:
        for pairs in self._finder.find(rows, block, limit - self._error):
            yield self._rounded(rows, pairs, limit)

    def among(self, block: int, limit: float) -> Pairs:
        pairs = self._finder.among(block, limit - self._error)
        return self._rounded(self._columns, pairs, limit)

    def _rounded(self, rows: NDArray[np.float16], pairs: Pairs, limit: float) -> Pairs:
        score = pairs.score.copy()
        near = [np.abs(score - each) <= self._error for each in self._limits]
        close = np.flatnonzero(np.any(near, axis=0))
        for start in range(0, len(close), _AT_ONCE):
            at = close[start : start + _AT_ONCE]
            products = rows[pairs.row[at]].astype(np.float32)
            products *= self._columns[pairs.column[at]]
            sums = np.add.accumulate(products, axis=1)[:, -1]
            score[at] = sums.astype(self._to)
        return Pairs(pairs.row, pairs.column, score).where(score > limit)
