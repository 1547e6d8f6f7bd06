"""What must be true of a split by its rule, checked on rows that were scored anew."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clipgap.keep.lists import KeepList
from clipgap.kernels.interface import BlockResult
from clipgap.scan.inputs import LoadedTest
from clipgap.select.order import by_similarity, similarity_of
from clipgap.select.rules import exceeds
from clipgap.verify.problems import Problems
from clipgap.verify.rescan import Ids


@dataclass
class Claim:
    """A sentence about a split, and the rows that contradict it."""

    name: str
    says: str
    rows: int = 0
    problems: Problems = field(default_factory=Problems)


class Claims(ABC):
    """Looks at each row that a split could have kept, once, and then knows."""

    def __init__(self, keep: KeepList) -> None:
        self._keep = keep
        self.strangers = Claim("candidates", "every kept row has scores and lies within the list")
        self.strangers.rows = keep.kept

    @abstractmethod
    def kept(self, ids: Ids, result: BlockResult) -> None: ...

    @abstractmethod
    def removed(self, ids: Ids, result: BlockResult) -> None: ...

    @abstractmethod
    def finish(self) -> list[Claim]: ...

    def note_strangers(self, shard: int, rows: NDArray[np.int64]) -> None:
        """Take kept rows that could not be kept by any rule."""
        self.strangers.problems.at(
            rows, lambda row: f"{place(self._keep, shard, row)} is kept, but is no candidate"
        )

    def at(self, id_: int) -> str:
        return row_at(self._keep, id_)


class PruneClaims(Claims):
    """(a) nothing kept exceeds a threshold; (c) everything removed exceeds one."""

    def __init__(self, keep: KeepList, tests: Sequence[LoadedTest]) -> None:
        super().__init__(keep)
        self._names = [test.name for test in tests]
        self.offset = float(keep.manifest["rule"]["offset"])
        limit = f"threshold plus {self.offset}" if self.offset else "threshold"
        self._clean = Claim("a", f"no kept row exceeds the {limit} of any test point")
        self._maximal = Claim("c", f"every removed row exceeds the {limit} of some test point")

    def kept(self, ids: Ids, result: BlockResult) -> None:
        self._clean.rows += len(ids)
        above = over(result.margin, self.offset)
        self._clean.problems.at(
            np.argwhere(above),
            lambda at: f"{self.at(ids[at[0]])} is kept, but {self._names[at[1]]} prunes it",
        )

    def removed(self, ids: Ids, result: BlockResult) -> None:
        self._maximal.rows += len(ids)
        above = over(result.margin, self.offset).any(axis=1)
        self._maximal.problems.at(
            ids[~above], lambda id_: f"{self.at(id_)} is removed, but no test set prunes it"
        )

    def finish(self) -> list[Claim]:
        return [self._clean, self._maximal]


class OrderClaims(Claims):
    """The kept rows are n, and all of them come before (far) or after (near) the removed ones."""

    def __init__(self, keep: KeepList) -> None:
        super().__init__(keep)
        rule = keep.manifest["rule"]
        self._n, self._near = int(rule["n"]), rule["name"] == "near"
        side = "after" if self._near else "before"
        self._size = Claim("size", f"exactly {self._n:,} rows are kept")
        self._order = Claim(
            "order", f"every kept row comes {side} every removed one: similarity falling, id rising"
        )
        self._ends: dict[str, tuple[int, int]] = {}

    def kept(self, ids: Ids, result: BlockResult) -> None:
        self._size.rows += len(ids)
        self._note("kept", ids, result, last=not self._near)

    def removed(self, ids: Ids, result: BlockResult) -> None:
        self._note("removed", ids, result, last=self._near)

    def finish(self) -> list[Claim]:
        if self._size.rows != self._n:
            self._size.problems.add(f"{self._size.rows:,} rows with scores are kept")
        if len(self._ends) == 2:
            kept, removed = self._ends["kept"], self._ends["removed"]
            if (kept < removed) == self._near:
                self._order.problems.add(
                    f"{self._at(kept)} is kept, but {self._at(removed)} is removed"
                )
        return [self._size, self._order]

    def _note(self, which: str, ids: Ids, result: BlockResult, *, last: bool) -> None:
        """Remember the kept and the removed row that come closest to each other."""
        self._order.rows += len(ids)
        # Rounded first, as the tables are: equal numbers there are equals.
        ranks = by_similarity(result.sim.astype(np.float32).max(axis=1) + np.float32(0))
        rank = int(ranks.max() if last else ranks.min())
        equal = ids[ranks == rank]
        end = (rank, int(equal[-1] if last else equal[0]))
        if which in self._ends:
            end = (max if last else min)(end, self._ends[which])
        self._ends[which] = end

    def _at(self, end: tuple[int, int]) -> str:
        rank, id_ = end
        return f"{self.at(id_)} with similarity {similarity_of(rank):.9g}"


def row_at(keep: KeepList, id_: int) -> str:
    """A row in words."""
    shard = bisect_right(keep.offsets, id_) - 1
    return place(keep, shard, id_ - keep.offsets[shard])


def place(keep: KeepList, shard: int, row: int) -> str:
    return f"shard {shard:,} ({keep.shards[shard].name}), row {row:,}"


def over(margin: NDArray[np.float64], offset: float) -> NDArray[np.bool_]:
    """Which exact margins exceed an offset: as they are at 0, else as the tables store them."""
    return exceeds(margin.astype(np.float32), offset) if offset else margin > 0
