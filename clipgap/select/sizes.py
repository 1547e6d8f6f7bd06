"""How large a split is, and what each test set took away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class Sizes:
    """Counts of rows, for one shard or for all of them."""

    sets: tuple[str, ...] = ()
    rows: int = 0
    candidates: int = 0  # rows that have scores and lie within the given keep-list
    kept: int = 0
    unlabelled: int = 0  # candidates that a table of labels does not know
    removed: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    """(sets, sets): candidates pruned by both test sets; on the diagonal by one."""
    only: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """(sets,): candidates pruned by this test set and no other."""
    at_offset: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """(sets,): candidates whose margin or score is, as float32, the limit rounded likewise."""

    @classmethod
    def zero(cls, sets: Sequence[str]) -> Sizes:
        n = len(sets)
        return cls(
            tuple(sets),
            removed=np.zeros((n, n), np.int64),
            only=np.zeros(n, np.int64),
            at_offset=np.zeros(n, np.int64),
        )

    def add(self, other: Sizes) -> None:
        self.rows += other.rows
        self.candidates += other.candidates
        self.kept += other.kept
        self.unlabelled += other.unlabelled
        self.removed += other.removed
        self.only += other.only
        self.at_offset += other.at_offset

    def count_pruned(self, pruned: Sequence[NDArray[np.bool_]]) -> None:
        """Add candidates, with one array a test set that tells which of them it prunes."""
        times = np.zeros(len(pruned[0]), np.uint16)
        for g, one in enumerate(pruned):
            times += one
            self.removed[g, g] += np.count_nonzero(one)
            for h in range(g):
                both = np.count_nonzero(one & pruned[h])
                self.removed[g, h] += both
                self.removed[h, g] += both
        self.only += [np.count_nonzero(one & (times == 1)) for one in pruned]

    def to_json(self, quarantined: int) -> dict[str, Any]:
        """For the manifest and for --json."""
        counts: dict[str, Any] = {
            "rows": self.rows,
            "quarantined": quarantined,
            "candidates": self.candidates,
            "kept": self.kept,
            "removed": self.candidates - self.kept,
        }
        if self.unlabelled:
            counts["unlabelled"] = self.unlabelled
        if self.sets:
            counts["by_set"] = {
                name: {
                    "removed": int(self.removed[g, g]),
                    "by_no_other": int(self.only[g]),
                    "at_offset": int(self.at_offset[g]),
                    "also_by": dict(zip(self.sets, self.removed[g].tolist(), strict=True)),
                }
                for g, name in enumerate(self.sets)
            }
        return counts
