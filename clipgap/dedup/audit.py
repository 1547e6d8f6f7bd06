"""What clustering missed, estimated: a sample of rows compared with the whole store."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipgap.dedup.labels import NONE, Labels
from clipgap.dedup.plan import DedupSettings
from clipgap.dedup.rows import RowSource
from clipgap.dedup.work import BLOCK
from clipgap.intervals import LEVEL, Interval, wilson
from clipgap.kernels.options import Compute
from clipgap.kernels.pairs import make_finder


@dataclass(frozen=True)
class Audit:
    """What was found at one epsilon. A pair is missed when its rows are in different clusters."""

    epsilon: float
    sampled: int  # rows that were compared with all others
    rows_with_missed: int  # of these, rows that have a duplicate in another cluster
    found: int  # duplicates that they have in their own cluster
    missed: int  # and in others
    rows: Interval  # of all rows, those with a missed duplicate
    pairs: Interval | None  # of all duplicate pairs, those missed; None if none was met
    missed_pairs: float  # in the whole store, estimated

    def to_json(self) -> dict[str, Any]:
        return {
            "sampled": self.sampled,
            "rows_with_missed": self.rows_with_missed,
            "found": self.found,
            "missed": self.missed,
            "confidence": LEVEL,
            "rows_share": _json(self.rows),
            "pairs_share": None if self.pairs is None else _json(self.pairs),
            "missed_pairs": self.missed_pairs,
        }


def _json(share: Interval) -> dict[str, float]:
    return {"share": share.value, "low": share.low, "high": share.high}


def audit(
    settings: DedupSettings, labels: Labels, source: RowSource, compute: Compute
) -> list[Audit]:
    """One entry for each epsilon."""
    usable = int(np.count_nonzero(labels.label != NONE))
    sample = _sample(labels, settings.options.audit, settings.options.seed)
    found, missed = count_pairs(settings.limits, labels, sample, source, compute)
    return [
        judge(epsilon, usable, found[e], missed[e]) for e, epsilon in enumerate(settings.epsilons)
    ]


def count_pairs(
    limits: tuple[float, ...],
    labels: Labels,
    sample: NDArray[np.int64],
    source: RowSource,
    compute: Compute,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each limit and row of the sample, its duplicates in its own cluster and in others."""
    rows = source.take(sample, "taking a sample")
    mine = labels.label[sample]
    finder = make_finder(rows, BLOCK, compute)
    counts = np.zeros((len(limits), 2 * len(sample)), np.int64)
    for block_rows, ids in source.blocks("auditing"):
        theirs = labels.label[ids]
        for block, _ in enumerate(pairwise(finder.starts)):
            for pairs in finder.find(block_rows, block, min(limits)):
                others = pairs.where(ids[pairs.row] != sample[pairs.column])
                apart = theirs[others.row] != mine[others.column]
                slot = 2 * others.column + apart
                for e, limit in enumerate(limits):
                    near = others.score > limit
                    counts[e] += np.bincount(slot[near], minlength=counts.shape[1])
    return counts[:, 0::2], counts[:, 1::2]


def judge(
    epsilon: float, usable: int, found: NDArray[np.int64], missed: NDArray[np.int64]
) -> Audit:
    """The intervals, from the counts of each row of a sample of `usable` rows."""
    sampled, hit = len(found), int(np.count_nonzero(missed))
    return Audit(
        epsilon,
        sampled,
        hit,
        int(found.sum()),
        int(missed.sum()),
        wilson(hit, sampled),
        _share_of_pairs(found, missed),
        # Each pair is met from both of its ends.
        float(missed.sum()) * usable / max(1, sampled) / 2,
    )


def _share_of_pairs(found: NDArray[np.int64], missed: NDArray[np.int64]) -> Interval | None:
    """Pairs that share a row are no independent trials: they count as fewer.

    The variance of the ratio missed / all, over rows, says how many independent pairs would have
    told as much; Wilson's interval is that of so many. They are never more than the pairs that were
    met, nor, where nothing or everything was missed and no variance shows, than the rows that have
    a duplicate.
    """
    every = found + missed
    total, rows = int(every.sum()), int(np.count_nonzero(every))
    if not total:
        return None
    share = float(missed.sum()) / total
    trials = float(rows)
    if 0.0 < share < 1.0 and rows > 1:
        spread = float(np.sum((missed - share * every).astype(np.float64) ** 2))
        variance = spread * rows / (rows - 1) / total**2
        trials = min(float(total), share * (1 - share) / variance)
    return wilson(share * trials, trials)


def _sample(labels: Labels, rows: int, seed: int) -> NDArray[np.int64]:
    every = len(labels.label)
    random = np.random.default_rng([seed, 2])
    drawn = np.sort(random.choice(every, min(rows, every), replace=False))
    usable: NDArray[np.int64] = drawn[labels.label[drawn] != NONE]
    return usable
