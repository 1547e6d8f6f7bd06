"""What every kernel takes and gives back.

A kernel is a `Scanner`: it is built once from the test sets, is fed blocks of training rows in any
order, and answers with the exact results of `docs/exactness.md`. It never reads a file and never
sees a bad row: whoever feeds it has admitted the rows first (`clipgap.kernels.admit`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from clipgap.errors import InputError
from clipgap.memory import Lock

NO_ID = -1
"""Training id of a top-k slot that no row has filled; its score is -inf."""

LONGEST = 1.01
"""No admitted row is longer."""

MAX_SCORE = LONGEST**2
"""No score is larger, and none is smaller than its negative."""

MAX_DIM = 8192
"""Up to here the filters' own roundings stay within what their bounds allow for."""


def impossible_thresholds(tau: NDArray[np.float64]) -> NDArray[np.int64]:
    """Where thresholds are no score and not infinite either; NaN is neither.

    Margins are exact because thresholds are of the size of scores (docs/exactness.md).
    """
    return np.flatnonzero(~((np.abs(tau) <= MAX_SCORE) | np.isinf(tau)))


@dataclass(frozen=True)
class TestSet:
    """The columns of one test set: admitted float16 rows and, if there is a gap, one τ a row."""

    __test__ = False  # not a test case, whatever pytest makes of the name

    name: str
    rows: NDArray[np.float16]  # (m, d), C-contiguous
    gap: NDArray[np.float64] | None = None  # (m,); what scores can be, or -inf or +inf

    def __post_init__(self) -> None:
        if self.rows.ndim != 2 or self.rows.shape[1] > MAX_DIM:
            raise InputError(
                f"test set {self.name!r} has shape {self.rows.shape}; kernels take rows (m, d) "
                f"with d at most {MAX_DIM:,}"
            )
        if self.gap is None:
            return
        if self.gap.shape != self.rows.shape[:1]:
            raise InputError(
                f"test set {self.name!r} has {len(self.rows):,} rows, but its gap has shape "
                f"{self.gap.shape}"
            )
        if len(wrong := impossible_thresholds(self.gap)):
            value = "NaN" if np.isnan(self.gap[wrong[0]]) else f"{self.gap[wrong[0]]:.9g}"
            raise InputError(
                f"the gap of test set {self.name!r} is {value} at row {wrong[0]:,}; a threshold is "
                f"a score, so between -{MAX_SCORE:.4f} and {MAX_SCORE:.4f}, or infinite"
            )


@dataclass(frozen=True)
class BlockResult:
    """Row results of one block for G test sets; columns in the order of the sets.

    `nn` and `witness` are rows of the test set. A set without a gap has margin -inf, witness -1.
    """

    sim: NDArray[np.float64]  # (n, G)
    nn: NDArray[np.int32]  # (n, G)
    margin: NDArray[np.float64]  # (n, G), max over t of s - τ_t
    witness: NDArray[np.int32]  # (n, G)


@dataclass(frozen=True)
class TopK:
    """The k best training rows of each point of one test set: score down, then id up."""

    sim: NDArray[np.float64]  # (m, k), -inf where unfilled
    id: NDArray[np.int64]  # (m, k), NO_ID where unfilled

    def merge(self, other: TopK) -> TopK:
        """The best of both; an id that is in both counts once.

        Hundreds of workers or shares each have lists of all points. The more of them are in, the
        fewer points does the next one change, and only those are gone through: many at a time, but
        no more than caches hold, entry by entry from the best.
        """
        merged = TopK(self.sim.copy(), self.id.copy())
        (changed,) = np.nonzero(other.sim[:, 0] >= self.sim[:, -1])
        for points in np.split(changed, range(_TOGETHER, len(changed), _TOGETHER)):
            _merge_points(merged, other, points)
        return merged


_TOGETHER = 1024
"""Points. In one go all would take twice as long, about what it takes to sort them anew."""


def _merge_points(into: TopK, other: TopK, points: NDArray[np.int64]) -> None:
    ours, theirs = (TopK(some.sim[points], some.id[points]) for some in (into, other))
    k = ours.sim.shape[1]
    at_ours = at_theirs = np.arange(len(points)) * k  # the best of each that is not yet taken
    for place in range(k):
        our_sim, their_sim = ours.sim.ravel()[at_ours], theirs.sim.ravel()[at_theirs]
        our_id, their_id = ours.id.ravel()[at_ours], theirs.id.ravel()[at_theirs]
        same = our_id == their_id
        is_ours = same | (our_sim > their_sim) | ((our_sim == their_sim) & (our_id < their_id))
        into.sim[points, place] = np.where(is_ours, our_sim, their_sim)
        into.id[points, place] = np.where(is_ours, our_id, their_id)
        at_ours, at_theirs = at_ours + is_ours, at_theirs + (~is_ours | same)


@dataclass
class Counters:
    """How much work a scanner has done; these may differ from run to run, results never do."""

    rows: int = 0
    pairs: int = 0
    full_depth: int = 0  # pairs that a first look could not rule out, where there is one
    survivors: int = 0  # pairs that the filter let through
    refined: int = 0  # pairs whose float64 score was computed

    def figures(self, rows: int, operations: float, seconds: float) -> dict[str, float]:
        """How fast so many rows went, and how hard they were, by unit."""
        if not rows or not seconds:
            return {}
        return {
            "FLOP/s": operations / seconds,
            "survivors/row": self.survivors / rows,
            "refined/row": self.refined / rows,
        }


class Pending(Protocol):
    """A block that a scanner has begun."""

    def result(self) -> BlockResult:
        """Wait for it."""
        ...


class Scanner(Protocol):
    """One pass over the training rows, block by block.

    Made for lists of k rows a column; of k = 0 nobody asks for lists, so none need be kept.
    """

    name: str  # what `clipgap doctor` and the log call it, e.g. "cpu/avx2"
    ahead: int  # blocks that may be begun while an earlier one is under way
    block_rows: int  # rows of a block that suit it
    writers: int  # shards that are written at a time, by a thread each, so as not to wait for them
    lock_pages: Lock | None  # for memory that blocks are read into, where a device copies from it

    def begin_like(self, other: Scanner) -> None:
        """Take over what another one, of columns like these, has learned of how to be fast."""
        ...

    def guess(self, near: NDArray[np.int32]) -> None:
        """Of the block that is begun next: (n, G) columns that may be `nn`.

        Good guesses save work, and no guess changes a result.
        """
        ...

    def start(self, rows: NDArray[np.float16], ids: NDArray[np.int64]) -> Pending:
        """Begin what `scan` does; results are fetched in the order in which blocks were begun."""
        ...

    @property
    def counters(self) -> Counters:
        """The work so far."""
        ...

    def scan(self, rows: NDArray[np.float16], ids: NDArray[np.int64]) -> BlockResult:
        """Score a block (n, d) whose training ids are `ids`, ascending; n may be 0.

        Blocks may come in any order, and a block may come twice: top-k lists hold an id once.
        """
        ...

    def topk(self) -> list[TopK]:
        """The lists so far, one entry a test set."""
        ...

    def topk_later(self) -> Callable[[], list[TopK]]:
        """The lists so far, to be fetched by any thread; what comes after goes on meanwhile."""
        ...

    def load_topk(self, lists: list[TopK]) -> None:
        """Start from these lists."""
        ...

    def raise_bounds(self, kth: list[NDArray[np.float64]]) -> None:
        """Take note, by test set, of a score for each point that k rows of the pass reach, here or
        elsewhere; -inf where fewer are known.

        What is lower belongs in no list of the whole pass, so `topk` may lack it from now on; what
        is equal may have the smaller id. Merged with lists that hold those k rows it is complete.
        """
        ...


@dataclass(frozen=True)
class Done:
    """`Pending` that is over."""

    block: BlockResult

    def result(self) -> BlockResult:
        return self.block


class OneAtATime:
    """What makes a `Scanner` of a class whose `scan` does all the work at once."""

    ahead = 0
    block_rows = 16_384
    writers = 1
    lock_pages: Lock | None = None

    def begin_like(self, other: Scanner) -> None:
        """Nothing is learned unless a class says so."""

    def guess(self, near: NDArray[np.int32]) -> None:
        """Nor is a guess taken."""

    def scan(self, rows: NDArray[np.float16], ids: NDArray[np.int64]) -> BlockResult:
        raise NotImplementedError

    def start(self, rows: NDArray[np.float16], ids: NDArray[np.int64]) -> Pending:
        return Done(self.scan(rows, ids))

    def topk(self) -> list[TopK]:
        raise NotImplementedError

    def topk_later(self) -> Callable[[], list[TopK]]:
        lists = self.topk()
        return lambda: lists


class SomeAhead:
    """What makes a `Scanner` of a class that begins blocks and lists, which are fetched later."""

    def guess(self, near: NDArray[np.int32]) -> None:
        """Not taken: bounds of a device are looked at for many rows together."""

    def scan(self, rows: NDArray[np.float16], ids: NDArray[np.int64]) -> BlockResult:
        return self.start(rows, ids).result()

    def start(self, rows: NDArray[np.float16], ids: NDArray[np.int64]) -> Pending:
        raise NotImplementedError

    def topk(self) -> list[TopK]:
        return self.topk_later()()

    def topk_later(self) -> Callable[[], list[TopK]]:
        raise NotImplementedError
